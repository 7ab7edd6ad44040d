"""The turns of a conversation, and the tools beside it, as they come in over the wire.

Tools and pictures are for the frontier alone: no other road takes them.

Clients replay what servers answered, with whatever those added. In a turn of an assistant or a tool
all that is not the turn itself is dropped. In the turns of people only keys that are known to be
additions are: an unknown one may be a mistake, and is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from serve_app.domain import Image, Message, Role, ToolCall
from serve_app.errors import InvalidRequest
from serve_app.gateway.pictures import picture
from serve_app.gateway.wire import Wire
from serve_app.json_schema import check

# What servers and clients of this ecosystem write beside the turn itself.
_ADDED = frozenset(
    {
        *("id", "object", "type", "status", "index", "model", "created", "created_at", "createdAt"),
        *("timestamp", "annotations", "refusal", "audio", "metadata", "cache_control"),
        *("additional_kwargs", "response_metadata", "provider_specific_fields"),
        *("reasoning", "reasoning_content", "reasoning_details"),
    }
)
_SAID = {"text": "text", "output_text": "text", "refusal": "refusal"}


class Loose(Wire):
    """Of this, keys that are not known here are dropped."""

    model_config = ConfigDict(extra="ignore")


class TextPart(Loose):
    type: Literal["text"]
    text: str


class ImageUrl(Loose):
    """An address that the provider can reach, or the picture itself (`data:image/png;base64,…`)."""

    url: Annotated[str, AfterValidator(picture)]
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(Loose):
    type: Literal["image_url"]
    image_url: ImageUrl


def _type(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else None


# By a function, as pydantic has no words of ours for a field's name.
Part = Annotated[
    Annotated[TextPart, Tag("text")] | Annotated[ImagePart, Tag("image_url")],
    Discriminator(
        _type,
        custom_error_type="content_part",
        custom_error_message="no road takes such a content part; send type text or image_url",
    ),
]


def _form(value: Any) -> str:
    return "parts" if isinstance(value, list) else "text"


Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Part], Tag("parts")], Discriminator(_form)
]


class FunctionCall(Loose):
    name: str = Field(min_length=1, max_length=256)
    arguments: str = "{}"


class WireToolCall(Loose):
    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"] = "function"
    function: FunctionCall


JsonSchema = Annotated[dict[str, Any], AfterValidator(check)]


class Offered(Wire):
    """What another provider's cache is told beside a tool is nothing to ours."""

    @model_validator(mode="before")
    @classmethod
    def _uncached(cls, data: Any) -> Any:
        return {k: data[k] for k in data if k != "cache_control"} if type(data) is dict else data


class Function(Offered):
    """A function of the caller's that a model may want called."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None


class Tool(Offered):
    type: Literal["function"]
    function: Function


class FunctionName(Wire):
    name: str = Field(min_length=1, max_length=64)


class NamedTool(Wire):
    type: Literal["function"]
    function: FunctionName


def _choice(value: Any) -> str:
    return "named" if isinstance(value, dict) else "mode"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("mode")]
    | Annotated[NamedTool, Tag("named")],
    Discriminator(_choice),
]


class WireMessage(Wire):
    """A turn. Content is a text, or a list of texts and, of the user, pictures."""

    role: Role
    name: str | None = Field(default=None, max_length=256)
    tool_calls: list[WireToolCall] | None = None
    tool_call_id: str | None = Field(default=None, max_length=256, validate_default=True)
    content: Content | None = Field(default=None, validate_default=True)
    function_call: Any = None

    @model_validator(mode="before")
    @classmethod
    def _replayed(cls, data: Any) -> Any:
        """The turn itself, without what was added to it on the way."""
        if not isinstance(data, dict):
            return data
        if data.get("role") == "assistant":
            data = {**data, "content": _said(data)}
        if data.get("role") in ("assistant", "tool"):
            return {k: v for k, v in data.items() if k in cls.model_fields}
        return {
            k: v for k, v in data.items() if k in cls.model_fields or not (k in _ADDED or v is None)
        }

    @field_validator("tool_calls")
    @classmethod
    def _calls(cls, calls: Any, info: ValidationInfo) -> Any:
        if calls and info.data.get("role") != "assistant":
            raise ValueError("the assistant alone calls tools")
        return calls

    @field_validator("tool_call_id")
    @classmethod
    def _names_a_call(cls, call: str | None, info: ValidationInfo) -> str | None:
        if (call is not None) != (info.data.get("role") == "tool"):
            raise ValueError("goes with role tool, and only with it")
        return call

    @field_validator("content")
    @classmethod
    def _says_something(cls, content: Any, info: ValidationInfo) -> Any:
        if content is None and info.data.get("role") != "assistant":
            raise ValueError("is missing")
        pictures = isinstance(content, list) and any(isinstance(p, ImagePart) for p in content)
        if pictures and info.data.get("role") != "user":
            raise ValueError(
                "holds a picture, which only user turns may: send it in one, after this turn"
            )
        return content

    @field_validator("function_call")
    @classmethod
    def _old(cls, call: Any) -> None:
        if call:
            raise ValueError("is an old form: send tool_calls, and the result with role tool")

    @property
    def _listed(self) -> list[TextPart | ImagePart]:
        return self.content if isinstance(self.content, list) else []

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self._listed if isinstance(part, TextPart))

    def message(self) -> Message:
        """The turn in domain terms."""
        parts = tuple(
            part.text
            if isinstance(part, TextPart)
            else Image(part.image_url.url, part.image_url.detail)
            for part in self._listed
        )
        calls = tuple(
            ToolCall(index, call.id, call.function.name, call.function.arguments)
            for index, call in enumerate(self.tool_calls or [])
        )
        return Message(
            self.role,
            self.text,
            parts if any(isinstance(part, Image) for part in parts) else (),
            calls,
            self.tool_call_id or "",
        )


def _said(turn: dict[str, Any]) -> Any:
    """What an assistant said: its content, or the refusal or spoken text that stands in for it.

    Parts that are neither text nor refusal are a server's own: thoughts, signatures, calls again.
    """
    content = turn.get("content")
    if content is None:
        audio = turn.get("audio")
        spoken = audio.get("transcript") if isinstance(audio, dict) else None
        return turn.get("refusal") or spoken
    if not isinstance(content, list):
        return content
    kept = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            kept.append(part)  # no part at all: refused by name
        elif kind in _SAID:
            kept.append({"type": "text", "text": part.get(_SAID[kind])})
    return kept


def turns(messages: Sequence[WireMessage]) -> tuple[Message, ...]:
    """The conversation in domain terms.

    Raises:
        InvalidRequest: A result that no call asked for, or a call without its one result. Some
            providers would refuse it too, and others make something up.
    """
    known: set[str] = set()
    open_calls: dict[str, str] = {}
    for number, message in enumerate(messages):
        here = f"messages[{number}]"
        if message.role == "tool":
            if open_calls.pop(message.tool_call_id or "", None) is None:
                raise _unlinked(
                    f"{here}.tool_call_id",
                    "answers no open call: a result follows the assistant turn that calls, once",
                )
            continue
        _all_answered(open_calls)
        for index, call in enumerate(message.tool_calls or []):
            place = f"{here}.tool_calls[{index}].id"
            if call.id in known:
                raise _unlinked(place, "is given twice; each call has an id of its own")
            known.add(call.id)
            open_calls[call.id] = place
    _all_answered(open_calls)
    return tuple(message.message() for message in messages)


def _all_answered(open_calls: dict[str, str]) -> None:
    for place in open_calls.values():
        raise _unlinked(place, "is not answered: send a turn of role tool for it right after")


def _unlinked(place: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{place}: {problem}", param=place)


def check_tools(tools: Sequence[Tool], choice: str | NamedTool | None) -> None:
    """Raises `InvalidRequest` for two of one name, or a choice of what is not offered."""
    names: set[str] = set()
    for number, tool in enumerate(tools):
        if tool.function.name in names:
            raise _unlinked(f"tools[{number}].function.name", "is given twice; name each once")
        names.add(tool.function.name)
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise _unlinked("tool_choice.function.name", "is not among the tools; offer it, or choose")

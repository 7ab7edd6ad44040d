"""The turns of a conversation, and the tools beside it, as they come in over the wire.

Tools and pictures are for the frontier alone: no other road takes them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from serve_app.domain import Image, Message, Role, ToolCall

# Keys that SDKs send back when they replay an assistant's message.
_REPLAYED = frozenset({"annotations", "audio", "function_call", "refusal"})
_PICTURE = r"^(https://|data:image/(png|jpeg|gif|webp);base64,)"


class Wire(BaseModel):
    """Base of everything in a request body."""

    model_config = ConfigDict(extra="forbid")


class TextPart(Wire):
    type: Literal["text"]
    text: str


class ImageUrl(Wire):
    """An address that the provider can reach, or the picture itself (`data:image/png;base64,…`)."""

    url: str = Field(pattern=_PICTURE)
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(Wire):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class FunctionCall(Wire):
    name: str = Field(min_length=1, max_length=256)
    arguments: str


class WireToolCall(Wire):
    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"] = "function"
    function: FunctionCall


class Function(Wire):
    """A function of the caller's that a model may want called."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Wire):
    type: Literal["function"]
    function: Function


class FunctionName(Wire):
    name: str = Field(min_length=1, max_length=64)


class NamedTool(Wire):
    type: Literal["function"]
    function: FunctionName


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class WireMessage(Wire):
    """A turn. Content is a text, or a list of texts and, of the user, pictures."""

    role: Role
    name: str | None = Field(default=None, max_length=64)
    tool_calls: list[WireToolCall] | None = None
    tool_call_id: str | None = Field(default=None, max_length=256, validate_default=True)
    content: str | list[Part] | None = Field(default=None, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _replayed(cls, data: Any) -> Any:
        """Accept an assistant's message as the SDK returned it."""
        if not isinstance(data, dict) or data.get("role") != "assistant":
            return data
        for key in ("function_call", "audio"):
            if data.get(key):
                raise ValueError(f"{key} is not supported")
        return {k: v for k, v in data.items() if k not in _REPLAYED}

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
        if content is None and not info.data.get("tool_calls"):
            raise ValueError("is missing")
        pictures = isinstance(content, list) and any(isinstance(p, ImagePart) for p in content)
        if pictures and info.data.get("role") != "user":
            raise ValueError("holds a picture; the user alone sends those")
        return content

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

"""What a provider's protocol makes of each parameter of a caller.

Which model answers never decides whether a request is good. What shapes the sampling is a wish: it
is passed on, brought into the provider's range, or left out, and the answer says so. What the
answer must keep (`stop`, `response_format`, `max_tokens`, tools) is passed on, or kept by us.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from serve_app.domain import Generation, Message

Protocol = Literal["openai", "openai-responses", "anthropic"]
How = Literal["passed", "bounded", "dropped", "emulated"]

_PROTOCOLS: tuple[Protocol, ...] = ("openai", "openai-responses", "anthropic")
_TABLE: Mapping[str, tuple[How, How, How]] = {
    "temperature": ("passed", "passed", "bounded"),
    "top_p": ("passed", "passed", "passed"),
    "seed": ("passed", "dropped", "dropped"),
    "presence_penalty": ("passed", "dropped", "dropped"),
    "frequency_penalty": ("passed", "dropped", "dropped"),
    "reasoning_effort": ("passed", "passed", "bounded"),
    "stop": ("passed", "emulated", "passed"),
    "response_format": ("passed", "passed", "passed"),
    "tools": ("passed", "passed", "passed"),
    "tool_choice": ("passed", "passed", "passed"),
    "parallel_tool_calls": ("passed", "passed", "passed"),
}
TABLE: Mapping[str, Mapping[Protocol, How]] = {
    name: dict(zip(_PROTOCOLS, how, strict=True)) for name, how in _TABLE.items()
}

# Wishes about how an answer comes about. A model that refuses one is asked without it.
WISHES = (
    *("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty"),
    "reasoning_effort",
)
BOUND = "max_completion_tokens"

_RANGES: Mapping[tuple[Protocol, str], tuple[float, float]] = {("anthropic", "temperature"): (0, 1)}
_LEAST_EFFORT = {"none": "low", "minimal": "low"}  # of Anthropic's models that have it
_LEAST_TOKENS: Mapping[Protocol, int] = {"openai-responses": 16}
_REMEMBERED = 1000
_IN_JSON = "Answer with one JSON object."


@dataclass(frozen=True, slots=True)
class Fitted:
    """A generation as a provider takes it.

    Attributes:
        adapted: Wishes of the caller's that are not fulfilled as they are.
        stop: Stop sequences that we keep.
        max_tokens: A bound that we keep; `None` where the provider does.
    """

    generation: Generation
    adapted: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None


@dataclass(slots=True)
class Fitting:
    """Fits generations to one model.

    Attributes:
        most: Tokens of an answer; `None` is any number.
        refused: Parameters that this model has refused, with their values, found out by asking:
            what one caller asked too much of is left to the others.
    """

    protocol: Protocol
    most: int | None = None
    refused: set[tuple[str, str]] = field(default_factory=set)

    def fit(self, generation: Generation, without: Collection[str] = ()) -> Fitted:
        """The generation as the model takes it.

        Args:
            without: Parameters that it has refused of this generation.
        """
        options, adapted = dict(generation.options), list[str]()
        stop: tuple[str, ...] = ()
        for name, value in generation.options.items():
            refused = name in without or _asked(name, value) in self.refused
            match self._how(name, value, options, refused=refused):
                case "passed":
                    pass
                case "bounded":
                    options[name] = self._bounded(name, value)
                    if options[name] != value:
                        adapted.append(name)
                case "dropped":
                    del options[name]
                    adapted.append(name)
                case "emulated":
                    stop = tuple(options.pop(name))
        bound = generation.max_tokens
        if self.most is not None and bound > self.most:
            bound = self.most
            adapted.append(BOUND)
        least_tokens = _LEAST_TOKENS.get(self.protocol, 1)
        fitted = replace(
            generation,
            messages=self._in_json(generation),
            options=options,
            max_tokens=max(bound, least_tokens),
        )
        ours = bound if bound < least_tokens else None
        return Fitted(fitted, tuple(adapted), stop, ours)

    def learn(self, param: str, value: Any) -> None:
        """Remember that the model refuses a value of a parameter."""
        if len(self.refused) >= _REMEMBERED:
            self.refused.clear()
        self.refused.add(_asked(param, value))

    def _bounded(self, name: str, value: Any) -> Any:
        if name == "reasoning_effort":
            return _LEAST_EFFORT.get(value, value)
        least, most = _RANGES[self.protocol, name]
        return min(max(value, least), most)

    def _how(self, name: str, value: Any, options: Mapping[str, Any], *, refused: bool) -> How:
        how = TABLE.get(name, {}).get(self.protocol, "passed")
        if name == "stop":
            # Anthropic takes none that is nothing but white space.
            blank = self.protocol == "anthropic" and not all(each.strip() for each in value)
            return "emulated" if blank or refused else how
        if refused:
            return "dropped"
        if (self.protocol, name) == ("anthropic", "top_p") and "temperature" in options:
            return "dropped"  # its newer models take one of the two
        return how

    def _in_json(self, generation: Generation) -> tuple[Message, ...]:
        """OpenAI refuses `json_object` where no turn speaks of JSON."""
        form = generation.options.get("response_format", {}).get("type")
        messages = generation.messages
        spoken = any("json" in each.content.lower() for each in messages)
        if form != "json_object" or spoken or self.protocol == "anthropic":
            return messages
        first, *rest = messages
        if first.role in ("system", "developer"):  # some templates take only one of them
            return (replace(first, content=f"{first.content}\n\n{_IN_JSON}"), *rest)
        return (Message("system", _IN_JSON), *messages)


def _asked(name: str, value: Any) -> tuple[str, str]:
    return name, repr(value)

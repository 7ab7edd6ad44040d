"""What an outside provider must not see is masked before a prompt leaves, and restored in answers.

Addresses, numbers and secrets become placeholders such as `<EMAIL_1>`, the same one for the same
value throughout a request, so that the model can speak of them. Names of people are not masked:
rules cannot tell them from other words.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from serve_app.domain import Delta, Generation, Message, ToolCall, wants_json
from serve_app.errors import RoadBarred
from serve_app.expressions import Expression, Patience, TooSlow
from serve_app.frontier.finding import Find, Span, finders, without_escapes
from serve_app.settings import MaskSettings

_MARK = re.compile(r"<([A-Z][A-Z0-9]{0,31})_(\d{1,9})>")
_BEGUN = re.compile(r"<(?:([A-Z][A-Z0-9]{0,31})(_\d{0,9})?)?\Z")
_LONGEST_MARK = 48

_INLINE = 2048  # characters that are masked at once; more leave the event loop
# One text at a time: threads that compute take turns with the loop, and more of them take more.
# Very long ones wait for each other alone.
_LONG = 65536
_WORKER, _WORKER_OF_LONG = ThreadPoolExecutor(1, "masking"), ThreadPoolExecutor(1, "masking-long")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Masker:
    """Finds what is to be masked.

    Attributes:
        own: The operator's expressions, by the name that placeholders have.
    """

    settings: MaskSettings
    own: tuple[tuple[str, Expression], ...]

    @classmethod
    def of(cls, settings: MaskSettings) -> Masker:
        own = [(name, Expression.of(rule)) for name, rule in settings.patterns.items()]
        return cls(settings, tuple(own))

    def begin(self, texts: Iterable[str]) -> Masks:
        """Masks for one request, whose placeholders are none that its texts hold already."""
        taken = {match[0] for text in texts for match in _MARK.finditer(text)}
        # Made for each request: what it may take is bounded for all its texts together.
        known = finders(self.settings)
        chosen = [(kind.upper(), known[kind]) for kind in known if kind in self.settings.kinds]
        own = [(name, _own(name, expression)) for name, expression in self.own]
        return Masks((*own, *chosen), len(own), taken)


@dataclass(slots=True)
class Masks:
    """The placeholders of one request, and what they stand for. Never shown to anybody.

    Attributes:
        rules: By the name that placeholders have. What several find in part is masked as a whole,
            under the name of the earliest rule.
        own: How many of them, the first ones, are the operator's.
    """

    rules: tuple[tuple[str, Find], ...] = field(repr=False)
    own: int
    taken: set[str]
    numbers: dict[str, int] = field(default_factory=dict)
    by_value: dict[tuple[str, str], str] = field(default_factory=dict, repr=False)
    by_mark: dict[str, str] = field(default_factory=dict, repr=False)

    def mask(self, text: str) -> str:
        parts: list[str] = []
        cursor = 0
        for start, end, name in self._spans(text):
            parts += (text[cursor:start], self._mark(name, text[start:end]))
            cursor = end
        return "".join((*parts, text[cursor:]))

    def mask_all(self, value: Any) -> Any:
        """The same with every text in it masked, however deep; names of fields stay."""
        match value:
            case str():
                return self.mask(value)
            case Mapping():
                return {key: self.mask_all(inner) for key, inner in value.items()}
            case list() | tuple():
                return [self.mask_all(inner) for inner in value]
        return value

    def mask_message(self, message: Message) -> Message:
        """A turn with its texts and the arguments of its calls masked. Pictures go as they are."""
        return replace(
            message,
            content=self.mask(message.content),
            parts=tuple(self.mask_all(message.parts)),
            tool_calls=tuple(
                replace(call, arguments=self.mask(call.arguments)) for call in message.tool_calls
            ),
        )

    def _spans(self, text: str) -> list[tuple[int, int, str]]:
        """What is to be masked, in order; nothing overlaps."""
        plain = without_escapes(text)
        every = sorted(
            (start, end, rank)
            for rank, (_, find) in enumerate(self.rules)
            # An operator's expression may name a backslash.
            for reading in ({text, plain} if rank < self.own else {plain})
            for start, end in find(reading)
        )
        merged: list[tuple[int, int, int]] = []
        for start, end, rank in every:
            if merged and start < merged[-1][1]:
                first, last, best = merged.pop()
                merged.append((first, max(last, end), min(best, rank)))
            else:
                merged.append((start, end, rank))
        return [(start, end, self.rules[rank][0]) for start, end, rank in merged]

    def _mark(self, name: str, value: str) -> str:
        known = self.by_value.get((name, value))
        if known is not None:
            return known
        number = self.numbers.get(name, 0) + 1
        while (mark := f"<{name}_{number}>") in self.taken:
            number += 1
        self.numbers[name] = number
        self.by_value[name, value] = mark
        self.by_mark[mark] = value
        return mark


class Restored:
    """A text that comes in pieces, with its placeholders restored.

    Args:
        written: How a value is written in that text.
    """

    def __init__(self, masks: Masks, written: Callable[[str], str] = str) -> None:
        self._marks = masks.by_mark
        self._names = list(masks.numbers)
        self._written = written
        self._held = ""

    def piece(self, text: str) -> str:
        """What is sure by now: what may be the beginning of a placeholder waits for the next."""
        if not self._marks:
            return text
        said = self._held + text
        begun = _BEGUN.search(said, max(0, len(said) - _LONGEST_MARK))
        at = begun.start() if begun and self._may_become_one(begun) else len(said)
        self._held = said[at:]
        return _MARK.sub(self._value, said[:at])

    def rest(self) -> str:
        """What was still waiting when the text ended."""
        held, self._held = self._held, ""
        return held

    def _may_become_one(self, begun: re.Match[str]) -> bool:
        name, numbered = begun[1] or "", begun[2] is not None
        return any(each == name if numbered else each.startswith(name) for each in self._names)

    def _value(self, match: re.Match[str]) -> str:
        value = self._marks.get(match[0])
        return match[0] if value is None else self._written(value)


class Masked:
    """A provider that is told nothing it must not know."""

    def __init__(
        self, ask: Callable[[Generation], AsyncGenerator[Delta]], settings: MaskSettings
    ) -> None:
        self._ask = ask
        self._masker = Masker.of(settings)

    async def generate(self, generation: Generation) -> AsyncGenerator[Delta]:
        known = [message.content for message in generation.messages]
        known += [call.arguments for message in generation.messages for call in message.tool_calls]
        known.append(json.dumps(dict(generation.options), default=str))
        size = sum(map(len, known))
        if size <= _INLINE:
            masks, asked = self._hidden(generation, known)
        else:
            worker = _WORKER if size <= _LONG else _WORKER_OF_LONG
            loop = asyncio.get_running_loop()
            masks, asked = await loop.run_in_executor(worker, self._hidden, generation, known)
        written = _in_json if wants_json(generation.options) else str
        text, refusal = Restored(masks, written), Restored(masks)
        calls = defaultdict[int, Restored](lambda: Restored(masks, _in_json))
        async with aclosing(self._ask(asked)) as deltas:
            async for delta in deltas:
                if not masks.by_mark:
                    yield delta  # nothing was masked
                    continue
                said, refused = text.piece(delta.text), refusal.piece(delta.refusal)
                pieces = [
                    replace(call, arguments=calls[call.index].piece(call.arguments))
                    for call in delta.tool_calls
                ]
                if delta.finish_reason:
                    said, refused = said + text.rest(), refused + refusal.rest()
                    rests = ((index, each.rest()) for index, each in calls.items())
                    pieces += [ToolCall(index, "", "", rest) for index, rest in rests if rest]
                yield delta.having(text=said, refusal=refused, tool_calls=tuple(pieces))

    def _hidden(self, generation: Generation, known: list[str]) -> tuple[Masks, Generation]:
        """A generation as it may leave, and what stands for what."""
        masks = self._masker.begin(known)
        asked = replace(
            generation,
            messages=tuple(masks.mask_message(message) for message in generation.messages),
            options=masks.mask_all(generation.options),
        )
        return masks, asked


def _own(name: str, expression: Expression) -> Find:
    """What an operator's expression matches in the texts of one request."""
    patience = Patience()

    def find(text: str) -> list[Span]:
        try:
            return expression.spans(text, patience)
        except TooSlow:
            log.warning("the expression frontier.mask.patterns.%s takes too long", name)
            raise RoadBarred(
                "what must be masked in this text cannot be found in time; it stays in the house"
            ) from None

    return find


def _in_json(value: str) -> str:
    """As it stands between the quotes of a JSON string."""
    return json.dumps(value, ensure_ascii=False)[1:-1]

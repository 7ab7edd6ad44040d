"""What an outside provider must not see is masked before a prompt leaves, and restored in answers.

Addresses, numbers and secrets become placeholders such as `<EMAIL_1>`, the same one for the same
value throughout a request, so that the model can speak of them. Names of people are not masked:
rules cannot tell them from other words.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import phonenumbers
from stdnum import iban, luhn

from serve_app.domain import Delta, Generation, Message, ToolCall
from serve_app.settings import MaskSettings

Span = tuple[int, int]
Find = Callable[[str], Iterable[Span]]

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}(?![\w-])")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?!\w)")
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
# Forms that providers document for their own keys, and those of RFC 7468 and RFC 7519.
_SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]{1,20000}?-----END [A-Z ]*PRIVATE KEY-----"
    r"|(?<![\w-])(?:"
    r"(?:sk|tv|pk|rk)[-_][\w-]{20,}|AKIA[0-9A-Z]{16}|AIza[\w-]{35}"
    r"|gh[pousr]_\w{36,}|github_pat_\w{50,}|glpat-[\w-]{20,}|hf_\w{30,}|xox[abeprs]-[\w-]{10,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"
    r")(?![\w-])"
)
_GAP = re.compile(r"[ -]")
_MARK = re.compile(r"<([A-Z][A-Z0-9]*)_(\d+)>")
_LONGEST_MARK = 48


@dataclass(frozen=True, slots=True)
class Masker:
    """Finds what is to be masked.

    Attributes:
        rules: By the name that placeholders have. What several find in part is masked as a whole,
            under the name of the earliest rule.
    """

    rules: tuple[tuple[str, Find], ...]

    @classmethod
    def of(cls, settings: MaskSettings) -> Masker:
        known: dict[str, Find] = {
            "secret": _by(_SECRET),
            "email": _by(_EMAIL),
            "iban": _valid(_IBAN, iban.is_valid),
            "card": _valid(_CARD, lambda text: luhn.is_valid(re.sub(r"\D", "", text))),
            "phone": _phones(settings.phone_region),
        }
        own = [(name, _by(re.compile(rule))) for name, rule in settings.patterns.items()]
        chosen = [(kind.upper(), known[kind]) for kind in known if kind in settings.kinds]
        return cls((*own, *chosen))

    def begin(self, texts: Iterable[str]) -> Masks:
        """Masks for one request, whose placeholders are none that its texts hold already."""
        taken = {match[0] for text in texts for match in _MARK.finditer(text)}
        return Masks(self, taken)

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """What is to be masked, in order; nothing overlaps."""
        every = sorted(
            (start, end, rank)
            for rank, (_, find) in enumerate(self.rules)
            for start, end in find(text)
        )
        merged: list[tuple[int, int, int]] = []
        for start, end, rank in every:
            if merged and start < merged[-1][1]:
                first, last, best = merged.pop()
                merged.append((first, max(last, end), min(best, rank)))
            else:
                merged.append((start, end, rank))
        return [(start, end, self.rules[rank][0]) for start, end, rank in merged]


@dataclass(slots=True)
class Masks:
    """The placeholders of one request, and what they stand for. Never shown to anybody."""

    masker: Masker
    taken: set[str]
    by_value: dict[tuple[str, str], str] = field(default_factory=dict, repr=False)
    by_mark: dict[str, str] = field(default_factory=dict, repr=False)

    def mask(self, text: str) -> str:
        parts, cursor = [], 0
        for start, end, name in self.masker.spans(text):
            parts += [text[cursor:start], self._mark(name, text[start:end])]
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

    def _mark(self, name: str, value: str) -> str:
        mark = self.by_value.get((name, value))
        if mark is None:
            numbered = (f"<{name}_{number}>" for number in itertools.count(1))
            mark = next(each for each in numbered if each not in self.taken)
            self.taken.add(mark)
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
        self._written = written
        self._held = ""

    def piece(self, text: str) -> str:
        """What is sure by now: what may be the beginning of a placeholder waits for the next."""
        said = self._held + text
        at = said.rfind("<", max(0, len(said) - _LONGEST_MARK))
        open_ = at >= 0 and any(
            mark.startswith(said[at:]) and mark != said[at:] for mark in self._marks
        )
        self._held = said[at:] if open_ else ""
        return _MARK.sub(self._value, said[:at] if open_ else said)

    def rest(self) -> str:
        """What was still waiting when the text ended."""
        held, self._held = self._held, ""
        return held

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
        masks = self._masker.begin([*known, json.dumps(dict(generation.options), default=str)])
        asked = replace(
            generation,
            messages=tuple(masks.mask_message(message) for message in generation.messages),
            options=masks.mask_all(generation.options),
        )
        text, calls = Restored(masks), defaultdict[int, Restored](lambda: Restored(masks, _in_json))
        async with aclosing(self._ask(asked)) as deltas:
            async for delta in deltas:
                said = text.piece(delta.text)
                pieces = [
                    replace(call, arguments=calls[call.index].piece(call.arguments))
                    for call in delta.tool_calls
                ]
                if delta.finish_reason:
                    said += text.rest()
                    rests = ((index, each.rest()) for index, each in calls.items())
                    pieces += [ToolCall(index, "", "", rest) for index, rest in rests if rest]
                yield replace(delta, text=said, tool_calls=tuple(pieces))


def _in_json(value: str) -> str:
    """As it stands between the quotes of a JSON string."""
    return json.dumps(value, ensure_ascii=False)[1:-1]


def _by(pattern: re.Pattern[str]) -> Find:
    return lambda text: (match.span() for match in pattern.finditer(text) if match[0])


def _valid(pattern: re.Pattern[str], valid: Callable[[str], bool]) -> Find:
    """Only what its check digits hold for: of what looks like one, the longest part that is one."""

    def find(text: str) -> Iterator[Span]:
        cursor = 0
        while match := pattern.search(text, cursor):
            start, cursor = match.span()
            gaps = [start + gap.start() for gap in _GAP.finditer(match[0])]
            for end in (cursor, *reversed(gaps)):
                if valid(text[start:end]):
                    yield start, end
                    cursor = end
                    break
            else:
                # Not from here; perhaps from the next group on.
                cursor = gaps[0] + 1 if gaps else cursor

    return find


def _phones(region: str | None) -> Find:
    """Numbers of a country as they are written there, and of all with their prefix."""

    def find(text: str) -> Sequence[Span]:
        matcher = phonenumbers.PhoneNumberMatcher(text, region)
        return [(match.start, match.end) for match in matcher]

    return find

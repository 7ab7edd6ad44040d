"""What an outside provider must not see is masked before a prompt leaves, and restored in answers.

Addresses, numbers and secrets become placeholders such as `<EMAIL_1>`, the same one for the same
value throughout a request, so that the model can speak of them. Names of people are not masked:
rules cannot tell them from other words.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import phonenumbers
from stdnum import iban, luhn

from serve_app.domain import Delta, Generation
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
    _held: str = field(default="", repr=False)

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

    def restore(self, text: str) -> str:
        """The text of an answer, whole."""
        return _MARK.sub(lambda match: self.by_mark.get(match[0], match[0]), text)

    def piece(self, text: str) -> str:
        """A piece of a stream. What may be the beginning of a placeholder waits for the next."""
        said = self._held + text
        at = said.rfind("<", max(0, len(said) - _LONGEST_MARK))
        open_ = at >= 0 and any(
            mark.startswith(said[at:]) and mark != said[at:] for mark in self.by_mark
        )
        self._held = said[at:] if open_ else ""
        return self.restore(said[:at] if open_ else said)

    def rest(self) -> str:
        """What was still waiting when a stream ended."""
        held, self._held = self._held, ""
        return held

    def _mark(self, name: str, value: str) -> str:
        mark = self.by_value.get((name, value))
        if mark is None:
            numbered = (f"<{name}_{number}>" for number in itertools.count(1))
            mark = next(each for each in numbered if each not in self.taken)
            self.taken.add(mark)
            self.by_value[name, value] = mark
            self.by_mark[mark] = value
        return mark


class Masked:
    """A provider that is told nothing it must not know."""

    def __init__(
        self, ask: Callable[[Generation], AsyncGenerator[Delta]], settings: MaskSettings
    ) -> None:
        self._ask = ask
        self._masker = Masker.of(settings)

    async def generate(self, generation: Generation) -> AsyncGenerator[Delta]:
        texts = [message.content for message in generation.messages]
        masks = self._masker.begin([*texts, json.dumps(dict(generation.options), default=str)])
        messages = tuple(
            replace(message, content=masks.mask(message.content)) for message in generation.messages
        )
        options = masks.mask_all(generation.options)
        asked = replace(generation, messages=messages, options=options)
        async with aclosing(self._ask(asked)) as deltas:
            async for delta in deltas:
                text = masks.piece(delta.text)
                if delta.finish_reason:
                    text += masks.rest()
                yield replace(delta, text=text)


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

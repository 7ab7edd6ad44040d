"""From facts to a note: sentences, their order, a register, and what people add or leave out."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tools.house_style.kinds import Case, Fact

REGISTERS = ("email", "chat", "dictated", "list")
_HELD = 4  # of the orders in which facts can be told, one in so many is never trained on
_TRIES = 50
_JOINED = 0.35  # how often two facts share a sentence, where there is one for both
_LABELLED = {"list": 0.7, "email": 0.08, "chat": 0.12, "dictated": 0.0}


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence before its braces are filled, and the facts it tells."""

    facts: tuple[Fact, ...]
    pattern: str


def held_order(names: Sequence[str]) -> bool:
    """Whether facts told in this order are for held-out notes alone."""
    return zlib.crc32("/".join(names).encode()) % _HELD == 0


def note(case: Case, rng: random.Random, lists: dict[str, Any], *, held: bool) -> str | None:
    """What a member of staff might write, with what they want of it before or after.

    None when no order of so few facts is of the split: make another case.
    """
    register = rng.choice(REGISTERS)
    for _ in range(_TRIES):
        sentences = _sentences(case, rng, lists, _LABELLED[register])
        if held_order([fact.name for each in sentences for fact in each.facts]) == held:
            break
    else:
        return None
    lines = [_filled(each, rng) for each in sentences]
    for _ in range(rng.choice((0, 0, 1, 1, 2)) if register != "list" else 0):
        lines.insert(rng.randint(0, len(lines)), rng.choice(lists["noise"]))
    body = _told(lines, register, rng, lists)
    asked = rng.choice(lists["instructions"][case.kind])
    return f"{asked}\n{body}" if rng.random() < 0.75 else f"{body}\n{asked}"


def _sentences(
    case: Case, rng: random.Random, lists: dict[str, Any], labelled: float
) -> list[Sentence]:
    left = {fact.name: fact for fact in case.facts}
    chosen = []
    for key in lists[case.kind]:
        names = key.split("+")
        if len(names) < 2 or not all(name in left for name in names) or rng.random() > _JOINED:
            continue
        facts = tuple(left[name] for name in names)
        if patterns := _patterns(lists[case.kind][key], facts):
            chosen.append(Sentence(facts, rng.choice(patterns)))
            for name in names:
                del left[name]
    for fact in left.values():
        if fact.label and rng.random() < labelled:
            slot = next(iter(fact.slots))
            label, mark = rng.choice(lists["labels"][fact.label]), rng.choice((": ", " - ", " = "))
            chosen.append(Sentence((fact,), f"{label}{mark}{{{slot}}}."))
        else:
            patterns = _patterns(lists[case.kind][fact.name], (fact,))
            chosen.append(Sentence((fact,), rng.choice(patterns)))
    rng.shuffle(chosen)
    return chosen


def _patterns(lists: Any, facts: Sequence[Fact]) -> list[str]:
    """Those that fit the facts' variants; none where the facts cannot be told together."""
    if isinstance(lists, dict):
        variants = [fact.variant for fact in facts if fact.variant in lists]
        lists = lists[variants[0]] if variants else []
    return list(lists)


def _filled(sentence: Sentence, rng: random.Random) -> str:
    slots = {name: write(rng) for fact in sentence.facts for name, write in fact.slots.items()}
    text = sentence.pattern if rng.random() > 0.06 else _mistyped(sentence.pattern, rng)
    return text.format(**slots)


def _mistyped(pattern: str, rng: random.Random) -> str:
    """A long word of the sentence with two letters swapped; never one of a value."""
    words = list(re.finditer(r"(?<![{\w])[A-Za-z]{6,}(?![}\w])", pattern))
    if not words:
        return pattern
    word = rng.choice(words)
    at = rng.randint(word.start() + 1, word.end() - 3)
    return pattern[:at] + pattern[at + 1] + pattern[at] + pattern[at + 2 :]


def _told(lines: list[str], register: str, rng: random.Random, lists: dict[str, Any]) -> str:
    before, after = (lists["registers"][register][part] for part in ("before", "after"))
    first = [rng.choice(before)] if rng.random() < 0.7 else []
    last = [rng.choice(after)] if rng.random() < 0.5 else []
    match register:
        case "list":
            mark = rng.choice(("- ", "* ", "• ", ""))
            return "\n".join([*first, *(mark + line.removesuffix(".") for line in lines), *last])
        case "chat":
            lines = [line.removesuffix(".") for line in lines]
            lines = [line[0].lower() + line[1:] if rng.random() < 0.7 else line for line in lines]
            return rng.choice(("\n", ", ", " / ")).join([*first, *lines, *last])
        case "dictated":
            filler = lists["fillers"]
            lines = [
                f"{rng.choice(filler).capitalize()}, {line}" if rng.random() < 0.25 else line
                for line in lines
            ]
            return " ".join([*first, *lines, *last])
        case _:
            parts = [*first, " ".join(lines), *last]
            return rng.choice(("\n\n", "\n")).join(parts)

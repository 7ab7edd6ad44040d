"""What is to be masked in a text, and where: addresses, numbers with check digits, keys, phones.

Each finder takes time in proportion to the text. What it does in Python it does in small steps, and
the expressions let other threads run while they search: a long text holds up nobody else.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import phonenumbers
import regex
from stdnum import iban

from serve_app.settings import MaskSettings

Span = tuple[int, int]
Find = Callable[[str], Iterable[Span]]

_EMAIL = regex.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}(?![\w-])")
_IBAN = regex.compile(r"(?<!\w)[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}(?!\w)")
# Thirteen digits or more, a card's least. What decides comes after the first digit: the engine is
# quick to find that.
_DIGITS = regex.compile(r"[0-9](?<![\w.-][0-9])(?=(?:[ -]?[0-9]){12})[0-9]*+(?:[ -][0-9]++)*+")
# Forms that providers document for their own keys, and that of RFC 7519.
_KEY = regex.compile(
    r"(?<![\w-])(?:"
    r"(?:sk|tv|pk|rk)[-_][\w-]{20,}|AKIA[0-9A-Z]{16}|AIza[\w-]{35}"
    r"|gh[pousr]_\w{36,}|github_pat_\w{50,}|glpat-[\w-]{20,}|hf_\w{30,}|xox[abeprs]-[\w-]{10,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"
    r")(?![\w-])"
)
_PEM = regex.compile(r"-----(BEGIN|END) [A-Z ]{0,40}PRIVATE KEY-----")  # RFC 7468
_LONGEST_PEM = 20_000

# What keys begin with, and the least that follows without a break; expressions take twice as long.
_KEY_BEGINS = (
    *(f"{name}{mark}" for name in ("sk", "tv", "pk", "rk") for mark in "-_"),
    *("AKIA", "AIza", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "hf_"),
    *("xox", "eyJ"),
)
_KEY_LEAST = 11  # characters
_IBAN_LEAST = 15  # characters without blanks
_CARD_LEAST, _CARD_MOST = 13, 19  # digits
_GOES_ON = re.compile(r"[\w-]")
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
_MOD_97 = {
    letter: (100 if value > 9 else 10, value)
    for value, letter in enumerate("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
}

# Those of a JSON text, also in one within another.
_ESCAPES = re.compile(r"(?<!\\)\\++(?:[bfnrt]|u[0-9a-fA-F]{4})")

_WINDOW, _MARGIN = 4096, 1024  # a number is far shorter than the margin
_GROUP = re.compile(r"\d+")
# So many groups of digits are read as a telephone number may be written; it takes up to a second.
_MOST_GROUPS = 20_000
_LIKE_A_PHONE = regex.compile(r"(?<!\w)[+＋(]{0,2}\d(?:[\s().\-/]{0,3}\d){4,16}(?!\w)")


def without_escapes(text: str) -> str:
    """The text with each escape of JSON as blanks, of the same length: the `n` of a written `\\n`
    is no part of the word after it.
    """
    if "\\" not in text:
        return text
    return _ESCAPES.sub(lambda escape: "\n" * len(escape[0]), text)


def finders(settings: MaskSettings) -> dict[str, Find]:
    """The finder of each kind that settings may name, by rank; for the texts of one call."""
    return {
        "secret": _secrets,
        "email": _emails,
        "iban": _ibans,
        "card": _cards,
        "phone": _phones(settings.phone_region),
    }


def _by(pattern: Any) -> Find:
    return lambda text: (match.span() for match in pattern.finditer(text, concurrent=True))


def _kinds(one: str) -> bytes:
    """A table for `bytes.translate`: 1 for the characters that an expression matches, and for what
    is not ASCII (which is encoded as a question mark), else 0."""
    matched = re.compile(one).match
    return bytes(code == ord("?") or bool(matched(chr(code))) for code in range(128)) + bytes(128)


_IN_KEYS, _IN_CARDS = _kinds(r"[\w-]"), _kinds(r"[0-9 -]")


def _has_run(text: str, kinds: bytes, least: int) -> bool:
    """Whether so many characters of some kinds follow each other; quicker than an expression."""
    return b"\1" * least in text.encode("ascii", "replace").translate(kinds)


def _emails(text: str) -> Iterable[Span]:
    return _by(_EMAIL)(text) if "@" in text else ()


def _secrets(text: str) -> Iterator[Span]:
    if _has_run(text, _IN_KEYS, _KEY_LEAST) and any(each in text for each in _KEY_BEGINS):
        yield from _by(_KEY)(text)
    begun: deque[int] = deque()
    for match in _PEM.finditer(text, concurrent=True):
        if match[1] == "BEGIN":
            begun.append(match.start())
            continue
        while begun and match.end() - begun[0] > _LONGEST_PEM:
            begun.popleft()
        if begun:
            yield begun[0], match.end()
        begun.clear()


def _ibans(text: str) -> Iterator[Span]:
    """Of what looks like one, the longest part whose check digits hold."""
    cursor = 0
    while match := _IBAN.search(text, cursor, concurrent=True):
        start, cursor = match.span()
        if end := _iban_end(match[0]):
            cursor = start + end
            yield start, cursor
        elif (gap := match[0].find(" ")) > 0:
            cursor = start + gap + 1  # not from here; perhaps from the next group on


def _iban_end(text: str) -> int:
    """By ISO 7064, MOD 97-10, and then by what each country demands; 0 if none ends in it."""
    found, rest, length = [], 0, 4
    for at, letter in enumerate(text[4:] + " ", start=4):
        if letter != " ":
            power, value = _MOD_97[letter]
            rest = (rest * power + value) % 97
            length += 1
        elif length >= _IBAN_LEAST:
            found.append((at, rest))
    head = int("".join(str(int(letter, 36)) for letter in text[:4]))
    ends = (at for at, rest in reversed(found) if (rest * 10**6 + head) % 97 == 1)
    return next((end for end in ends if iban.is_valid(text[:end])), 0)


def _cards(text: str) -> Iterator[Span]:
    """Of digits in groups, the longest ones whose sum holds (Luhn, ISO/IEC 7812-1)."""
    if not _has_run(text, _IN_CARDS, _CARD_LEAST):
        return
    for run in _DIGITS.finditer(text, concurrent=True):
        groups = list(_GROUP.finditer(text, *run.span()))
        if _GOES_ON.match(text, run.end()):
            groups.pop()
        # Sums up to each group: with every other digit doubled, beginning with the first or second.
        counts, sums = [0], [(0, 0)]
        for group in groups:
            even, odd = sums[-1]
            for letter in group[0]:
                digit = int(letter)
                even, odd = odd + digit, even + _DOUBLED[digit]
            counts.append(counts[-1] + len(group[0]))
            sums.append((even, odd))
        yield from _card_spans(text, groups, counts, sums)


def _card_spans(
    text: str,
    groups: list[re.Match[str]],
    counts: list[int],
    sums: list[tuple[int, int]],
) -> Iterator[Span]:
    first = 0
    while first < len(groups):
        last = first
        if first == 0 or text[groups[first].start() - 1] == " ":
            for end in range(first + 1, min(len(groups), first + _CARD_MOST) + 1):
                digits = counts[end] - counts[first]
                if digits > _CARD_MOST:
                    break
                # What came before counts doubled or not, by how many digits followed it.
                before = sums[first][digits % 2]
                if digits >= _CARD_LEAST and (sums[end][0] - before) % 10 == 0:
                    last = end
        if last > first:
            yield groups[first].start(), groups[last - 1].end()
        first = max(last, first + 1)


def _phones(region: str | None) -> Find:
    """Numbers of a country as they are written there, and of all with their prefix.

    Of very many numbers the rest is masked by its look alone.
    """
    groups = 0

    def find(text: str) -> Iterator[Span]:
        nonlocal groups
        for start in range(0, len(text), _WINDOW):
            own = text[start : start + _WINDOW]
            around = text[max(0, start - _MARGIN) : start + _WINDOW + _MARGIN]
            # Without a country only a number with its prefix is known.
            if region is None and "+" not in around and "＋" not in around:
                continue
            before = min(start, _MARGIN)
            groups += len(_GROUP.findall(own))
            if groups > _MOST_GROUPS:
                spans = _by(_LIKE_A_PHONE)(around)
            else:
                spans = ((m.start, m.end) for m in phonenumbers.PhoneNumberMatcher(around, region))
            for first, end in spans:
                if before <= first < before + _WINDOW:
                    yield first - before + start, end - before + start

    return find

"""Text as it is searched: what looks the same is the same, and every script has words.

What is kept of a document is `normalised`: without what nobody sees, and with letters in the form
that people type. What would change its meaning or its typography stays: superscripts, fractions,
the punctuation of Chinese. For BM25, which only knows words between blanks, `searchable` adds
behind the text what else is looked for; `shown` takes it away again.
"""

from __future__ import annotations

import itertools
import unicodedata
from functools import cache

import regex

MAX_BYTES = 16384  # of a text with what is added
# Soft hyphen, zero-width blanks, joiners of words, invisible operators; they only say where a line
# may break. The separator of `searchable` is one of them.
_INVISIBLE = regex.compile("[\u00ad\u034f\u180e\u200b\u2060-\u2064\ufeff]+")
_SEPARATOR = "\u2063"
# Between other letters, joiners and non-joiners spell words.
_BICAMERAL = r"[\p{Latin}\p{Greek}\p{Cyrillic}]"
_JOINERS = regex.compile(rf"(?<={_BICAMERAL})[\u200c\u200d]+(?={_BICAMERAL})")
# Sorting marks takes the square of their number; Unicode's stream-safe format has 30 at most.
_MARKS = regex.compile(r"(\p{M}{30})\p{M}+")
# Letters and figures in other shapes: ligatures, Roman numerals, enclosed units, mathematical
# alphabets, presentation forms, full and half width.
_SHAPES = (
    *((0x132, 0x134), (0x149, 0x14A), (0x1C4, 0x1CD), (0x1F1, 0x1F4), (0x2100, 0x2190)),
    *((0x3300, 0x3400), (0xFB00, 0xFE00), (0xFE70, 0xFF00), (0xFF01, 0xFFE0), (0x1D400, 0x1D800)),
)
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_OF_UNSPACED = regex.compile(f"[{_UNSPACED}]+")
_IN_PAIRS = regex.compile(rf"[{_UNSPACED}\p{{Hangul}}]+")


def normalised(text: str) -> str:
    """A text without invisible characters, its letters composed and in their usual shape."""
    if text.isascii():
        return text
    text = _JOINERS.sub("", _INVISIBLE.sub("", text)).translate(_shapes())
    return unicodedata.normalize("NFC", _MARKS.sub(r"\1", text))


def unspaced(text: str) -> int:
    """Characters of scripts that put no blanks between words."""
    return 0 if text.isascii() else sum(len(run) for run in _OF_UNSPACED.findall(text))


def parted(text: str) -> tuple[str, list[str]]:
    """A text without what puts no blanks between words, and pairs of letters of that, in order."""
    pairs: list[str] = []
    for run in _IN_PAIRS.findall(text):
        # No tokenizer agrees with another on marks.
        letters = [each for each in run if not unicodedata.category(each).startswith("M")]
        pairs += map("".join, itertools.pairwise(letters)) if len(letters) > 1 else letters
    return (_IN_PAIRS.sub(" ", text) if pairs else text), pairs


def searchable(text: str, most_bytes: int = MAX_BYTES) -> str:
    """A text or query and, where there are any, other words for it, as many as fit."""
    room = most_bytes - len(text.encode()) - len(_SEPARATOR.encode())
    if room <= 0 or text.isascii() or not (more := _terms(text)):
        return text
    sizes = itertools.accumulate(len(term.encode()) + 1 for term in more)
    fit = list(itertools.takewhile(lambda pair: pair[1] <= room, zip(more, sizes, strict=True)))
    return f"{text}{_SEPARATOR}{' '.join(term for term, _ in fit)}" if fit else text


def shown(stored: str) -> str:
    """The text alone."""
    return stored.partition(_SEPARATOR)[0]


def _terms(text: str) -> list[str]:
    """Pairs of letters where words are not told apart, and words whose figures are raised."""
    terms = []
    for word in text.split():
        plain = unicodedata.normalize("NFKC", _MARKS.sub(r"\1", word))
        if plain != word:
            terms.append(plain)
        between, pairs = parted(plain)
        if pairs:  # what stands between them is a word too: the figure of an article
            terms += [*between.split(), *pairs]
    return terms


@cache
def _shapes() -> dict[int, str]:
    found = {}
    for number in itertools.chain.from_iterable(itertools.starmap(range, _SHAPES)):
        letter = chr(number)
        kind = unicodedata.decomposition(letter).partition(" ")[0]
        is_word = unicodedata.category(letter)[0] in "LN" or kind == "<square>"
        if kind.startswith("<") and is_word and kind not in ("<super>", "<sub>", "<fraction>"):
            found[number] = unicodedata.normalize("NFKC", letter)
    return found

"""Bytes to text, as they say themselves: a byte that is wrong is lost alone, and counted."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable

from serve_app.errors import UnprocessableDocument

BAD_BYTES = "undecodable bytes"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_REPLACED = "\ufffd"
_FEW = 1000  # one wrong byte in so many
_LETTERS = 0.3  # more beyond ASCII are the letters of another alphabet

# What a label means on the web (https://encoding.spec.whatwg.org), where Python has another view.
_LABELS = {
    "x-sjis": "cp932",
    "ks_c_5601-1987": "cp949",
    "windows-949": "cp949",
    "x-gbk": "gb18030",
    "x-x-big5": "big5hkscs",
    "x-mac-cyrillic": "mac-cyrillic",
    "macintosh": "mac-roman",
    "unicode-1-1-utf-8": "utf-8",
}
_CODECS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    # What says so in letters of one byte each is none of these.
    **dict.fromkeys(("utf-16", "utf-16-le", "utf-16-be", "utf-32"), "utf-8"),
}
_KNOWN = re.compile(
    r"utf-8|iso8859-\d+|cp125\d|cp866|cp874|cp932|cp949|koi8-[ru]|mac-(?:roman|cyrillic)|gb18030"
    r"|big5hkscs|euc_jp|iso2022_jp"
)


def codec(label: str | None) -> str | None:
    """Python's name of the encoding that a page's label means; none for one that is unknown."""
    name = (label or "").strip().lower()
    try:
        found = codecs.lookup(_LABELS.get(name, name)).name
    except (LookupError, ValueError):
        return None
    found = _CODECS.get(found, found)
    return found if _KNOWN.fullmatch(found) else None


def decoded(name: str, data: bytes) -> tuple[str, int]:
    """A text file with `\\n` line ends, and how many bytes are lost: UTF-8, or marked UTF-16.

    Raises:
        UnprocessableDocument: It is in another encoding, or no text.
    """
    text, lost, good = _utf(data)
    if lost > good and lost * _FEW > len(data):
        raise UnprocessableDocument(f"{name}: not UTF-8 text; convert it first")
    if "\0" in text:
        raise UnprocessableDocument(f"{name}: binary data, not text; save it as UTF-8 text")
    return text.replace("\r\n", "\n").replace("\r", "\n"), lost


def page(data: bytes, label: str | None, guess: Callable[[bytes], str]) -> tuple[str, int]:
    """A page: as its mark, then its label says; without either UTF-8, then Windows-1252.

    Args:
        guess: Decodes one in the letters of another alphabet that does not say which.
    """
    declared = codec(label)
    if declared and not any(data.startswith(mark) for mark, _ in _MARKS):
        text = data.decode(declared, "replace")
        return text, _lost(text, data, declared)
    text, lost, good = _utf(data)
    if lost <= good:
        return text, lost
    if sum(byte > 127 for byte in data) > _LETTERS * len(data):
        return guess(data), 0
    text = data.decode("cp1252", "replace")
    return text, _lost(text, data, "cp1252")


def _utf(data: bytes) -> tuple[str, int, int]:
    """As Unicode: the text, bytes that are lost, and characters beyond ASCII that are right."""
    mark, name = next((pair for pair in _MARKS if data.startswith(pair[0])), (b"", "utf-8"))
    text = data.removeprefix(mark).decode(name, "replace")
    lost = _lost(text, data, name)
    good = len(text) - len(text.encode("ascii", "ignore")) - lost
    return text, lost, len(text) - lost if mark and name != "utf-8" else good


def _lost(text: str, data: bytes, name: str) -> int:
    """Places that could not be read; a page may have the mark for one itself."""
    own = data.count(_REPLACED.encode(name)) if name.startswith("utf") else 0
    return max(text.count(_REPLACED) - own, 0)

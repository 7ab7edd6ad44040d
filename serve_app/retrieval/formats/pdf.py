"""PDF, page by page: its text, then what its form is filled with."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from serve_app.errors import UnprocessableDocument
from serve_app.retrieval.formats.reading import Reading, clean, last_part, whole

if TYPE_CHECKING:
    from pypdf import PageObject, PdfReader

_DEPTH = 16  # of a field within others, at most
_PUSH_BUTTON = 1 << 16


def read(name: str, data: bytes) -> Reading:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError

    try:
        reader = PdfReader(io.BytesIO(data), strict=False)
        title = str((reader.metadata and reader.metadata.title) or "")
        left_out: Counter[str] = Counter()
        texts = [_page(reader, number, left_out) for number in range(len(reader.pages))]
        left_out["attached files"] = _attached(reader)
    except (FileNotDecryptedError, DependencyError):
        raise UnprocessableDocument(f"{name}: encrypted; save it without a password") from None
    except Exception:  # a damaged file provokes any error in pypdf
        raise UnprocessableDocument(f"{name}: not a PDF, or damaged; save it again") from None
    if not any(texts):
        reason = "damaged; save it again" if None in texts else "it may be a scan, run OCR first"
        raise UnprocessableDocument(f"{name}: holds no text; {reason}")
    pages, problems = [], []
    for number, text in enumerate(texts, 1):
        if text:
            pages.append(f"## Page {number}\n\n{text}")
        else:
            reason = "damaged" if text is None else "holds no text; it may be a scan"
            problems.append(f"{name}, page {number}: {reason}")
    title = title if clean(title).strip() else last_part(name).stem
    return Reading([whole(name, title, "\n\n".join(pages))], problems, left_out)


def _page(reader: PdfReader, number: int, left_out: Counter[str]) -> str | None:
    """The text of a page, which may be empty; none when it is damaged."""
    try:
        page = reader.pages[number]
        text = clean(page.extract_text()).strip()
    except Exception:  # the other pages may be sound
        return None
    try:
        fields = clean("\n".join(dict.fromkeys(_fields(page, left_out))))
        left_out["pictures"] += _pictures(page)
    except Exception:  # what is beside the text may be broken where the text is sound
        left_out["damaged forms"] += 1
        fields = ""
    return "\n\n".join(filter(None, (text, fields.strip())))


def _fields(page: PageObject, left_out: Counter[str]) -> Iterator[str]:
    """What is written over a page: `name: value` of each field that has one, and notes of text."""
    for reference in page.get("/Annots") or ():
        note = reference.get_object()
        kind = note.get("/Subtype")
        if kind == "/FreeText":
            yield str(note.get("/Contents", ""))
        elif kind != "/Widget":
            left_out["comments"] += kind != "/Link" and bool(note.get("/Contents"))
        elif value := _value(note):
            yield f"{_inherited(note, '/TU') or _inherited(note, '/T') or 'field'}: {value}"


def _value(field: Any) -> str:
    kind, value = _inherited(field, "/FT"), _inherited(field, "/V")
    if value is None or kind == "/Sig":
        return ""
    if kind == "/Btn":
        if int(_inherited(field, "/Ff") or 0) & _PUSH_BUTTON:
            return ""
        # Of buttons that share a value, the one that shows it.
        shown = field.get("/AS", value)
        return "" if shown == "/Off" else str(shown).removeprefix("/")
    values = value if isinstance(value, list) else [value]
    return ", ".join(" ".join(str(each.get_object()).split()) for each in values)


def _inherited(field: Any, key: str) -> Any:
    """A property of a field, or of the one that it is a part of."""
    for _ in range(_DEPTH):
        if (found := field.get(key)) is not None:
            return found.get_object()
        if (parent := field.get("/Parent")) is None:
            return None
        field = parent.get_object()
    return None


def _pictures(page: PageObject) -> int:
    resources = page.get("/Resources")
    drawn = resources.get_object().get("/XObject") if resources else None
    found = drawn.get_object().values() if drawn else ()
    return sum(each.get_object().get("/Subtype") == "/Image" for each in found)


def _attached(reader: PdfReader) -> int:
    try:
        return sum(1 for _ in reader.attachment_list)
    except Exception:  # as above
        return 0

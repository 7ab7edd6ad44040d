"""PDF, page by page."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from serve_app.errors import UnprocessableDocument
from serve_app.retrieval.formats.reading import Reading, clean, last_part, whole

if TYPE_CHECKING:
    from pypdf import PdfReader


def read(name: str, data: bytes) -> Reading:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError

    try:
        reader = PdfReader(io.BytesIO(data), strict=False)
        title = str((reader.metadata and reader.metadata.title) or "")
        texts = [_page(reader, number) for number in range(len(reader.pages))]
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
    return Reading([whole(name, title, "\n\n".join(pages))], problems)


def _page(reader: PdfReader, number: int) -> str | None:
    """The text of a page, which may be empty; none when it is damaged."""
    try:
        return clean(reader.pages[number].extract_text()).strip()
    except Exception:  # the other pages may be sound
        return None

"""DOCX: headings, lists and tables in the order of the document, as Markdown."""

from __future__ import annotations

import io
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from serve_app.errors import UnprocessableDocument
from serve_app.retrieval.formats.reading import Reading, whole

if TYPE_CHECKING:
    from docx.document import Document as WordDocument

_MAX_INFLATED = 256 * 2**20  # bytes
_MAX_INFLATION = 200  # times the size of the file
_WRAPPERS = ("w:sdt", "w:sdtContent", "w:ins", "w:smartTag", "w:customXml")


def read(name: str, data: bytes) -> Reading:
    import docx

    try:
        word = docx.Document(_inflated(name, data))
        text = "\n\n".join(_blocks(word))
        title = word.core_properties.title
    except UnprocessableDocument:
        raise
    except Exception:  # zipfile, lxml and python-docx each have their own errors
        raise UnprocessableDocument(
            f"{name}: not a DOCX file, damaged, or locked; save it as DOCX without a password"
        ) from None
    # What python-docx makes up for a file without properties.
    return Reading([whole(name, "" if title == "Word Document" else title, text)], [])


def _inflated(name: str, data: bytes) -> io.BytesIO:
    """The archive without compression, bounded by sizes which its directory cannot understate."""
    copy = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(copy, "w") as plain:
        entries = archive.infolist()
        if sum(e.file_size for e in entries) > min(_MAX_INFLATED, _MAX_INFLATION * len(data)):
            raise UnprocessableDocument(f"{name}: inflates beyond all bounds; split it")
        for entry in {e.filename: e for e in entries}.values():
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise zipfile.BadZipFile
            with archive.open(entry) as source, plain.open(entry.filename, "w") as target:
                shutil.copyfileobj(source, target, 2**16)
    return copy


def _blocks(word: WordDocument) -> Iterator[str]:
    """Paragraphs and tables in document order."""
    from docx.oxml.ns import qn
    from docx.text.paragraph import Paragraph

    # Content controls and tracked insertions hide the text they hold from python-docx.
    for wrapper in list(word.element.body.iter(*map(qn, _WRAPPERS))):
        for child in list(wrapper):
            wrapper.addprevious(child)
        wrapper.getparent().remove(wrapper)
    for block in word.iter_inner_content():
        if isinstance(block, Paragraph):
            yield _styled(block.text.strip(), (block.style and block.style.name) or "")
        else:  # not by `block.rows`: they repeat merged cells and leave nested tables out
            rows = ([_words(cell.iter(qn("w:p"))) for cell in r.tc_lst] for r in block._tbl.tr_lst)
            yield "\n".join(" | ".join(cells) for cells in rows if any(cells))


def _words(paragraphs: Iterable[Any]) -> str:
    return " ".join(" ".join(paragraph.text for paragraph in paragraphs).split())


def _styled(text: str, style: str) -> str:
    heading = re.match(r"Title$|Heading ([1-9])", style)
    if text and heading:
        return f"{'#' * min(int(heading[1] or 1), 6)} {' '.join(text.split())}"
    return f"- {text}" if text and style.startswith("List") else text

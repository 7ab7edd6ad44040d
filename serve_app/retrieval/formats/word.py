"""DOCX: headings, lists and tables in the order of the document, as Markdown.

Text boxes stand behind the paragraph they hang on, footnotes behind the one that refers to them,
headers of pages before the text and footers behind it.
"""

from __future__ import annotations

import io
import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from serve_app.errors import UnprocessableDocument
from serve_app.retrieval.formats.formulas import in_line
from serve_app.retrieval.formats.reading import Reading, whole

if TYPE_CHECKING:
    from docx.document import Document as WordDocument

_MAX_INFLATED = 256 * 2**20  # bytes
_MAX_INFLATION = 200  # times the size of the file
_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_MC = "http://schemas.openxmlformats.org/markup-compatibility/2006"


def read(name: str, data: bytes) -> Reading:
    import docx

    try:
        word = docx.Document(_inflated(name, data))
        story = _Story(word)
        text = "\n\n".join(filter(None, story.blocks()))
        title = word.core_properties.title
    except UnprocessableDocument:
        raise
    except Exception:  # zipfile, lxml and python-docx each have their own errors
        raise UnprocessableDocument(
            f"{name}: not a DOCX file, damaged, or locked; save it as DOCX without a password"
        ) from None
    # What python-docx makes up for a file without properties.
    document = whole(name, "" if title == "Word Document" else title, text)
    return Reading([document], [], story.left_out)


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


def _w(*names: str) -> frozenset[str]:
    return frozenset(f"{{{_W}}}{name}" for name in names)


_PARAGRAPH, _TABLE, _BOX = f"{{{_W}}}p", f"{{{_W}}}tbl", f"{{{_W}}}txbxContent"
# What hides the text it holds from python-docx.
_WRAPPERS = _w("sdt", "sdtContent", "ins", "moveTo", "smartTag", "customXml", "fldSimple")
_WRAPPERS |= _w("dir", "bdo") | {f"{{{_MC}}}AlternateContent", f"{{{_MC}}}Choice"}
_REMOVED = _w("del", "moveFrom", "rPrChange", "pPrChange")
_FALLBACK = f"{{{_MC}}}Fallback"  # the same once more, for older programs
_BREAKS = {**dict.fromkeys(_w("br", "cr"), "\n"), **dict.fromkeys(_w("tab", "ptab"), "\t")}
_BREAKS |= dict.fromkeys(_w("noBreakHyphen"), "-")
_COUNTED = {
    **dict.fromkeys(("pic", "imagedata"), "pictures"),
    **dict.fromkeys(("chart", "relIds"), "charts and diagrams"),
    "OLEObject": "embedded files",
    "commentReference": "comments",
}
_NUMBERED = re.compile(r"\b(?:PAGE|NUMPAGES|SECTIONPAGES)\b")


class _Story:
    """The text of a document, block by block, and what is left out of it."""

    def __init__(self, word: WordDocument) -> None:
        self.left_out: Counter[str] = Counter()
        self._word = word
        self._styles = {style.style_id: str(style.name or "") for style in word.styles}
        self._notes = {kind: _notes(word, kind) for kind in ("footnote", "endnote")}

    def blocks(self) -> Iterator[str]:
        """Headers, the text, footers."""
        body = self._word.element.body
        yield from self._around(body, "header")
        footers = list(self._around(body, "footer"))
        self._prepare(body)
        yield from self._within(body)
        yield from footers

    def _around(self, body: Any, kind: str) -> Iterator[str]:
        """Headers or footers of pages, each once, but for those that only number them."""
        said = set()
        for reference in list(body.iter(*_w(f"{kind}Reference"))):
            part = self._word.part.related_parts[reference.get(_RELATION)]
            for paragraph in list(part.element.iter(_PARAGRAPH)):
                told = [each.text or "" for each in paragraph.iter(*_w("instrText"))]
                fields = paragraph.iter(*_w("fldSimple"))
                told += [each.get(f"{{{_W}}}instr", "") for each in fields]
                if _NUMBERED.search(" ".join(told)):
                    paragraph.clear()
            self._prepare(part.element)
            for block in self._within(part.element):
                if block and block not in said:
                    said.add(block)
                    yield block

    def _prepare(self, root: Any) -> None:
        """Take out what is not shown, and wrappers from around what is."""
        for node in list(root.iter(*_REMOVED, _FALLBACK)):
            parent = node.getparent()
            if parent is None:
                continue
            # An older program's view is the only one where there is no other.
            if node.tag == _FALLBACK and not any(c.tag.endswith("}Choice") for c in parent):
                continue
            parent.remove(node)
        for mark in list(root.iter(*_w("vanish"))):
            run = mark.getparent().getparent()
            off = mark.get(f"{{{_W}}}val") in ("0", "false", "off")
            if not off and run.tag in _w("r") and run.getparent() is not None:
                self.left_out["hidden texts"] += any(node.text for node in run.iter(*_w("t")))
                run.getparent().remove(run)
        for wrapper in list(root.iter(*_WRAPPERS, _FALLBACK)):
            for child in list(wrapper):
                wrapper.addprevious(child)
            if wrapper.getparent() is not None:
                wrapper.getparent().remove(wrapper)

    def _within(self, parent: Any) -> Iterator[str]:
        """Paragraphs and tables in their order."""
        for block in parent:
            if block.tag == _PARAGRAPH:
                yield from self._paragraph(block)
            elif block.tag == _TABLE:  # not by `rows`: they leave nested tables out
                notes: list[str] = []
                yield self._table(block, notes)
                yield from notes

    def _paragraph(self, paragraph: Any) -> Iterator[str]:
        boxes: list[Any] = []
        notes: list[str] = []
        text = "".join(self._inline(paragraph, boxes, notes)).strip()
        yield _styled(text, self._styles.get(paragraph.style or "", ""))
        for box in boxes:
            yield from self._within(box)
        yield from notes

    def _table(self, table: Any, notes: list[str]) -> str:
        rows: list[list[str]] = []
        above: dict[int, str] = {}  # by column: a cell that goes on says again what it says
        for row in table.tr_lst:
            cells, column = [], row.grid_before
            for cell in row.tc_lst:
                goes_on = cell.vMerge == "continue"
                text = above.get(column, "") if goes_on else self._cell(cell, notes)
                above[column] = text
                cells.append(text)
                column += cell.grid_span
            rows.append(cells)
        return "\n".join(" | ".join(cells) for cells in rows if any(cells))

    def _cell(self, cell: Any, notes: list[str]) -> str:
        # Paragraphs of boxes and of tables within it too.
        found = ("".join(self._inline(p, [], notes)) for p in cell.iter(_PARAGRAPH))
        return " ".join(" ".join(found).split())

    def _inline(self, parent: Any, boxes: list[Any], notes: list[str]) -> Iterator[str]:
        for node in parent:
            if not isinstance(node.tag, str):
                continue  # a comment of XML
            space, _, kind = node.tag[1:].partition("}")
            if what := _COUNTED.get(kind):
                self.left_out[what] += 1
            if node.tag == _BOX:
                boxes.append(node)
            elif space == _W and kind == "t":
                yield node.text or ""
            elif node.tag in _BREAKS:
                yield _BREAKS[node.tag]
            elif space == _W and kind in ("footnoteReference", "endnoteReference"):
                yield self._note(kind.removesuffix("Reference"), node, notes)
            elif kind == "oMath":
                yield in_line(node)
            else:
                yield from self._inline(node, boxes, notes)

    def _note(self, kind: str, reference: Any, notes: list[str]) -> str:
        note = self._notes[kind].get(reference.get(f"{{{_W}}}id"))
        if note is None:
            return ""
        self._prepare(note)
        found = ("".join(self._inline(p, [], [])) for p in note.iter(_PARAGRAPH))
        mark = f"[^{'e' * (kind == 'endnote')}{reference.get(f'{{{_W}}}id')}]"
        notes.append(f"{mark}: {' '.join(' '.join(found).split())}")
        return mark


_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def _notes(word: WordDocument, kind: str) -> dict[str, Any]:
    """Footnotes or endnotes by their ids."""
    from docx.oxml import parse_xml

    for relation in word.part.rels.values():
        if relation.reltype.endswith(f"/{kind}s") and not relation.is_external:
            root = parse_xml(relation.target_part.blob)
            return {note.get(f"{{{_W}}}id"): note for note in root.iter(*_w(kind))}
    return {}


def _styled(text: str, style: str) -> str:
    heading = re.match(r"Title$|Heading ([1-9])", style)
    if text and heading:
        return f"{'#' * min(int(heading[1] or 1), 6)} {' '.join(text.split())}"
    return f"- {text}" if text and style.startswith("List") else text

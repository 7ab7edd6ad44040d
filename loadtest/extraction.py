"""What is left of documents by each way to read them: ours, and libraries that were looked at.

    python -m loadtest.extraction FOLDER --way kreuzberg=/venvs/kreuzberg/bin/python …

Of each file with what it should hold beside it (`NAME.expected.md`): the share of its words, of the
rows of its tables (all cells in one line) and of its headings; a dash where it reads none. Of files
that are made here: whether the one thing that is peculiar about each survives. A way is the library
of that name in an environment of its own, whose size and number of packages are shown.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from loadtest import specimens
from serve_app.errors import UnprocessableDocument
from serve_app.retrieval import formats

_FILE_S = 120.0
_OURS = ("pypdf", "python-docx", "beautifulsoup4", "soupsieve", "lxml", "markdown-it-py", "mdurl")
_SUFFIXES = (".pdf", ".docx", ".html")
_PARTS = ("words", "rows", "headings")

READ = {
    "kreuzberg": """
        import kreuzberg
        config = kreuzberg.ExtractionConfig(output_format="markdown")
        read = lambda path: kreuzberg.extract_file_sync(path, config=config).content
    """,
    "markitdown": """
        from markitdown import MarkItDown
        read = lambda path: MarkItDown().convert(path).text_content
    """,
    "docling": """
        from docling.document_converter import DocumentConverter
        read = lambda path: DocumentConverter().convert(path).document.export_to_markdown()
    """,
    "pdfplumber": """
        import pdfplumber
        def read(path):
            with pdfplumber.open(path) as pdf:
                pages = [(page.extract_text() or "", page.extract_tables()) for page in pdf.pages]
            rows = [" | ".join(c or "" for c in row) for _, ts in pages for t in ts for row in t]
            return "\\n".join([*(text for text, _ in pages), *rows])
    """,
    "pypdfium2": """
        import pypdfium2
        def read(path):
            pdf = pypdfium2.PdfDocument(path)
            return "\\n".join(page.get_textpage().get_text_bounded() for page in pdf)
    """,
}
_MAIN = """
import contextlib, json, sys
for path in sys.argv[1:]:
    try:
        with contextlib.redirect_stdout(sys.stderr):
            text = read(path)
    except BaseException as error:
        text = None
    print(json.dumps(text), flush=True)
"""
_SIZE = """
import json, sysconfig
from importlib import metadata
from pathlib import Path
site = Path(sysconfig.get_path("purelib"))
size = sum(each.stat().st_size for each in site.rglob("*") if each.is_file())
print(json.dumps([round(size / 1e6), len(list(metadata.distributions()))]))
"""

Read = Callable[[Sequence[Path]], list[str | None]]


@dataclass(frozen=True, slots=True)
class Specimen:
    """A file of one peculiarity; `kept` says of what was read of it whether that is there."""

    what: str
    name: str
    data: bytes
    kept: Callable[[str | None], bool]


def ours(paths: Sequence[Path]) -> list[str | None]:
    """As Trivium reads them; what is refused, or said of a page, is the text of its error."""
    found: list[str | None] = []
    for path in paths:
        try:
            reading = formats.read(path.name, path.read_bytes())
            texts = [document.text for document in reading.documents]
            found.append("\n".join([*texts, *reading.problems]))
        except UnprocessableDocument as error:
            found.append(error.message)
    return found


def way(name: str, python: str) -> Read:
    """A library in an environment of its own; a file that it fails at is none."""
    lines = READ[name].strip("\n").split("\n")
    code = "\n".join(line.removeprefix(" " * 8) for line in lines) + _MAIN

    def read(paths: Sequence[Path]) -> list[str | None]:
        done = subprocess.run(
            [python, "-c", code, *map(str, paths)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_FILE_S * len(paths),
            check=False,
        )
        found = [json.loads(line) for line in done.stdout.decode().splitlines()]
        return found + [None] * (len(paths) - len(found))

    return read


def made() -> Iterator[Specimen]:
    """Each has one word that only what is peculiar about it holds."""

    def holds(*words: str) -> Callable[[str | None], bool]:
        """In one line."""
        return lambda text: any(
            all(word in line for word in words) for line in (text or "").split("\n")
        )

    paragraph, run = specimens.PARAGRAPH.format, specimens.RUN.format
    box = f"<w:txbxContent>{paragraph('TOUCAN')}</w:txbxContent>"
    pict = f"<w:p><w:r><w:pict><v:shape><v:textbox>{box}</v:textbox></v:shape></w:pict></w:r></w:p>"
    note = f"<w:p>{run('Text')}<w:r><w:footnoteReference w:id='2'/></w:r></w:p>"
    notes = f'<w:footnote w:id="2">{paragraph("TOUCAN")}</w:footnote>'
    field = f"<w:p><w:fldSimple w:instr='DATE'>{run('TOUCAN')}</w:fldSimple></w:p>"
    moved = f"<w:p><w:moveTo w:id='1'>{run('TOUCAN')}</w:moveTo></w:p>"
    cell = "<w:tc><w:tcPr>{}</w:tcPr>" + specimens.PARAGRAPH + "</w:tc>"
    down, on = '<w:vMerge w:val="restart"/>', "<w:vMerge/>"
    rows = ((down, "North", "Oslo"), (on, "", "TOUCAN"))
    cells = (cell.format(merge, first) + cell.format("", then) for merge, first, then in rows)
    table = f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in cells)}</w:tbl>"
    text = paragraph("Text")
    word = specimens.within_word
    yield Specimen("Word: text box", "box.docx", word(text + pict), holds("TOUCAN"))
    yield Specimen("Word: footnote", "note.docx", word(note, footnotes=notes), holds("TOUCAN"))
    yield Specimen("Word: header of pages", "head.docx", specimens.with_header(), holds("TOUCAN"))
    yield Specimen("Word: simple field", "field.docx", word(text + field), holds("TOUCAN"))
    yield Specimen("Word: moved text", "moved.docx", word(text + moved), holds("TOUCAN"))
    yield Specimen("Word: merged cell", "merged.docx", word(table), holds("North", "TOUCAN"))
    form = specimens.rewritten_pdf(specimens.form)
    yield Specimen("PDF: value of a form", "form.pdf", form, holds("NO93 8601"))
    scan = specimens.pdf("")
    yield Specimen("PDF: scan is named", "scan.pdf", scan, lambda told: "scan" in (told or ""))
    page = "<!DOCTYPE html><meta charset={}><title>T</title><body><p>Text {}".format
    head = "<article><header><h1>Guide</h1>TOUCAN</header>Text</article>"
    yield _page("header of an article", page("utf-8", head), holds("TOUCAN"))
    code = page("utf-8", "<pre>TOUCAN<br>HERON</pre>")
    apart = holds("TOUCAN", "HERON")
    yield _page("lines of code", code, lambda told: "TOUCAN" in (told or "") and not apart(told))
    hidden = page("utf-8", "<p hidden>TOUCAN</p>")
    yield _page("hidden text left out", hidden, lambda told: "TOUCAN" not in (told or "TOUCAN"))
    bad = page("utf-8", "Crème brûlée").encode() + b"\xe9"
    yield Specimen("HTML: one bad byte", "bad.html", bad, holds("Crème brûlée"))
    latin = page("iso-8859-1", "€ 5 – “a”").encode("cp1252")
    yield Specimen("HTML: Windows-1252", "latin.html", latin, holds("€ 5 – “a”"))


def _page(what: str, text: str, kept: Callable[[str | None], bool]) -> Specimen:
    return Specimen(f"HTML: {what}", f"{what.replace(' ', '-')}.html", text.encode(), kept)


def survivors(expected: str, text: str) -> dict[str, tuple[int, int]]:
    """How many words, rows of tables and headings there are, of how many."""
    wanted, found = Counter(_words(expected)), Counter(_words(text))
    lines = [" ".join(_words(line)) for line in text.split("\n")]
    headings = {line for line, raw in zip(lines, text.split("\n"), strict=True) if raw[:1] == "#"}
    rows = [row for row in map(_cells, expected.split("\n")) if len(row) > 1]
    titles = [" ".join(_words(each)) for each in expected.split("\n") if each[:1] == "#"]
    kept = sum(any(_in_order(row, line) for line in lines) for row in rows)
    return {
        "words": ((wanted & found).total(), wanted.total()),
        "rows": (kept, len(rows)),
        "headings": (sum(title in headings for title in titles), len(titles)),
    }


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", re.sub(r"<!--.*?-->|!?\[\^?|\]\([^)]*\)", " ", text).lower())


def _cells(line: str) -> list[str]:
    if not line.startswith("|") or re.fullmatch(r"[|:\s-]+", line):
        return []
    cells = (" ".join(_words(cell)) for cell in line.strip().strip("|").split("|"))
    return list(dict.fromkeys(filter(None, cells)))


def _in_order(cells: Sequence[str], line: str) -> bool:
    at = 0
    for cell in cells:
        at = line.find(cell, at)
        if at < 0:
            return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--way", action="append", default=[], metavar="NAME=PYTHON")
    arguments = parser.parse_args()
    pythons = dict(each.split("=", 1) for each in arguments.way)
    ways: dict[str, Read] = {"ours": ours} | {n: way(n, python) for n, python in pythons.items()}
    footprints = {"ours": _our_footprint()} | {
        name: json.loads(subprocess.check_output([python, "-c", _SIZE]))
        for name, python in pythons.items()
    }
    _show(["", *ways], [["MB installed, packages", *(f"{m}, {n}" for m, n in footprints.values())]])
    _show(["made here", *ways], list(_specimens(ways)))
    _show(["words / rows / headings", *ways], list(_files(arguments.folder, ways)))


def _specimens(ways: Mapping[str, Read]) -> Iterator[list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        found = list(made())
        paths = [Path(folder) / each.name for each in found]
        for path, each in zip(paths, found, strict=True):
            path.write_bytes(each.data)
        read = {name: way(paths) for name, way in ways.items()}
        for number, each in enumerate(found):
            kept = (each.kept(texts[number]) for texts in read.values())
            yield [each.what, *("yes" if every else "–" for every in kept)]


def _files(folder: Path, ways: Mapping[str, Read]) -> Iterator[list[str]]:
    beside = sorted(folder.rglob("*.expected.md"))
    paths = [path for each in beside if (path := each.with_suffix("").with_suffix("")).is_file()]
    paths = [path for path in paths if path.suffix in _SUFFIXES]
    read = {name: way(paths) for name, way in ways.items()}
    total: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for number, path in enumerate(paths):
        expected = path.with_name(f"{path.name}.expected.md").read_text(encoding="utf-8")
        line = [path.name]
        for name, texts in read.items():
            text = texts[number]
            shares = {} if text is None else survivors(expected, text)
            for what, (kept, of) in shares.items():
                total[path.suffix, name].update({what: kept, f"all {what}": of})
            line.append(_shares(shares))
        yield line
    for suffix in dict.fromkeys(path.suffix for path in paths):
        sums = (total[suffix, name] for name in ways)
        parts = ([(of[what], of[f"all {what}"]) for what in _PARTS] if of else [] for of in sums)
        shares_of = (dict(zip(_PARTS, pairs, strict=False)) for pairs in parts)
        yield [f"all {suffix} that it reads", *map(_shares, shares_of)]


def _shares(shares: Mapping[str, tuple[int, int]]) -> str:
    return " / ".join(f"{kept / of:.2f}" if of else "·" for kept, of in shares.values()) or "–"


def _our_footprint() -> tuple[int, int]:
    files = (file for name in _OURS for file in metadata.files(name) or ())
    size = sum(Path(str(file.locate())).stat().st_size for file in files if _exists(file))
    return round(size / 1e6), len(_OURS)


def _exists(file: metadata.PackagePath) -> bool:
    return Path(str(file.locate())).is_file()


def _show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("|", " | ".join(columns), "|")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("|", " | ".join(row), "|")
    print()
    sys.stdout.flush()


if __name__ == "__main__":
    main()

"""HTML: what its tags mean becomes Markdown, what surrounds the text is dropped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from serve_app.errors import UnprocessableDocument
from serve_app.retrieval.formats.encodings import BAD_BYTES, page
from serve_app.retrieval.formats.reading import Reading, whole

if TYPE_CHECKING:
    from bs4.element import PageElement, Tag

_HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}
_NO_TEXT = set("head script style template svg title".split())
_AROUND = {"nav", "header", "footer", "noscript"}
# Of these, a header and a footer are part of the text.
_WITHIN = {"article", "blockquote", "main", "section"}
_PARAGRAPHS = set(
    "address article aside blockquote body caption details div dl fieldset figcaption figure footer"
    " form header hr main ol p section summary table ul".split()
)
_LINES = {"br": "\n", "dd": "\n", "dt": "\n", "li": "\n- ", "tr": "\n"}
_UNSEEN = re.compile(
    r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)"
    r"|(?:font-size|opacity)\s*:\s*(?:0+(?:\.0*)?|\.0+)(?:px|em|rem|pt|%)?\s*(?:;|!|$))",
    re.IGNORECASE,
)
_EDGE = "\n"  # of a block: a line ends here, if one has begun
_CODE = "\0"  # stands for code until the rest is tidy; no page holds it


def read(name: str, data: bytes) -> Reading:
    from bs4 import BeautifulSoup
    from bs4.builder import ParserRejectedMarkup
    from bs4.dammit import EncodingDetector

    text, lost = page(data, EncodingDetector.find_declared_encoding(data, is_html=True), _guessed)
    if "\0" in text:
        raise UnprocessableDocument(f"{name}: binary data, not HTML; save it as UTF-8 text")
    try:
        # Not html.parser: a few thousand unclosed tags cost it minutes. Without an XML declaration
        # and with a line end Beautiful Soup does not warn that this may be XML or a file name.
        soup = BeautifulSoup(re.sub(r"\A\s*<\?xml[^>]*>", "", text) + "\n", "lxml")
    except ParserRejectedMarkup:
        raise UnprocessableDocument(f"{name}: not valid HTML; save it again") from None
    title = soup.head.title if soup.head else None  # drawings in the body have titles too
    given = title.get_text() if title else ""
    reader = _Reader()
    document = whole(name, given, reader.markdown(soup))
    return Reading([document], [], {BAD_BYTES: lost, **reader.left_out})


def _guessed(data: bytes) -> str:
    from bs4 import UnicodeDammit

    return UnicodeDammit(data, is_html=True).unicode_markup or ""


class _Reader:
    """A page as Markdown, and what of it is left out."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self._code: list[str] = []

    def markdown(self, root: Tag) -> str:
        lines = _tidy("".join(self._fragments(root))).split("\n")
        code = iter(self._code)
        return "\n".join(next(code) if line == _CODE else line for line in lines)

    def _fragments(self, root: Tag) -> Iterator[str]:
        """The text in fragments, and the marks and line breaks its tags stand for."""
        from bs4.element import CData, NavigableString, Tag

        # Pages can be nested deeper than Python recurses. With each node, whether it is within
        # what may have a header of its own.
        todo: list[tuple[PageElement | str, bool]] = [(root, False)]
        while todo:
            node, within = todo.pop()
            if isinstance(node, Tag):
                if self._is_left_out(node, within):
                    continue
                if node.name == "pre":
                    self._code.append(_fenced(_verbatim(node)))
                    yield f"\n\n{_CODE}\n\n"
                    continue
                within = within or node.name in _WITHIN
                before, after = _marks(node.name, node.parent.name if node.parent else "")
                inner = [(child, within) for child in reversed(node.contents)]
                todo += [(after, within), *inner, (before, within)]
            elif type(node) in (NavigableString, CData):  # not comments and the like
                yield re.sub(r"\s+", " ", str(node))
            elif type(node) is str:
                yield node

    def _is_left_out(self, node: Tag, within: bool) -> bool:
        if node.name in _NO_TEXT:
            return True
        if _is_unseen(node):
            self.left_out["hidden elements"] += bool(node.get_text(strip=True))
            return True
        if node.name in _AROUND and not (within and node.name in ("header", "footer")):
            self.left_out["menus, headers and footers of the page"] += 1
            return True
        self.left_out["pictures"] += node.name in ("img", "canvas", "video")
        return False


def _is_unseen(node: Tag) -> bool:
    if node.get("hidden") not in (None, "until-found"):
        return True
    return bool(_UNSEEN.search(str(node.get("style") or "")))


def _verbatim(pre: Tag) -> str:
    """Text as it stands, in the lines that a browser shows."""
    from bs4.element import CData, NavigableString, Tag

    out = [""]
    todo: list[PageElement | str] = list(reversed(pre.contents))
    while todo:
        node = todo.pop()
        if isinstance(node, Tag):
            if node.name == "br":
                out.append("\n")
            elif not (node.name in _NO_TEXT or _is_unseen(node)):
                block = node.name in _PARAGRAPHS or node.name in ("li", "tr")
                edge = [_EDGE] if block else []
                todo += [*edge, *reversed(node.contents), *edge]
        elif node is _EDGE:
            if out[-1] and not out[-1].endswith("\n"):
                out.append("\n")
        elif type(node) in (NavigableString, CData):
            out.append(str(node))
    return "".join(out)


def _fenced(code: str) -> str:
    """Within a fence that the code itself does not have."""
    longest = max(map(len, re.findall("`{3,}", code)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{code}\n{fence}"


def _marks(name: str, parent: str) -> tuple[str, str]:
    """What stands before and after an element."""
    if name in _HEADINGS:
        return f"\n\n{_HEADINGS[name]} ", "\n\n"
    if name in {"p", "div", "br"} and (parent in {"td", "th"} or parent in _HEADINGS):
        return " ", " "
    if name in _PARAGRAPHS:
        return "\n\n", "\n\n"
    return _LINES.get(name, ""), " | " if name in {"td", "th"} else ""


def _tidy(text: str) -> str:
    """Without needless blanks and empty marks."""
    kept: list[str] = []
    item = ""
    for line in text.split("\n"):
        tidy = " ".join(line.split()).rstrip(" |")
        if tidy == "-":  # the text of the item stands in a paragraph of its own
            item = "- "
        elif tidy.strip("#"):
            kept.append(tidy if tidy == _CODE or tidy.startswith("- ") else item + tidy)
            item = ""
        elif not item:
            kept.append("")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n")

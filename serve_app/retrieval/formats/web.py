"""HTML: what its tags mean becomes Markdown, what surrounds the text is dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from serve_app.errors import UnprocessableDocument
from serve_app.retrieval.formats.reading import Reading, whole

if TYPE_CHECKING:
    from bs4.element import PageElement, Tag

_HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}
_DROPPED = set("script style nav header footer template noscript svg title".split())
_PARAGRAPHS = set(
    "address article aside blockquote body caption details div dl fieldset figcaption figure form"
    " hr main ol p section summary table ul".split()
)
_LINES = {"br": "\n", "dd": "\n", "dt": "\n", "li": "\n- ", "tr": "\n"}


def read(name: str, data: bytes) -> Reading:
    from bs4 import BeautifulSoup, UnicodeDammit
    from bs4.builder import ParserRejectedMarkup
    from bs4.dammit import EncodingDetector

    # Without a declaration UTF-8 is tried before anything is guessed.
    declared = EncodingDetector.find_declared_encoding(data, is_html=True)
    first = [] if declared else ["utf-8"]
    page = UnicodeDammit(data, known_definite_encodings=first, is_html=True).unicode_markup or ""
    if "\0" in page:
        raise UnprocessableDocument(f"{name}: binary data, not HTML; save it as UTF-8 text")
    try:
        # Not html.parser: a few thousand unclosed tags cost it minutes. Without an XML declaration
        # and with a line end Beautiful Soup does not warn that this may be XML or a file name.
        soup = BeautifulSoup(re.sub(r"\A\s*<\?xml[^>]*>", "", page) + "\n", "lxml")
    except ParserRejectedMarkup:
        raise UnprocessableDocument(f"{name}: not valid HTML; save it again") from None
    title = soup.head.title if soup.head else None  # drawings in the body have titles too
    given = title.get_text() if title else ""
    return Reading([whole(name, given, _tidy("".join(_markdown(soup))))], [])


def _markdown(root: Tag) -> Iterator[str]:
    """The text of a page in fragments, and the marks and line breaks its tags stand for."""
    from bs4.element import CData, NavigableString, Tag

    todo: list[PageElement | str] = [root]  # pages can be nested deeper than Python recurses
    while todo:
        node = todo.pop()
        if isinstance(node, Tag):
            if node.name == "pre":
                yield f"\n\n```\n{node.get_text()}\n```\n\n"
            elif node.name not in _DROPPED:
                before, after = _marks(node.name, node.parent.name if node.parent else "")
                todo += [after, *reversed(node.contents), before]
        elif type(node) in (NavigableString, CData):  # not comments and the like
            yield re.sub(r"\s+", " ", str(node))
        elif type(node) is str:
            yield node


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
    """Without needless blanks and empty marks; what is fenced stays as it is."""
    kept: list[str] = []
    item, fenced = "", False
    for line in text.split("\n"):
        fenced ^= line == "```"
        tidy = line if fenced else " ".join(line.split()).rstrip(" |")
        if tidy == "-":  # the text of the item stands in a paragraph of its own
            item = "- "
        elif tidy.strip("#"):
            kept.append(tidy if fenced or tidy.startswith("- ") else item + tidy)
            item = ""
        elif not item:
            kept.append("")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n")

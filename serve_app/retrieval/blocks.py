"""Markdown or plain text as sections, and these as paragraphs, by markdown-it.

Only the structure is taken from the parser; every line stands as it was written, in one section.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.token import Token

MAX_HEADING = 2048  # bytes of a heading with those above it
BETWEEN = " › "  # headings of a path

_UNDERLINED = 200  # characters of a heading that is told by the line below it, at most
_FENCE_INDENT = 4  # from here on a line no longer closes a fence
_COLUMN = r"[ \t]*:?-+:?[ \t]*"
_DELIMITERS = re.compile(rf"\|?{_COLUMN}(?:\|{_COLUMN})*\|?")
_BAR = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True)
class Part:
    """Lines of a paragraph that belong together.

    Attributes:
        head: What each piece of a table or of code begins with: the names of its columns, or the
            line that opens the fence.
        body: The lines that it may be cut between.
        tail: What each piece ends with.
    """

    kind: Literal["prose", "table", "code"]
    text: str
    head: str = ""
    body: tuple[str, ...] = ()
    tail: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """What stands under a heading.

    Attributes:
        headings: It and those above it, outermost first.
        paragraphs: Runs of lines without a blank one between them; one within a fence does not
            count.
    """

    headings: tuple[str, ...]
    paragraphs: list[list[Part]]


def sections(text: str) -> Iterator[Section]:
    """The sections of a text in their order.

    A heading that nothing stands under, neither text nor a deeper heading, is text of the section
    around it.
    """
    lines = text.splitlines()
    heads, blocks = _structure(lines)
    path: list[tuple[int, str]] = []
    body = _Body()
    at = 0
    while at < len(lines):
        if at in heads and _fits(path, *heads[at][:2]):
            level, title, at = heads[at]
            body.end()
            if body.paragraphs or (path and path[-1][0] >= level):
                yield _section(path, body)
            body = _Body()
            path = [(depth, name) for depth, name in path if depth < level]
            path.append((level, title))
        elif at in blocks:
            part, at = blocks[at]
            body.add(part)
        else:
            body.line(lines[at])
            at += 1
    body.end()
    if body.paragraphs or path:
        yield _section(path, body)


def title(text: str) -> str | None:
    """The first heading of the first level."""
    heads, _ = _structure(text.splitlines())
    return next((name for level, name, _ in heads.values() if level == 1), None)


class _Body:
    """Paragraphs as their lines come."""

    def __init__(self) -> None:
        self.paragraphs: list[list[Part]] = []
        self.parts: list[Part] = []
        self.lines: list[str] = []

    def line(self, line: str) -> None:
        if line.strip():
            self.lines.append(line)
        else:
            self.end()

    def add(self, part: Part) -> None:
        self._prose()
        self.parts.append(part)

    def end(self) -> None:
        self._prose()
        if self.parts:
            self.paragraphs.append(self.parts)
            self.parts = []

    def _prose(self) -> None:
        if self.lines:
            self.parts.append(Part("prose", "\n".join(self.lines)))
            self.lines = []


def _section(path: Sequence[tuple[int, str]], body: _Body) -> Section:
    names = tuple(name for _, name in path)
    if body.paragraphs:
        return Section(names, body.paragraphs)
    return Section(names[:-1], [[Part("prose", names[-1])]])


def _fits(path: Sequence[tuple[int, str]], level: int, title: str) -> bool:
    names = [*(name for depth, name in path if depth < level), title]
    return len(BETWEEN.join(names).encode()) <= MAX_HEADING


def _structure(
    lines: Sequence[str],
) -> tuple[dict[int, tuple[int, str, int]], dict[int, tuple[Part, int]]]:
    """Headings (level, title, the line behind it) and tables and fences, by their first line."""
    heads: dict[int, tuple[int, str, int]] = {}
    blocks: dict[int, tuple[Part, int]] = {}
    tokens = _PARSER.parse("\n".join(lines))
    for number, token in enumerate(tokens):
        if token.map is None:
            continue
        start, end = token.map
        if token.type == "heading_open" and token.level == 0:
            # Underlined, it may have several lines.
            title = " ".join(tokens[number + 1].content.split())
            # A line below a long paragraph was drawn for another reason.
            if title and (token.markup[0] == "#" or len(title) <= _UNDERLINED):
                heads[start] = (int(token.tag[1]), title, end)
        elif token.type == "table_open":
            while end > start + 2 and "|" not in lines[end - 1]:
                end -= 1  # to the parser any line below a table is one of its rows
            blocks[start] = (_table(lines[start:end]), end)
        elif token.type == "fence":
            blocks[start] = (_fence(token, lines[start:end]), end)
    return heads, blocks


def _table(rows: Sequence[str]) -> Part:
    return Part("table", "\n".join(rows), "\n".join(rows[:2]), tuple(rows[2:]))


def _fence(token: Token, lines: Sequence[str]) -> Part:
    head, content = f"{token.markup}{token.info}", token.content.removesuffix("\n")
    text = "\n".join(lines)
    closing = lines[-1]
    indent = len(closing) - len(closing.lstrip())
    if indent >= _FENCE_INDENT and token.level:  # on its own, without the list around it
        text = "\n".join([head, *content.split("\n"), token.markup])
    return Part("code", text, head, tuple(content.split("\n")), token.markup)


def _table_rule(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """The parser's rule for a table, but for its cells: of two bytes it makes hundreds."""

    def line(number: int) -> str:
        return state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]].strip()

    def inside(number: int) -> bool:
        indented = state.sCount[number] < state.blkIndent or state.is_code_block(number)
        return number < end and not indented

    at = start + 1
    if not inside(at) or "|" not in line(start) or not _DELIMITERS.fullmatch(line(at)):
        return False
    if _columns(line(start)) != _columns(line(at)):
        return False
    if silent:
        return True
    around, state.parentType = state.parentType, "table"
    enders = state.md.block.ruler.getRules("blockquote")
    at += 1
    while inside(at) and line(at) and not any(rule(state, at, end, True) for rule in enders):
        at += 1
    state.push("table_open", "table", 0).map = [start, at]
    state.parentType, state.line = around, at
    return True


def _columns(row: str) -> int:
    inner = row.removeprefix("|")
    return len(_BAR.findall(inner.removesuffix("|") if inner.count("|") else inner)) + 1


def _parser() -> MarkdownIt:
    """Looks for blocks only. A reference's definition is a line like others."""
    made = MarkdownIt("commonmark").enable("table").disable(["inline", "reference"])
    made.block.ruler.at("table", _table_rule, {"alt": ["paragraph", "reference"]})
    return made


_PARSER = _parser()

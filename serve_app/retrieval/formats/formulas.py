"""Formulas of Word in one line of text, as one types them: `x=(-b±√(b^2-4ac))/2a`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_M = "http://schemas.openxmlformats.org/officeDocument/2006/math"


def in_line(node: Any) -> str:
    """The text of a formula, or of a part of one."""
    kind = node.tag.rpartition("}")[2] if isinstance(node.tag, str) else ""
    if kind == "t":
        return node.text or ""
    if kind.endswith("Pr"):
        return ""
    made = _WRITTEN.get(kind)
    return made(node) if made else "".join(map(in_line, node))


def _part(node: Any, name: str) -> str:
    return "".join(in_line(each) for each in node.findall(f"{{{_M}}}{name}"))


def _group(text: str) -> str:
    """In parentheses where it is more than a name or a number."""
    return text if not text or text.isalnum() else f"({text})"


def _sign(node: Any, name: str, default: str) -> str:
    found = node.find(f"{node.tag}Pr/{{{_M}}}{name}")
    return default if found is None else str(found.get(f"{{{_M}}}val", ""))


def _raised(node: Any) -> str:
    below, above = _group(_part(node, "sub")), _group(_part(node, "sup"))
    return f"{'_' * bool(below)}{below}{'^' * bool(above)}{above}"


def _root(node: Any) -> str:
    return f"{_part(node, 'deg')}√{_group(_part(node, 'e'))}"


def _fraction(node: Any) -> str:
    return f"{_group(_part(node, 'num'))}/{_group(_part(node, 'den'))}"


def _sum(node: Any) -> str:
    return f"{_sign(node, 'chr', '∫')}{_raised(node)} {_part(node, 'e')}"


def _between(node: Any) -> str:
    parts = _sign(node, "sepChr", "|").join(map(in_line, node.findall(f"{{{_M}}}e")))
    return f"{_sign(node, 'begChr', '(')}{parts}{_sign(node, 'endChr', ')')}"


def _rows(name: str, between: str) -> Callable[[Any], str]:
    return lambda node: between.join(map(in_line, node.findall(f"{{{_M}}}{name}")))


_WRITTEN: dict[str, Callable[[Any], str]] = {
    "f": _fraction,
    "rad": _root,
    "nary": _sum,
    "d": _between,
    **dict.fromkeys(
        ("sSup", "sSub", "sSubSup", "sPre"), lambda node: _part(node, "e") + _raised(node)
    ),
    "func": lambda node: f"{_part(node, 'fName')} {_part(node, 'e')}",
    "limLow": lambda node: f"{_part(node, 'e')}_{_group(_part(node, 'lim'))}",
    "limUpp": lambda node: f"{_part(node, 'e')}^{_group(_part(node, 'lim'))}",
    "eqArr": _rows("e", "; "),
    "m": _rows("mr", "; "),
    "mr": _rows("e", ", "),
}

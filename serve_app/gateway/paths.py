"""Paths that end in anything: `{document_id:rest}` in a route."""

from __future__ import annotations

from starlette.convertors import Convertor, register_url_convertor


class Rest(Convertor[str]):
    """All that is left of a path, line breaks too.

    Starlette's own `path` stops before one at the end, so that `x%0A` would name `x`.
    """

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


def install() -> None:
    """Let routes name it; before any of them is made."""
    register_url_convertor("rest", Rest())

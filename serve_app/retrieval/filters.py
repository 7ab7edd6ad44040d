"""Milvus's filter language: which rows to look at, in expressions that no text can leave."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Where:
    """Which rows of a tenant to look at: of those that no later version of their series hides.

    Attributes:
        metadata: Values that fields of the document's metadata must have.
        since, until: Half-open bounds on the document's time, Unix seconds.
    """

    tenant: str
    metadata: Mapping[str, str | int | float | bool] | None = None
    since: float | None = None
    until: float | None = None

    def expression(self, now: float) -> str:
        """In Milvus's filter language; `now` is in Unix seconds."""
        moment = int(now)
        terms = [
            f"tenant == {literal(self.tenant)}",
            # The fields of the row, which say when its document is in force.
            f"since <= {moment} and until > {moment}",
        ]
        for name, value in (self.metadata or {}).items():
            wanted = literal(value) if isinstance(value, str) else json.dumps(value)
            terms.append(f"metadata[{literal(name)}] == {wanted}")
        if self.since is not None:
            terms.append(f"time >= {int(self.since)}")
        if self.until is not None:
            # A document without a time is older than any bound, not within it.
            terms.append(f"time > 0 and time < {int(self.until)}")
        return " and ".join(terms)


def literal(text: str) -> str:
    """A string literal of Milvus's filter language; what a caller wrote cannot leave it."""
    quoted = json.dumps(text, ensure_ascii=False)
    # Of JSON's escapes Milvus does not know all: it takes those characters as they are.
    return re.sub(r"(?<!\\)((?:\\\\)*)\\(?:u00([0-9a-f]{2})|([bf]))", _control, quoted)


def _control(escape: re.Match[str]) -> str:
    before, code, name = escape.groups()
    return before + (chr(int(code, 16)) if code else {"b": "\b", "f": "\f"}[name])

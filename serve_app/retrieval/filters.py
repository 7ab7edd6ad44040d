"""Milvus's filter language: which rows to look at, in expressions that no text can leave."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve_app.domain import EVERY_GROUP


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads: what is for others is not there for them, whatever they ask.

    Attributes:
        groups: Whose documents it reads, beside those that are for everybody of the tenant.
    """

    tenant: str
    groups: tuple[str, ...] = ()

    def may_read(self, allow: Sequence[str]) -> bool:
        """Whether a document that is for these groups, or for everybody, is for this reader."""
        return not allow or EVERY_GROUP in self.groups or not set(allow).isdisjoint(self.groups)

    def expression(self) -> str:
        """Its documents, in Milvus's filter language."""
        mine = f"tenant == {literal(self.tenant)}"
        if EVERY_GROUP in self.groups:
            return mine
        either = ["array_length(allow) == 0"]
        if self.groups:
            # Names of groups hold nothing that would have to be escaped.
            mine_too = json.dumps(self.groups, ensure_ascii=False)
            either.append(f"array_contains_any(allow, {mine_too})")
        return f"{mine} and ({' or '.join(either)})"


@dataclass(frozen=True, slots=True)
class Where:
    """Which rows to look at: of those that no later version of their series hides.

    Attributes:
        metadata: Values that fields of the document's metadata must have.
        since, until: Half-open bounds on the document's time, Unix seconds.
    """

    reader: Reader
    metadata: Mapping[str, str | int | float | bool] | None = None
    since: float | None = None
    until: float | None = None

    def expression(self, now: float) -> str:
        """In Milvus's filter language; `now` is in Unix seconds."""
        moment = int(now)
        terms = [
            self.reader.expression(),
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

"""What a collection is made of: rows, their keys, and what has to be done to bring it up to date.

A chunk's key holds the hash of what is embedded, so a collection is its own registry of content: a
key that is there needs no embedding, wherever in its document the chunk now stands; a key that no
document has any more is stale. Nothing else remembers what was ingested, so nothing can disagree
with it, and a run that was killed is finished by running it again.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from serve_app.domain import Document
from serve_app.errors import UnprocessableDocument
from serve_app.retrieval import blocks, chunking
from serve_app.retrieval.search_text import normalised

_MAX_ID = 200
_MAX_TITLE_BYTES = 1000
_HEADINGS = blocks.BETWEEN


@dataclass(frozen=True, slots=True)
class Row:
    """A chunk as it is stored.

    Attributes:
        id: A hash of tenant, document and what is embedded.
        ordinal: Counts the chunks of a document from 0.
        as_of: ISO 8601 time at which the text was true, as the document gives it; or empty.
        time: The same (else the document's `effective_from`) in Unix seconds; 0 when unknown.
        series: Documents of one series are versions of each other; empty for most.
        source: Where a bulk run read the document; empty for one sent over HTTP.
        tokens: Of the embedded text, as the embedding model counts.
    """

    id: str
    tenant: str
    document_id: str
    ordinal: int
    title: str
    heading: str
    text: str
    as_of: str = ""
    time: int = 0
    series: str = ""
    source: str = ""
    tokens: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def embedded(self) -> str:
        """Title and headings say what a chunk is about; half of them do not say it themselves."""
        return embedded_text(self.title, self.heading, self.text)

    @property
    def stamp(self) -> str:
        """A hash of what is stored beside the embedding: when it changes, the vector stays."""
        rest = (self.ordinal, self.as_of, self.time, self.series, self.source, dict(self.metadata))
        return _digest(json.dumps(rest, sort_keys=True, default=str))


@dataclass(frozen=True, slots=True)
class Known:
    """What a collection knows of a row.

    Attributes:
        written: Unix milliseconds of its last change.
    """

    document: tuple[str, str]
    stamp: str
    source: str
    written: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Keys, by what has to be done with them."""

    embed: frozenset[str]
    restamp: frozenset[str]
    same: frozenset[str]
    stale: frozenset[str]


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an ingest did; `*_tokens` are those that were, or need not be, embedded again."""

    documents: int
    chunks: int
    embedded: int = 0
    removed: int = 0
    embedded_tokens: int = 0
    saved_tokens: int = 0


@dataclass(frozen=True, slots=True)
class DocumentPage:
    """Documents in order.

    Attributes:
        documents: Id, title and `as_of` of each.
        has_more: There are others behind the last one.
    """

    documents: list[dict[str, Any]]
    has_more: bool


def embedded_text(title: str, heading: str, text: str) -> str:
    return f"{title}\n{heading}\n{text}"


def plan(stamps: Mapping[str, str], known: Mapping[str, Known]) -> Plan:
    """What turns `known` into the rows wanted.

    Args:
        stamps: Of every row wanted, by key.
        known: Every row of the documents concerned.
    """
    there = stamps.keys() & known.keys()
    same = frozenset(key for key in there if known[key].stamp == stamps[key])
    return Plan(
        embed=frozenset(stamps.keys() - known.keys()),
        restamp=frozenset(there - same),
        same=same,
        stale=frozenset(known.keys() - stamps.keys()),
    )


def rows(
    document: Document,
    tenant: str,
    *,
    max_tokens: int,
    count: Callable[[str], int],
    window: int | None = None,
    source: str = "",
    where: str = "document",
) -> list[Row]:
    """The rows of a document.

    Args:
        count: Tokens of a text, as the embedding model counts.
        window: Tokens that the model reads, if there is a bound: what is embedded has no more,
            unless a title and headings alone take half of them.
        where: What an error calls the document.

    Raises:
        UnprocessableDocument: It is empty, or its id, title or time does not fit; names which.
    """
    title, text = normalised(document.title), normalised(document.text)
    document = replace(document, title=title, text=text)
    _check(document, where)
    as_of, time = times(document, where)

    def room(headings: tuple[str, ...]) -> int:
        assert window is not None
        return max(window - count(embedded_text(title, _HEADINGS.join(headings), "")), window // 2)

    pieces = chunking.split(text, max_tokens, count, None if window is None else room)
    if not pieces:
        raise UnprocessableDocument(f"{where}.text holds no text", param=f"{where}.text")
    made = []
    seen: Counter[str] = Counter()
    for ordinal, piece in enumerate(pieces):
        heading = _HEADINGS.join(piece.headings)
        embedded = embedded_text(title, heading, piece.text)
        # A text may stand twice in a document. Each part's length keeps tenant "a/b" with document
        # "c" apart from "a" with "b/c".
        parts = (tenant, document.id, str(seen[embedded]), embedded)
        seen[embedded] += 1
        made.append(
            Row(
                id=_digest("".join(f"{len(part)}:{part}" for part in parts)),
                tenant=tenant,
                document_id=document.id,
                ordinal=ordinal,
                title=title,
                heading=heading,
                text=piece.text,
                as_of=as_of,
                time=time,
                series=str(document.metadata.get("series", "")),
                source=source,
                tokens=count(embedded),
                metadata=dict(document.metadata),
            )
        )
    return made


def document(stored: Iterable[Row]) -> Document:
    """The document that rows of it, in order, came from; splitting it again gives the same rows."""
    lines: list[str] = []
    path: list[str] = []
    first: Row | None = None
    for row in stored:
        first = first or row
        headings = row.heading.split(_HEADINGS) if row.heading else []
        common = 0
        while common < min(len(path), len(headings)) and path[common] == headings[common]:
            common += 1
        if common < len(path) and common == len(headings):
            common -= 1  # back up to a heading that is open: Markdown can only name it again
        lines += [f"{'#' * (i + 1)} {headings[i]}" for i in range(max(common, 0), len(headings))]
        path = headings
        lines += [row.text, ""]
    assert first is not None
    return Document(first.document_id, first.title, "\n\n".join(lines), first.metadata)


def report(documents: int, rows: Mapping[str, Row], plan: Plan) -> IngestReport:
    """What a plan that was carried out did."""
    embedded = sum(row.tokens for key, row in rows.items() if key in plan.embed)
    return IngestReport(
        documents=documents,
        chunks=len(rows),
        embedded=len(plan.embed),
        removed=len(plan.stale),
        embedded_tokens=embedded,
        saved_tokens=sum(row.tokens for row in rows.values()) - embedded,
    )


def _check(document: Document, where: str) -> None:
    if not document.id.strip() or len(document.id.encode()) > _MAX_ID:
        raise UnprocessableDocument(
            f"{where}.id must have 1 to {_MAX_ID} bytes", param=f"{where}.id"
        )
    if len(document.title.encode()) > _MAX_TITLE_BYTES:
        raise UnprocessableDocument(
            f"{where}.title is longer than {_MAX_TITLE_BYTES} bytes", param=f"{where}.title"
        )
    if len(str(document.metadata.get("series", "")).encode()) > _MAX_ID:
        raise UnprocessableDocument(
            f"{where}.metadata.series is longer than {_MAX_ID} bytes",
            param=f"{where}.metadata.series",
        )


def times(document: Document, where: str) -> tuple[str, int]:
    """`as_of` as given, and the document's time in Unix seconds."""
    as_of = str(document.metadata.get("as_of", ""))
    for name in ("as_of", "effective_from"):
        if not (value := str(document.metadata.get(name, ""))):
            continue
        try:
            moment = datetime.datetime.fromisoformat(value)
        except ValueError:
            raise UnprocessableDocument(
                f"{where}.metadata.{name} must be an ISO 8601 time, e.g. 2026-03-14T09:30:00Z",
                param=f"{where}.metadata.{name}",
            ) from None
        return as_of, int(
            (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
        )
    return as_of, 0


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]

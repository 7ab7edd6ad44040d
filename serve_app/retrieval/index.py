"""What an index is made of: rows, one for each chunk of a document in a version.

A row's key follows from its document's, the version and its number. So whoever knows the registry
knows the keys of all rows that there should be, and finds a document, removes it, or tells what
should not be there, without a search. Versions never mix: the rows of one stay as they were written
until they are removed. What an earlier version has embedded is found by the hash of its text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from serve_app.domain import Chunk, Document
from serve_app.errors import UnprocessableDocument
from serve_app.retrieval import admission, blocks, chunking
from serve_app.retrieval.registry.entries import Facts, document_key
from serve_app.search_text import normalised

_HEADINGS = blocks.BETWEEN


@dataclass(frozen=True, slots=True)
class Row:
    """A chunk.

    Attributes:
        ordinal: Counts the chunks of a document from 0.
        as_of: ISO 8601 time at which the text was true, as the document gives it; or empty.
        time: The same (else the document's `effective_from`) in Unix seconds; 0 when unknown.
        series: Documents of one series are versions of each other; empty for most.
        source: Where a bulk run read the document; empty for one sent over HTTP.
        tokens: Of the embedded text, as the embedding model counts.
        allow: Groups that may read the document; everybody of the tenant, where there are none.
    """

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
    allow: tuple[str, ...] = ()

    @property
    def embedded(self) -> str:
        """Title and headings say what a chunk is about; half of them do not say it themselves."""
        return embedded_text(self.title, self.heading, self.text)

    @property
    def hash(self) -> str:
        """Of what is embedded: rows with the same have the same vector."""
        return _digest(self.embedded)


@dataclass(frozen=True, slots=True)
class Stored:
    """A row as it is written to an index.

    Attributes:
        version: Of its document.
        since, until: When its document is in force among its series: half-open, Unix seconds.
        vector: Of what is embedded.
    """

    row: Row
    version: int
    since: int
    until: int
    vector: Sequence[float]

    @property
    def key(self) -> str:
        """Of its document."""
        return document_key(self.row.tenant, self.row.document_id)

    @property
    def id(self) -> str:
        return row_id(self.key, self.version, self.row.ordinal)


@dataclass(frozen=True, slots=True)
class Place:
    """Which row of which version of which document a row of an index is, and what it says of when
    it is in force."""

    id: str
    tenant: str
    document_id: str
    ordinal: int
    version: int
    since: int
    until: int


def row_id(key: str, version: int, ordinal: int) -> str:
    """A row's key: those of a document follow each other in the order of keys."""
    return f"{key}-{version}-{ordinal}"


def row_ids(key: str, version: int, chunks: int) -> list[str]:
    """Keys of all rows of a document in a version."""
    return [row_id(key, version, ordinal) for ordinal in range(chunks)]


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


@dataclass(frozen=True, slots=True)
class Original:
    """What was put as a document."""

    title: str
    text: str
    metadata: Mapping[str, Any]

    @classmethod
    def of(cls, content: str) -> Original:
        """What `facts` has written down."""
        title, text, metadata, *_ = json.loads(content)
        return cls(title, text, metadata)


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as the knowledge base has it.

    Attributes:
        original: What was put; `None` where that is a file (`url`), or was put before it was kept.
        source, url: As in `Facts`.
    """

    chunks: Sequence[Chunk]
    original: Original | None = None
    source: str = ""
    url: str = ""


def embedded_text(title: str, heading: str, text: str) -> str:
    return f"{title}\n{heading}\n{text}"


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
    admission.check(replace(document, title=title, text=text), where)
    as_of, time = admission.moment(document, where)

    def room(headings: tuple[str, ...]) -> int:
        assert window is not None
        return max(window - count(embedded_text(title, _HEADINGS.join(headings), "")), window // 2)

    pieces = chunking.split(text, max_tokens, count, None if window is None else room)
    if not pieces:
        raise UnprocessableDocument(f"{where}.text holds no text", param=f"{where}.text")
    made = []
    for ordinal, piece in enumerate(pieces):
        heading = _HEADINGS.join(piece.headings)
        row = Row(
            tenant=tenant,
            document_id=document.id,
            ordinal=ordinal,
            title=title,
            heading=heading,
            text=piece.text,
            as_of=as_of,
            time=time,
            series=_series(document),
            source=source or document.source,
            metadata=dict(document.metadata),
            allow=tuple(document.allow),
        )
        made.append(replace(row, tokens=count(row.embedded)))
    return made


def facts(document: Document, tenant: str, *, source: str = "", where: str = "document") -> Facts:
    """What is registered of a document.

    Raises:
        UnprocessableDocument: Its id, title or time does not fit; names which.
    """
    admission.check(document, where)
    as_of, time = admission.moment(document, where)
    source = source or document.source
    everything: tuple[Any, ...] = (
        document.title,
        document.text,
        dict(document.metadata),
        source,
        document.allow,
    )
    content = json.dumps(everything, sort_keys=True, default=str)
    return Facts(
        tenant,
        document.id,
        title=document.title,
        as_of=as_of,
        time=time,
        series=_series(document),
        source=source,
        allow=tuple(document.allow),
        url=document.url,
        sha256=hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest(),
        original=None if document.url else content,
    )


def hash_of(rows: Iterable[Row]) -> str:
    """Of what the rows of a document say, in order."""
    return _digest("".join(row.hash for row in rows))


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
    text = "\n\n".join(lines)
    return Document(first.document_id, first.title, text, first.metadata, allow=first.allow)


def _series(document: Document) -> str:
    """The series of a document. One that is for some groups hides none that is for others."""
    series = str(document.metadata.get("series", ""))
    if not series or not document.allow:
        return series
    return _digest(json.dumps([series, *sorted(document.allow)]))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

"""What the registry is told and what it says, as plain data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["pending", "in", "failed", "deleted"]
Intent = Literal["put", "delete", "copy"]

# Milvus's names have neither hyphen nor at sign, and those of collections no capital.
_TO_MILVUS, _FROM_MILVUS = str.maketrans("-@", "XA"), str.maketrans("XA", "-@")

UNKNOWN = -(2**62)  # seconds; the first moment of a document whose rows may say anything
FOR_EVER = 2**53  # seconds; the last moment of a document that no other one of its series follows


@dataclass(frozen=True, slots=True)
class Facts:
    """What is registered of a document beside its text.

    Attributes:
        as_of, time, series: As in `index.Row`.
        source: The argument of the bulk run that found its file; empty for one sent over HTTP.
        url: Of the file that it was read from; likewise.
        sha256: Of everything that is stored of the document: one with the same is the same.
        run: The bulk run that saw it last.
        allow: Groups that may read it; everybody of the tenant, where there are none.
        original: What was put, as JSON, where it is to be kept; none of what is registered.
    """

    tenant: str
    id: str
    title: str = ""
    as_of: str = ""
    time: int = 0
    series: str = ""
    source: str = ""
    url: str = ""
    sha256: str = ""
    run: str = ""
    allow: tuple[str, ...] = ()
    original: str | None = field(default=None, repr=False, compare=False)

    @property
    def key(self) -> str:
        return document_key(self.tenant, self.id)


@dataclass(frozen=True, slots=True)
class Entry:
    """A document as it is registered.

    Attributes:
        state: `pending`: the first writer has not finished; `failed`: it never could be read.
        version: The one in force; 0 where none ever was. A later one is a larger number.
        since, until: When it is in force among its series: half-open, Unix seconds.
        claimed_until: A writer has it until then, at most.
    """

    facts: Facts
    state: State
    version: int
    since: int = 0
    until: int = FOR_EVER
    problem: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0
    claim: str | None = None
    claimed_until: float | None = None
    intent: str = ""

    @property
    def key(self) -> str:
        return self.facts.key


@dataclass(frozen=True, slots=True)
class Standing:
    """What tells whether a row of a document still stands.

    Attributes:
        version: The one in force.
        allow: Groups that may read it.
        changed_at: When it came into force, Unix seconds; `None` while somebody writes it.
    """

    version: int
    allow: tuple[str, ...]
    changed_at: float | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A document that is a writer's for a while.

    Attributes:
        before: What was registered until now.
        version: Nobody had it and nobody else will: what is written under it is this writer's.
        since, until: Of the new version.
    """

    before: Entry
    version: int
    since: int
    until: int

    @property
    def key(self) -> str:
        return self.before.key


@dataclass(frozen=True, slots=True)
class Copy:
    """A document in one index.

    Attributes:
        since, until: What its rows say of when it is in force; `since` is `UNKNOWN` of rows that
            somebody was writing over.
        chunks, tokens: How many rows it has, and how many tokens they have together.
        hash: Of what they say (`index.hash_of`); empty where that is not known.
    """

    key: str
    tenant: str
    version: int
    since: int
    until: int
    chunks: int
    tokens: int
    hash: str = ""

    @property
    def says(self) -> tuple[int, int] | None:
        """What its rows say of when it is in force, where that is known."""
        return None if self.since == UNKNOWN else (self.since, self.until)


@dataclass(frozen=True, slots=True)
class Kept:
    """A document as it is registered.

    Attributes:
        original: What was put (`Facts.original`), where it is kept.
        copy: In the index that was asked about, if that has one.
    """

    entry: Entry
    original: str | None
    copy: Copy | None


@dataclass(frozen=True, slots=True)
class Obsolete:
    """Rows that are to be removed from an index."""

    index: str
    key: str
    version: int
    chunks: int


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit came to.

    Attributes:
        behind: Indexes that must be written too before it can be; then nothing is committed yet.
        obsolete: Rows that are out of force now.
        redated: Keys of documents whose time in force has changed: rows of theirs say otherwise.
    """

    behind: tuple[str, ...] = ()
    obsolete: tuple[Obsolete, ...] = ()
    redated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Index:
    """One version of a collection.

    Attributes:
        name: Of the Milvus collection (`index_name`).
        model: The embedding model's name in the settings.
        chunk_tokens: Upper bound of a chunk.
        sparse: It can be searched by BM25.
        owner: The tenant that made the collection; empty for one made before that was kept.
        vectors: The type of what finds its vectors; empty for one made before that was kept.
        reason: Why that.
    """

    name: str
    model: str
    dimension: int
    chunk_tokens: int
    sparse: bool
    owner: str = ""
    vectors: str = field(default="", compare=False)
    reason: str = field(default="", compare=False)

    @property
    def collection(self) -> str:
        return collection_of(self.name)

    @property
    def version(self) -> int:
        return int(self.name.rpartition("__")[2])


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection and its indexes.

    Attributes:
        in_force: What is searched; none until the first index is made.
        filling: What is to be put in force next, by a reindex or a rollback.
        paused: Whether the filling has been told to wait.
        retired: Indexes that are out of force, by the Unix time since when.
    """

    name: str
    owner: str
    in_force: Index | None
    filling: Index | None = None
    paused: bool = False
    retired: Mapping[Index, float] = field(default_factory=dict)

    @property
    def active(self) -> tuple[Index, ...]:
        """Those that every writer writes to."""
        return tuple(each for each in (self.in_force, self.filling) if each is not None)


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as a listing shows it.

    Attributes:
        mtime: Unix seconds; 0 where the file system does not say. Neither does it then say `etag`.
        etag: Of an object store.
    """

    url: str
    size: int
    mtime: float = 0.0
    etag: str = ""


def document_key(tenant: str, document_id: str) -> str:
    """A document's key in its collection."""
    # Each part's length keeps tenant "a/b" with document "c" apart from "a" with "b/c".
    text = "".join(f"{len(part)}:{part}" for part in (tenant, document_id))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def milvus_name(collection: str) -> str:
    """A collection's name as Milvus takes it."""
    return collection.translate(_TO_MILVUS)


def index_name(collection: str, number: int) -> str:
    """Of the Milvus collection that is a version of a collection."""
    return f"{milvus_name(collection)}__{number}"


def collection_of(index: str) -> str:
    """The collection that an index is a version of, by the index's name."""
    return index.rpartition("__")[0].translate(_FROM_MILVUS)

"""What goes from stage to stage of a bulk run: plain rows, which Ray Data carries as Arrow tables.

A file to be read becomes a row for each of its documents, and one without a document where it has
none; what was done with those of a file becomes one row again. Every row knows its file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from serve_app.domain import Document
from serve_app.errors import TriviumError
from serve_app.retrieval import admission, formats
from serve_app.retrieval.registry.entries import Seen
from serve_app.retrieval.registry.meetings import NOTHING, Totals
from serve_app.retrieval.sources import File, twice

# Part of what a file's content is known by: `--verify` reads everything anew once this changes.
_READERS = 1


@dataclass(frozen=True, slots=True)
class Origin:
    """A file that is to be read.

    Attributes:
        url, source, size, stem, place, etag, allow: As in `sources.File`.
        mtime: Likewise; 0 too where the file has changed so lately that it may do so again.
        sha256: Of what was read of it the last time, where all of that is in; else empty.
        known: An earlier run has begun to read it.
    """

    url: str
    source: str
    size: int
    stem: str
    place: str
    mtime: float = 0.0
    etag: str = ""
    allow: tuple[str, ...] = ()
    sha256: str = ""
    known: bool = False

    @property
    def seen(self) -> Seen:
        """What is remembered of it as it was listed; for whom it is belongs to that."""
        told = (self.mtime or self.etag) and self.allow
        etag = f"{self.etag} {json.dumps(self.allow)}" if told else self.etag
        return Seen(self.place, self.size, self.mtime, etag)

    def content(self) -> bytes:
        """Raises `UnprocessableDocument` where it cannot be read."""
        return File(self.url, self.source, self.size).read()

    def hashed(self, content: bytes) -> str:
        """What its content is known by."""
        readers = f"{_READERS} {json.dumps(self.allow)}\n"
        return hashlib.sha256(readers.encode() + content).hexdigest()


@dataclass(frozen=True, slots=True)
class Item:
    """A document that was read, or what is said of a file beside its documents.

    Attributes:
        sha256: Of the file's content now.
        documents: How many the file has.
        text: The document as JSON; empty for none.
        problems: What could not be read of the file, with its first row.
        left_out: What else is not in its documents, in words, with its first row.
    """

    origin: Origin
    sha256: str
    documents: int
    text: str = ""
    problems: tuple[str, ...] = ()
    left_out: str = ""

    def document(self) -> Document:
        said = json.loads(self.text)
        own = {"allow": tuple(said["allow"]), "source": self.origin.source}
        return Document(**{**said, **own, "url": self.origin.place})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done with some documents of a file.

    Attributes:
        sha256, documents: As in `Item`.
        done: How many of its documents this is about.
        problems: What could not be read or taken.
        left_out: As in `Item`.
        lost: Places and URLs of files that have lost a document to this one, and what is said.
        later: A document of it waits until all other files have been read.
        met: What was in force of documents that were read from this file before.
        before, after: What is in force of its documents, and will be.
        embedded, embedded_tokens: Chunks that had to be embedded.
        removed: Chunks that the documents have no more.
    """

    origin: Origin
    sha256: str
    documents: int
    done: int = 0
    problems: tuple[str, ...] = ()
    left_out: str = ""
    lost: tuple[tuple[str, str], ...] = ()
    later: bool = False
    met: Totals = NOTHING
    before: Totals = NOTHING
    after: Totals = NOTHING
    embedded: int = 0
    embedded_tokens: int = 0
    removed: int = 0

    def __add__(self, more: Outcome) -> Outcome:
        """The same of more documents of the same file."""
        return replace(
            self,
            done=self.done + more.done,
            problems=self.problems + more.problems,
            left_out=self.left_out or more.left_out,
            lost=self.lost + more.lost,
            later=self.later or more.later,
            met=self.met + more.met,
            before=self.before + more.before,
            after=self.after + more.after,
            embedded=self.embedded + more.embedded,
            embedded_tokens=self.embedded_tokens + more.embedded_tokens,
            removed=self.removed + more.removed,
        )


def read(origin: Origin) -> Iterator[Item]:
    """What a file holds; nothing but its hash where that is what it was the last time."""
    try:
        content = origin.content()
        sha256 = origin.hashed(content)
        if sha256 == origin.sha256:
            yield Item(origin, sha256, 0)
            return
        found = formats.read(origin.url, content, origin.stem)
    except TriviumError as error:
        yield Item(origin, "", 0, "", (error.message,))
        return
    problems, losses = list(found.problems), found.losses(origin.url)
    taken: dict[str, Document] = {}
    for document in found.documents:
        where = f"{origin.url}: document {document.id!r}: document"
        try:
            admission.check(document, where)
            admission.check_names(document, where)
        except TriviumError as error:
            problems.append(error.message)
            continue
        if taken.setdefault(document.id, document) is not document:
            problems.append(twice(origin.url, document.id))
    if not taken:
        yield Item(origin, sha256, 0, "", tuple(problems), losses)
    for number, document in enumerate(taken.values()):
        allow = document.allow or origin.allow
        text = json.dumps(asdict(replace(document, allow=allow)), default=str)
        of_file = ((), "") if number else (tuple(problems), losses)
        yield Item(origin, sha256, len(taken), text, *of_file)


def packed(item: Origin | Item | Outcome) -> str:
    """As JSON, for a column of an Arrow table."""
    return json.dumps(asdict(item))


def origin(text: str) -> Origin:
    """What `packed` made of one."""
    return _origin(json.loads(text))


def item(text: str) -> Item:
    found = json.loads(text)
    own = {"origin": _origin(found["origin"]), "problems": tuple(found["problems"])}
    return Item(**{**found, **own})


def outcome(text: str) -> Outcome:
    found = json.loads(text)
    made = {name: Totals(**found[name]) for name in ("met", "before", "after")}
    lost = tuple((place, said) for place, said in found["lost"])
    own = {"origin": _origin(found["origin"]), "problems": tuple(found["problems"]), "lost": lost}
    return Outcome(**{**found, **made, **own})


def _origin(found: dict[str, Any]) -> Origin:
    return Origin(**{**found, "allow": tuple(found["allow"])})

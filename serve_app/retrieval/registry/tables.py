"""The registry's tables. `migrations/` makes and alters them; a test compares the two.

Times of documents are whole Unix seconds, those of our own doing Unix seconds.
"""

from __future__ import annotations

import zlib
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TextClause,
    TypeDecorator,
    text,
)
from sqlalchemy.engine import Dialect


class Words(TypeDecorator[str]):
    """Any text, in the order of its code points, in both databases alike.

    PostgreSQL's own texts take no NUL, and their order is the machine's language's.
    """

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        return None if value is None else value.encode("utf-8", "surrogatepass")

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else bytes(value).decode("utf-8", "surrogatepass")


class Groups(TypeDecorator[tuple[str, ...]]):
    """Names of groups, with a comma before and behind each: none holds one."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> str | None:
        return f",{','.join(value)}," if value else ""

    def process_result_value(self, value: Any, dialect: Dialect) -> tuple[str, ...]:
        return tuple(filter(None, str(value or "").split(",")))


class Compressed(TypeDecorator[str]):
    """A text that is seldom read (zlib, RFC 1950)."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        return None if value is None else zlib.compress(value.encode(), level=1)

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else zlib.decompress(value).decode()


metadata = MetaData()

HAS_SERIES = text("length(series) > 0")
HAS_URL = text("length(url) > 0")


def _few(name: str, *columns: str, of: TextClause) -> Index:
    """An index of those rows alone that a condition holds for."""
    return Index(name, *columns, sqlite_where=of, postgresql_where=of)


_COLLECTION = String(63)
_INDEX = String(80)  # `entries.index_name`
_KEY = String(32)
_TOKEN = String(32)
_HASH = String(32)

# One row for each collection, from when its first index is begun.
collections = Table(
    "collections",
    metadata,
    Column("name", _COLLECTION, primary_key=True),
    Column("owner", Words, nullable=False),
    Column("in_force", _INDEX),
    Column("filling", _INDEX),
    Column("paused", Boolean, nullable=False, default=False),
    Column("removing", Boolean, nullable=False, default=False),
    Column("last_number", Integer, nullable=False),
    # The one process that makes, fills or removes its indexes.
    Column("held_by", _TOKEN),
    Column("held_until", Float, nullable=False, default=0.0),
    Column("created_at", Float, nullable=False),
    Index("collections_by_owner", "owner"),
)

# One row for each Milvus collection that is a version of a collection, from before it is made.
indexes = Table(
    "indexes",
    metadata,
    Column("name", _INDEX, primary_key=True),
    Column("collection", _COLLECTION, nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(8), nullable=False),
    Column("model", Words, nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("chunk_tokens", Integer, nullable=False),
    Column("sparse", Boolean, nullable=False),
    Column("vector_index", String(16), nullable=False, default="", server_default=""),
    Column("vector_index_reason", Text, nullable=False, default="", server_default=""),
    Column("created_at", Float, nullable=False),
    Column("retired_at", Float),
    Index("indexes_by_collection", "collection"),
)

# One row for each document that was ever put and is not forgotten yet. `version` is the one in
# force; 0 where none ever was. `since` and `until` bound when it is in force among the versions of
# its series. While a writer has it, `claim` names the writer, `next_version` is what it writes, and
# `intent` what it is about; a claim that is over and still there says that a writer died.
documents = Table(
    "documents",
    metadata,
    Column("collection", _COLLECTION, primary_key=True),
    Column("key", _KEY, primary_key=True),
    Column("tenant", Words, nullable=False),
    Column("id", Words, nullable=False),
    Column("state", String(8), nullable=False),
    Column("problem", Words, nullable=False, default=""),
    Column("version", BigInteger, nullable=False, default=0),
    Column("title", Words, nullable=False, default=""),
    Column("as_of", Words, nullable=False, default=""),
    Column("time", BigInteger, nullable=False, default=0),
    Column("series", Words, nullable=False, default=""),
    Column("since", BigInteger, nullable=False, default=0),
    Column("until", BigInteger, nullable=False, default=0),
    Column("source", Words, nullable=False, default=""),
    Column("url", Words, nullable=False, default=""),
    Column("sha256", String(64), nullable=False, default=""),
    Column("run", _TOKEN, nullable=False, default=""),
    Column("allow", Groups, nullable=False, default=()),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("claim", _TOKEN),
    Column("claimed_until", Float),
    Column("next_version", BigInteger, nullable=False, default=0),
    Column("intent", String(8), nullable=False, default=""),
    Index("documents_by_id", "collection", "tenant", "id", unique=True),
    Index("documents_by_change", "updated_at"),
    _few("documents_by_series", "collection", "tenant", "series", "time", "id", of=HAS_SERIES),
    _few("documents_by_url", "collection", "tenant", "url", of=HAS_URL),
    _few("documents_by_claim", "claim", of=text("claim IS NOT NULL")),
    _few("documents_by_end_of_claim", "claimed_until", of=text("claimed_until IS NOT NULL")),
)

# What was put, of documents in force that were read from no file: what comes from one is there.
originals = Table(
    "originals",
    metadata,
    Column("collection", _COLLECTION, primary_key=True),
    Column("key", _KEY, primary_key=True),
    Column("content", Compressed, nullable=False),
)

# One row for each document in each index that holds it: in which version, in how many rows, and
# what they say of when it is in force. Rows have keys that follow from the document's key, the
# version and their number (`index.row_id`). `hash` is of their texts (`index.hash_of`); empty where
# that is not known.
copies = Table(
    "copies",
    metadata,
    Column("index_name", _INDEX, primary_key=True),
    Column("key", _KEY, primary_key=True),
    Column("tenant", Words, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("chunks", Integer, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("hash", _HASH, nullable=False, default="", server_default=""),
    Index("copies_by_tenant", "index_name", "tenant", "tokens"),
)

# One row for each file that a bulk run has read: what it was like then, so that the next run need
# not read it. `run` is the last one that saw it.
files = Table(
    "files",
    metadata,
    Column("collection", _COLLECTION, primary_key=True),
    Column("tenant", Words, primary_key=True),
    Column("source", Words, primary_key=True),
    Column("url", Words, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("mtime", Float, nullable=False),
    Column("etag", Words, nullable=False, default=""),
    Column("sha256", String(64), nullable=False, default=""),
    Column("state", String(8), nullable=False),
    Column("problem", Words, nullable=False, default=""),
    Column("run", _TOKEN, nullable=False),
    Column("seen_at", Float, nullable=False),
)

# One row for each source that a bulk run has read: one run at a time reads it.
sources = Table(
    "sources",
    metadata,
    Column("collection", _COLLECTION, primary_key=True),
    Column("tenant", Words, primary_key=True),
    Column("source", Words, primary_key=True),
    Column("held_by", _TOKEN),
    Column("held_until", Float, nullable=False, default=0.0),
)

# One row for each tenant's part of a collection that was ever sketched, for good. `content` is none
# where the tenant has nothing in it any more. `drawn_to` is the latest change that is in it;
# `stale` counts documents of which it still holds what they were.
sketches = Table(
    "sketches",
    metadata,
    Column("collection", _COLLECTION, primary_key=True),
    Column("tenant", Words, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("content", LargeBinary),
    Column("drawn_to", Float, nullable=False),
    Column("stale", Integer, nullable=False),
    # Version of the model of its vectors; none before it is drawn.
    Column("model", String(64), nullable=False, default=""),
    Column("kept_at", Float, nullable=False, default=0.0),
    # The one process that draws it.
    Column("held_until", Float, nullable=False, default=0.0),
    Index("sketches_by_change", "kept_at"),
)

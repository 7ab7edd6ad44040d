"""The store as a bulk run sees it: itself, or the replica of a running stack that owns it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from serve_app.domain import RequestContext
from serve_app.retrieval.index import Known, Row
from serve_app.retrieval.indexes import Index
from serve_app.retrieval.schema import Vector

if TYPE_CHECKING:
    # Not at run time: Ray reads its environment on import, and the command line sets it late.
    from serve_app.handles import Remote

# Most calls are one page and done in a second; `rows` of a large index is many of them.
PATIENCE_S = 120.0


class Port(Protocol):
    """What is done on a store by others than its retriever; `MilvusStore` says how."""

    async def ensure(
        self, collection: str, model: str, dimension: int, chunk_tokens: int, owner: str = ""
    ) -> Index: ...
    async def create(
        self, collection: str, model: str, dimension: int, chunk_tokens: int, owner: str = ""
    ) -> Index: ...
    async def index(self, collection: str) -> Index: ...
    async def versions(self, collection: str) -> list[Index]: ...
    async def switch(self, collection: str, name: str) -> None: ...
    async def known(
        self,
        index: Index,
        tenant: str | None = None,
        documents: Sequence[str] | None = None,
        source: str | None = None,
    ) -> dict[str, Known]: ...
    async def vectors(self, index: Index, keys: Sequence[str]) -> dict[str, list[float]]: ...
    async def upsert(self, index: Index, rows: Sequence[tuple[Row, Vector]]) -> None: ...
    async def remove(self, index: Index, keys: Sequence[str]) -> None: ...
    async def rows(self, index: Index) -> list[list[Row]]: ...
    async def tokens(self, index: Index, tenant: str) -> list[int]: ...


METHODS = frozenset(name for name in vars(Port) if not name.startswith("_"))


class RemoteStore:
    """The store inside a running stack's retriever, which owns the file of Milvus Lite.

    Its methods are those of `Port`; they raise what the store raises, and `DeadlineExceeded` after
    `PATIENCE_S`.

    Args:
        remote: The Retriever deployment.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._run = f"bulk-{uuid.uuid4().hex[:12]}"

    def __getattr__(self, method: str) -> Any:
        if method not in METHODS:
            raise AttributeError(method)

        async def call(*args: Any) -> Any:
            context = RequestContext(self._run, time.time() + PATIENCE_S)
            return await self._remote.call("on_store", context, method, *args)

        return call

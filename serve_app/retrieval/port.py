"""The store as others see it: itself, or the replica of a running stack that owns it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from serve_app.domain import RequestContext
from serve_app.retrieval.index import Place, Stored
from serve_app.retrieval.registry.entries import Copy, Facts, Index
from serve_app.retrieval.vector_index import Choice

if TYPE_CHECKING:
    # Not at run time: Ray reads its environment on import, and the command line sets it late.
    from serve_app.handles import Remote

PATIENCE_S = 120.0  # each call is a page or so


class Port(Protocol):
    """What writers, menders and bulk runs do on a store; `MilvusStore` says how."""

    async def address(self) -> str: ...
    async def computes_bm25(self) -> bool: ...
    async def choice(self, rows: int, dimension: int) -> Choice: ...
    async def make(self, index: Index) -> None: ...
    async def drop(self, name: str) -> None: ...
    async def alias(self, collection: str, name: str) -> None: ...
    async def unalias(self, collection: str) -> None: ...
    async def aliased(self, collection: str) -> str | None: ...
    async def made(self, collection: str) -> list[tuple[Index, bool]]: ...
    async def upsert(self, index: Index, rows: Sequence[Stored]) -> None: ...
    async def remove(self, name: str, keys: Sequence[str]) -> None: ...
    async def vectors(self, index: Index, keys: Sequence[str]) -> dict[str, list[float]]: ...
    async def stored(self, index: Index, keys: Sequence[str]) -> list[Stored]: ...
    async def places(self, name: str, documents: Sequence[tuple[str, str]]) -> list[Place]: ...
    async def between(self, name: str, first: str, end: str) -> list[Place]: ...
    async def documents_between(
        self, index: Index, first: str, end: str
    ) -> list[tuple[Facts, Copy]]: ...
    async def first_layout(self, index: Index, first: str, end: str) -> list[Stored]: ...
    async def rows(self, name: str) -> int: ...


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

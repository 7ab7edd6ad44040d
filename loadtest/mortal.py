"""Processes that die in the middle: their store and registry answer so many calls and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from sqlalchemy import Connection

from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.collections import Collections
from serve_app.retrieval.registry.documents import Documents
from serve_app.retrieval.store import MilvusStore

T = TypeVar("T")


class Killed(BaseException):
    """Not an error that anybody handles: the process is gone."""


class Life:
    """Of so many calls. The last one is carried out, and nobody hears of it."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    async def __call__(self, call: Callable[[], Any]) -> Any:
        if self.left <= 0:
            raise Killed
        self.left -= 1
        done = await call()
        if self.left == 0:
            raise Killed
        return done


class _MortalDatabase:
    def __init__(self, inner: Any, life: Life) -> None:
        self._inner = inner
        self._life = life

    async def write(self, work: Callable[[Connection], T]) -> T:
        return cast(T, await self._life(lambda: self._inner.write(work)))

    async def read(self, work: Callable[[Connection], T]) -> T:
        return cast(T, await self._life(lambda: self._inner.read(work)))


class _MortalStore:
    def __init__(self, inner: MilvusStore, life: Life) -> None:
        self._inner = inner
        self._life = life

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found) or name == "be_patient":
            return found

        async def call(*args: Any, **more: Any) -> Any:
            return await self._life(lambda: found(*args, **more))

        return call


def mortal(store: MilvusStore, registry: Registry, calls: int) -> tuple[MilvusStore, Registry]:
    """The same store and registry, for a process that dies after so many calls on them."""
    life = Life(calls)
    dying = Registry.__new__(Registry)
    database = cast(Any, _MortalDatabase(registry._database, life))
    dying.collections = Collections(database, registry.documents._clock)
    dying.documents = Documents(database, registry.documents._clock)
    return cast(MilvusStore, _MortalStore(store, life)), dying

"""Work on the store: the running stack's if that owns it, else one that is opened here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from serve_app import models
from serve_app.cli import local
from serve_app.cli.console import Bars
from serve_app.settings import RetrievalSettings, Settings

if TYPE_CHECKING:
    from serve_app.retrieval.bulk import Step
    from serve_app.retrieval.catalogue import Catalogue
    from serve_app.retrieval.checking import Check
    from serve_app.retrieval.embedder import Model
    from serve_app.retrieval.port import Port
    from serve_app.retrieval.registry import Registry
    from serve_app.retrieval.reindexing import Reindexing

Start = Callable[[], None]  # makes sure that Ray runs
Done = TypeVar("Done")


class Bar:
    """A progress bar that appears when there is something to embed."""

    def __init__(self, progress: Bars) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._started = 0.0

    def __call__(self, done: int, total: int) -> None:
        self._show(done, total, done)

    def read(self, step: Step) -> None:
        """Of a bulk run: KiB of files that have changed, and chunks a second."""
        self._show(int(step.done) >> 10, step.total >> 10, step.embedded)

    def _show(self, done: int, total: int, embedded: int) -> None:
        if self._task is None:
            self._task = self._progress.add_task("embedding", total=total, rate="")
            self._started = time.monotonic()
            return
        rate = f"{embedded / max(0.1, time.monotonic() - self._started):.0f}/s"
        self._progress.update(self._task, completed=done, total=total, rate=rate)


@dataclass(frozen=True, slots=True)
class Base:
    """The knowledge base, open.

    Attributes:
        start: Makes sure that Ray runs.
        bar: Shows how far the work is.
    """

    store: Port
    registry: Registry
    start: Start
    bar: Bar


@dataclass(frozen=True, slots=True)
class Parts:
    """What works on collections as a whole."""

    catalogue: Catalogue
    reindexing: Reindexing
    check: Check


def with_base(settings: Settings, work: Callable[[Base], Awaitable[Done]]) -> Done:
    """Do some work on the knowledge base that the settings name, with a progress bar."""
    for name in ("pymilvus", "milvus_lite"):
        # They log tracebacks of errors that are raised too, and said in a sentence.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as driver:
        joined: list[bool] = []

        def start() -> None:
            if not joined:
                joined.append(driver.enter_context(local.joined(settings)))

        async def run() -> Done:
            from serve_app.retrieval.registry import Registry

            registry = Registry.of(settings)
            await registry.open()
            try:
                with _progress() as progress:
                    async with _store(settings, start) as store:
                        return await work(Base(store, registry, start, Bar(progress)))
            finally:
                await registry.close()

        return asyncio.run(run())


def opened(base: Base, retrieval: RetrievalSettings) -> Parts:
    """What works on collections as a whole."""
    from serve_app.retrieval import preparing
    from serve_app.retrieval.catalogue import Catalogue
    from serve_app.retrieval.checking import Check
    from serve_app.retrieval.embedder import EmbeddingModels
    from serve_app.retrieval.mending import Mender
    from serve_app.retrieval.reindexing import Reindexing

    embedders = EmbeddingModels(
        retrieval.embedding_name, models.embedding_models(), retrieval.embedding
    )
    catalogue = Catalogue(base.store, base.registry)
    mender = Mender(base.store, base.registry, partial(preparing.split, embedders))
    parts = (base.store, base.registry, catalogue, mender)
    return Parts(catalogue, Reindexing(*parts), Check(*parts))


def embedding_model(name: str) -> Model:
    """The model that collections know by that name."""
    from serve_app.retrieval.embedder import Model

    return Model.named(name, models.embedding_models())


@contextlib.asynccontextmanager
async def _store(settings: Settings, start: Start) -> AsyncIterator[Port]:
    if settings.retrieval.embedded and local.RunFile.of(settings).addresses():
        start()
        from ray import serve

        from serve_app.handles import Remote
        from serve_app.retrieval.port import PATIENCE_S, RemoteStore

        handle = serve.get_deployment_handle("Retriever", "trivium")
        yield RemoteStore(Remote(handle, "knowledge", PATIENCE_S))
        return
    from serve_app.retrieval.store import MilvusStore

    store = MilvusStore.of(settings.retrieval)
    try:
        yield store
    finally:
        await store.close()


def _progress() -> Bars:
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )

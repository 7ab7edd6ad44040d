"""Bulk ingest: a collection is brought up to date with files, however many.

    list     files, folder by folder; what the registry knows of them tells which have changed
    read     those alone, on every core there is: documents, their rows, their vectors, Milvus
    settle   which file is in, and what no file holds any more

Nothing grows with the corpus in the process that runs it. Every step can be repeated, and what is
gone is removed last; so a run that was killed is finished by the same command.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from serve_app.errors import NotFound
from serve_app.retrieval.bulk import lease, workers
from serve_app.retrieval.bulk.intake import Intake, Run
from serve_app.retrieval.bulk.items import Item, Origin, Outcome, read
from serve_app.retrieval.bulk.lease import Lease
from serve_app.retrieval.bulk.listing import Listing, Look
from serve_app.retrieval.bulk.models import LazyModels
from serve_app.retrieval.bulk.settling import Settling
from serve_app.retrieval.bulk.spool import Spool
from serve_app.retrieval.bulk.workers import Reach, Start
from serve_app.retrieval.catalogue import Catalogue
from serve_app.retrieval.embedder import check_window
from serve_app.retrieval.index import IngestReport
from serve_app.retrieval.port import Port
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.entries import Index
from serve_app.retrieval.sources import File
from serve_app.settings import Settings

# New text that is embedded here: more is worth the start of Ray's workers.
_ALONE = 512 * 1024


@dataclass(frozen=True, slots=True)
class Step:
    """How far a run is.

    Attributes:
        done, total: Bytes of changed files, read and taken in.
        embedded: Chunks.
    """

    done: float
    total: int
    embedded: int


@dataclass(slots=True)
class Result:
    """What a run did, or would do.

    Attributes:
        model: The embedding model that the collection is made with.
        problems: What could not be read or taken, a line each.
        left_out: What is not in the documents of a file that was read, a line for each file.
        files, read: How many were listed, and how many of them had to be read.
        seconds: Of all of it.
    """

    report: IngestReport
    model: str
    problems: Spool = field(default_factory=Spool)
    left_out: Spool = field(default_factory=Spool)
    files: int = 0
    read: int = 0
    seconds: float = 0.0


Progress = Callable[[Step], None]


async def ingest(
    files: Iterable[File],
    store: Port,
    registry: Registry,
    collection: str,
    tenant: str,
    settings: Settings,
    *,
    paths: Mapping[str, str],
    start: Start,
    verify: bool = False,
    dry_run: bool = False,
    on_progress: Progress = lambda step: None,
) -> Result:
    """Bring a collection up to date with files.

    Documents that an earlier run read from the same sources and that are gone are removed, unless a
    file could not be read. A collection that is there keeps its model and its bound of chunks.

    Args:
        files: As `sources.listed` finds them.
        settings: Where Milvus and the registry are, and what collections that are made are like.
        paths: Folders of embedding models whose name is not one.
        start: Makes sure that Ray runs; called only when there is work for it.
        verify: Read every file and compare its content, instead of believing its time or etag.

    Raises:
        Conflict: Another run reads one of the sources.
        SettingsError: The model reads fewer tokens than a chunk of a new collection may have.
        UnprocessableDocument: The files cannot be listed; nothing has been written.
        Unavailable: Milvus or the registry is not there for long.
    """
    base = _Base(store, registry, Catalogue(store, registry), settings, paths)
    collection = settings.retrieval.tenancy.place(collection, tenant)
    run = _Ingest(base, collection, tenant, start, on_progress, verify=verify, dry=dry_run)
    try:
        return await run.over(files)
    finally:
        await run.end()


@dataclass(frozen=True, slots=True)
class _Base:
    store: Port
    registry: Registry
    catalogue: Catalogue
    settings: Settings
    paths: Mapping[str, str]


class _Ingest:
    def __init__(
        self,
        base: _Base,
        collection: str,
        tenant: str,
        start: Start,
        on_progress: Progress,
        *,
        verify: bool,
        dry: bool,
    ) -> None:
        self._base = base
        self._of = (collection, tenant)
        self._name = lease.name()
        self._start = start
        self._on_progress = on_progress
        self._verify = verify
        self._dry = dry
        self._models = LazyModels(base.paths, run=base.settings.retrieval.embedding)
        self._lease = Lease(base.registry, collection, tenant, self._name)

    async def over(self, files: Iterable[File]) -> Result:
        started, clock = time.time(), time.monotonic()
        index = await self._index()
        reach = await self._reach()
        look = Look(
            self._base.registry,
            *self._of,
            self._start,
            self._lease.hold,
            self._begin,
            verify=self._verify,
        )
        await look.over(iter(files))
        if self._verify:
            await look.closer(reach)
        found = look.found
        run = Run(*self._of, index, self._name, started, self._dry)
        settling = Settling(run, self._base.store, self._base.registry)
        await self._read(found, run, reach, settling)
        await settling.remove_gone(list(found.sources))
        return Result(
            await self._report(found, run, settling),
            index.model,
            settling.problems,
            settling.left_out,
            found.files,
            found.changed.count,
            time.monotonic() - clock,
        )

    async def end(self) -> None:
        await self._lease.let_go()

    async def _index(self) -> Index:
        """The one in force, or what a new collection is going to have."""
        collection, _ = self._of
        with suppress(NotFound):
            in_force = (await self._base.catalogue.collection(collection)).in_force
            assert in_force is not None
            return in_force
        chosen = self._base.settings.retrieval
        return Index(f"{collection}__0", chosen.embedding_name, 0, chosen.chunk_tokens, False)

    async def _made(self, run: Run) -> Run:
        """The run with the index that it writes to, which is made if there is none."""
        if self._dry or run.index.version:
            return run
        wanted = run.index
        window = await asyncio.to_thread(lambda: self._models.model(wanted.model).window)
        check_window(wanted.chunk_tokens, wanted.model, window)
        dimension = await asyncio.to_thread(lambda: self._models.model(wanted.model).dimension)
        made = await self._base.catalogue.ensure(
            run.collection, wanted.model, dimension, wanted.chunk_tokens, run.tenant
        )
        assert made.in_force is not None
        return Run(run.collection, run.tenant, made.in_force, run.name, run.started, run.dry)

    async def _reach(self) -> Reach:
        settings, chosen = self._base.settings, self._base.settings.retrieval
        registry = chosen.registry_address
        if chosen.embedded:
            # Milvus Lite's file has one owner, which others reach at an address of this machine.
            found = {"milvus_uri": await self._base.store.address(), "registry": registry}
            settings = settings.model_copy(update={"retrieval": chosen.model_copy(update=found)})
        here = chosen.embedded or "://" not in registry
        return Reach(settings, self._base.paths, here)

    async def _begin(self, source: str, origins: Sequence[Origin]) -> None:
        if not self._dry:
            seen = [each.seen for each in origins]
            await self._base.registry.runs.begin(*self._of, source, self._name, seen)

    async def _read(self, found: Listing, run: Run, reach: Reach, settling: Settling) -> None:
        changed = found.changed
        if changed.count:
            self._on_progress(Step(0.0, changed.size, 0))
        if changed.blocks is not None:
            run = await self._made(run)
            async for outcomes in workers.taken(changed.blocks, run, reach):
                await self._step(settling, outcomes, changed.size)
        elif changed.count:
            few = await asyncio.to_thread(lambda: [e for o in changed.few for e in read(o)])
            if any(each.text for each in few):
                run = await self._made(run)
            if await self._new_text(run, few) <= _ALONE:
                await self._alone(few, run, settling, changed.size)
            else:
                self._start()
                async for outcomes in workers.taken(list(workers.parts(few)), run, reach):
                    await self._step(settling, outcomes, changed.size)
        await settling.late(self._intake(run))
        await settling.note()

    async def _alone(self, few: Sequence[Item], run: Run, settling: Settling, total: int) -> None:
        intake = self._intake(run)
        for part in workers.parts(few):
            await self._step(settling, await intake.take(part), total)

    async def _new_text(self, run: Run, few: Sequence[Item]) -> int:
        """Characters that will have to be embedded, about; none of a dry run."""
        if self._dry or sum(len(each.text) for each in few) <= _ALONE:
            return 0
        return await self._intake(run).new_text(few)

    def _intake(self, run: Run) -> Intake:
        return Intake(run, self._base.store, self._base.registry, self._models)

    async def _step(self, settling: Settling, outcomes: Sequence[Outcome], total: int) -> None:
        self._lease.check()
        await settling.add(outcomes)
        self._on_progress(Step(settling.size, total, settling.chunks))

    async def _report(self, found: Listing, run: Run, settling: Settling) -> IngestReport:
        collection, tenant = self._of
        index = await self._index()
        held = await self._base.registry.meetings.totals(
            collection, index.name, tenant, list(found.sources)
        )
        if self._dry:
            held += settling.change
        return IngestReport(
            held.documents,
            held.chunks,
            settling.embedded,
            settling.removed,
            settling.embedded_tokens,
            held.tokens - settling.embedded_tokens,
        )

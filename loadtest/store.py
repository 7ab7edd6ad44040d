"""Is anything lost, garbled or resurrected? The store against a model of it in memory.

Puts, updates, deletes, searches, reindexes, rollbacks, aborts, repairs and crashes in any order and
at the same time, drawn by hypothesis; after each the store holds what the model says it may, and
nothing else. A step that diverges is shrunk to the shortest way there. Exit status 1 then.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import hypothesis
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from loadtest import servers
from loadtest.mortal import Killed, mortal
from loadtest.words import Models
from serve_app.domain import Document, SearchQuery
from serve_app.errors import Conflict, NotFound
from serve_app.retrieval import preparing
from serve_app.retrieval.catalogue import Catalogue
from serve_app.retrieval.checking import Check
from serve_app.retrieval.index import row_ids
from serve_app.retrieval.mending import Mender
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.entries import document_key
from serve_app.retrieval.reindexing import Reindexing
from serve_app.retrieval.retriever import Retriever, Rules
from serve_app.retrieval.store import MilvusStore

T = TypeVar("T")

TENANTS = ("red", "blue")
IDS = ("a", "b", "c/d", 'e"\\')
WORDS = "tent boot rope stove lamp map".split()
_SERIES_TIMES = ("2024-01-01", "2025-01-01", "2099-01-01")
_LEASE_S = 30.0  # longer than any

Name = tuple[str, str]  # tenant and id


@dataclass(frozen=True)
class Content:
    """What a document holds: words of each section, and its place in a series if it has one."""

    sections: tuple[tuple[str, ...], ...]
    time: str = ""

    @property
    def words(self) -> list[str]:
        return [word for section in self.sections for word in section]

    def document(self, name: str) -> Document:
        text = "\n".join(f"# Part {i}\n{' '.join(words)}" for i, words in enumerate(self.sections))
        series = {"series": "s", "effective_from": self.time} if self.time else {}
        return Document(name, "Title", text, series)


@dataclass(frozen=True)
class Act:
    """One call: a document is put, or deleted where there is no content."""

    name: Name
    content: Content | None


@dataclass
class World:
    """The store, and what it may hold.

    Attributes:
        may: Of each document, what may be in; more than one after a crash or a race.
        now: Seconds that the registry's clock is ahead.
    """

    store: MilvusStore
    registry: Registry
    collection: str
    clock: Clock
    may: dict[Name, set[Content | None]] = field(default_factory=dict)
    models: Models = field(default_factory=Models)
    settled: bool = True

    def retriever(
        self, store: MilvusStore | None = None, registry: Registry | None = None
    ) -> Retriever:
        made = (store or self.store, registry or self.registry)
        return Retriever(*made, self.models, chunk_tokens=5, rules=Rules())

    def parts(
        self, store: MilvusStore | None = None, registry: Registry | None = None
    ) -> tuple[Reindexing, Check, Catalogue]:
        base = (store or self.store, registry or self.registry)
        catalogue = Catalogue(*base, patience_s=5)
        mender = Mender(*base, partial(preparing.split, self.models))
        return Reindexing(*base, catalogue, mender), Check(*base, catalogue, mender), catalogue

    async def together(self, acts: Sequence[Sequence[Act]]) -> None:
        """Calls at the same time, each of some documents of one tenant."""
        done = await asyncio.gather(*(self._act(self.retriever(), each) for each in acts))
        results: dict[Name, list[Act]] = {}
        for some, happened in zip(acts, done, strict=True):
            for act in some:
                if happened or act.content is not None:
                    results.setdefault(act.name, []).append(act)
        for name, those in results.items():
            self.may[name] = {act.content for act in those}

    async def killed(self, acts: Sequence[Act], calls: int) -> None:
        """A call of a process that dies in the middle."""
        retriever = self.retriever(*mortal(self.store, self.registry, calls))
        try:
            done = await self._act(retriever, acts)
        except Killed:
            self.settled = False
            for act in acts:
                self.may.setdefault(act.name, {None}).add(act.content)
            # Whoever comes later does not wait for the dead.
            self.clock.ahead += _LEASE_S
        else:
            for act in acts:
                if done or act.content is not None:
                    self.may[act.name] = {act.content}

    async def reindex(self, chunk_tokens: int, beside: Sequence[Sequence[Act]]) -> None:
        reindexing, _, _ = self.parts()
        run = reindexing.reindex(self.collection, self.models.default, 64, chunk_tokens)
        await self._beside(run, beside)

    async def rollback(self, beside: Sequence[Sequence[Act]]) -> None:
        reindexing, _, _ = self.parts()
        await self._beside(reindexing.rollback(self.collection), beside)

    async def _beside(self, run: Awaitable[object], acts: Sequence[Sequence[Act]]) -> None:
        done, acted = await asyncio.gather(run, self.together(acts), return_exceptions=True)
        if isinstance(acted, BaseException):
            raise acted
        if isinstance(done, BaseException) and not isinstance(done, NotFound | Conflict):
            raise done

    async def killed_reindex(self, chunk_tokens: int, calls: int, *, back: bool) -> None:
        reindexing, _, _ = self.parts(*mortal(self.store, self.registry, calls))
        with contextlib.suppress(NotFound, Conflict, Killed):
            if back:
                await reindexing.rollback(self.collection)
            else:
                await reindexing.reindex(self.collection, self.models.default, 64, chunk_tokens)
        self.settled = False
        self.clock.ahead += _LEASE_S

    async def abort(self, beside: Sequence[Sequence[Act]]) -> None:
        await self._beside(self.parts()[0].abort(self.collection), beside)

    async def prune(self, beside: Sequence[Sequence[Act]]) -> None:
        await self._beside(self.parts()[2].prune(self.collection, 0.0), beside)

    async def killed_removal(self, calls: int) -> None:
        """The whole collection, by a process that may die: what it began the next one finishes."""
        catalogue = self.parts(*mortal(self.store, self.registry, calls))[2]
        with contextlib.suppress(NotFound, Killed):
            await catalogue.remove(self.collection)
        self.clock.ahead += _LEASE_S
        if await self.registry.collections.get(self.collection) is None:
            self.may.clear()

    async def settle(self, *, repair: bool) -> None:
        """What the dead have left is mended, as a retriever does, or first by `check --repair`."""
        if repair:
            with contextlib.suppress(NotFound):
                report = await self.parts()[1].check(self.collection, repair=True)
                assert not report.lost, report
        self.settled = True
        await self.compare(repaired=repair)

    async def compare(self, *, repaired: bool = False) -> None:
        """What is in is what may be in, in every place where it can be seen, once a retriever has
        mended what there is to mend."""
        retriever = self.retriever()
        # Nobody waits for long for another writer of what a write has put into another light.
        while (await self.registry.documents.abandoned(self.collection)).get(self.collection):
            await retriever.mend()
        now: dict[Name, Content | None] = {}
        # At once: each waits until a server has all that was written.
        read = await asyncio.gather(*(self._words(retriever, name) for name in self.may))
        for (name, may), words in zip(self.may.items(), read, strict=True):
            fits = [each for each in may if (each.words if each else None) == words]
            assert fits, f"{name}: {words}, but may be {may}"
            now[name] = fits[0]
            if len({each.time for each in fits if each}) == 1 or fits == [None]:
                self.may[name] = {fits[0]}
        await asyncio.gather(
            *(self._listing(retriever, now, tenant) for tenant in TENANTS), self._check(repaired)
        )
        if all(len(each) == 1 for each in self.may.values()):
            await asyncio.gather(*(self._search(retriever, now, tenant) for tenant in TENANTS))

    async def _listing(
        self, retriever: Retriever, now: Mapping[Name, Content | None], tenant: str
    ) -> None:
        listed = await self._listed(retriever, tenant)
        assert listed == sorted(n for (t, n), each in now.items() if t == tenant and each)

    async def _check(self, repaired: bool) -> None:
        with contextlib.suppress(NotFound):
            report = await self.parts()[1].check(self.collection)
            # Of an index that was never finished, and of a name in Milvus, only `check` sees.
            assert not report.counts.keys() - ({} if repaired else {"stray"}), report

    async def _search(
        self, retriever: Retriever, now: Mapping[Name, Content | None], tenant: str
    ) -> None:
        """A search finds all that is in force, and nothing else."""
        wanted = _in_force({n: each for (t, n), each in now.items() if t == tenant and each})
        try:
            query = SearchQuery("Title tent", 200, "dense")
            hits = await retriever.search(self.collection, tenant, query)
            whole = await retriever.whole(self.collection, tenant, 10**6)
        except NotFound:
            assert not wanted
            return
        for found in (hits, whole or []):
            words: dict[str, list[str]] = {}
            for each in sorted(found, key=lambda hit: int(hit.id.rpartition("#")[2])):
                words.setdefault(each.document_id, []).extend(each.text.split())
            assert words == {name: each.words for name, each in wanted.items()}

    async def _act(self, retriever: Retriever, acts: Sequence[Act]) -> bool:
        """Whether it did what it was to do: nothing can be deleted that is not there."""
        (tenant,) = {act.name[0] for act in acts}
        puts = [act.content.document(act.name[1]) for act in acts if act.content]
        if puts:
            await retriever.ingest(self.collection, tenant, puts)
        done = True
        for act in acts:
            if act.content is None:
                try:
                    await retriever.delete(self.collection, tenant, act.name[1])
                except NotFound:
                    done = bool(puts)
        return done

    async def _words(self, retriever: Retriever, name: Name) -> list[str] | None:
        try:
            found = await retriever.document(self.collection, *name)
        except NotFound:
            return None
        chunks = found.chunks
        assert [int(each.id.rpartition("#")[2]) for each in chunks] == list(range(len(chunks)))
        words = [word for each in chunks for word in each.text.split()]
        assert words == await self._indexed(name), "what is told is not what the index holds"
        if found.original is not None:
            lines = found.original.text.splitlines()
            told = [word for line in lines if not line.startswith("#") for word in line.split()]
            assert told == words, "what was put is not what is found"
        return words

    async def _indexed(self, name: Name) -> list[str]:
        """Words of a document's rows, as Milvus has them."""
        index = await self.parts()[2].index(self.collection)
        copies = await self.registry.documents.copies(index.name, [document_key(*name)])
        keys = [
            key for each in copies.values() for key in row_ids(each.key, each.version, each.chunks)
        ]
        stored = await self.store.stored(index, keys)
        rows = sorted(stored, key=lambda each: each.row.ordinal)
        return [word for each in rows for word in each.row.text.split()]

    async def _listed(self, retriever: Retriever, tenant: str) -> list[str]:
        listed: list[str] = []
        with contextlib.suppress(NotFound):
            while True:
                after = listed[-1] if listed else ""
                page = await retriever.documents(self.collection, tenant, after, 2)
                listed += [str(each["id"]) for each in page.documents]
                if not page.has_more:
                    break
        return listed


class Clock:
    """The real one, and so many seconds."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def _in_force(documents: Mapping[str, Content]) -> dict[str, Content]:
    """Without versions of the series that another one hides."""
    series = sorted((each.time, name) for name, each in documents.items() if each.time)
    today = time.strftime("%Y-%m-%d")
    come = [each for each in series if each[0] <= today]
    shown = (come[-1] if come else series[0])[1] if series else ""
    return {name: each for name, each in documents.items() if not each.time or name == shown}


CONTENT = st.builds(
    Content,
    st.lists(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(tuple), min_size=1, max_size=3
    ).map(tuple),
    st.one_of(st.just(""), st.just(""), st.sampled_from(_SERIES_TIMES)),
)
NAMES = st.tuples(st.sampled_from(TENANTS), st.sampled_from(IDS))
ONE = st.builds(lambda name, content: [Act(name, content)], NAMES, st.one_of(CONTENT, st.none()))


def _batch(tenant: str, contents: Mapping[str, Content]) -> list[Act]:
    return [Act((tenant, name), content) for name, content in contents.items()]


BATCH = st.builds(
    _batch,
    st.sampled_from(TENANTS),
    st.dictionaries(st.sampled_from(IDS), CONTENT, min_size=1, max_size=len(IDS)),
)
ACTS = st.one_of(ONE, BATCH)
SEVERAL = st.lists(ACTS, min_size=1, max_size=4)


class Machine(RuleBasedStateMachine):
    """Steps in any order. `base`, `loop` and the collections' `name` are set by who runs it."""

    name: str
    base: tuple[MilvusStore, Registry, Clock]
    loop: asyncio.AbstractEventLoop
    numbers: ClassVar = itertools.count()
    steps: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        store, registry, clock = self.base
        self.world = World(store, registry, f"{self.name}{next(self.numbers)}", clock)

    @initialize(acts=SEVERAL)
    def begin(self, acts: list[list[Act]]) -> None:
        self._do("acts", self.world.together(acts))

    @rule(acts=SEVERAL)
    def act(self, acts: list[list[Act]]) -> None:
        self._do("acts", self.world.together(acts))

    @rule(acts=ACTS, calls=st.integers(1, 25))
    def die(self, acts: list[Act], calls: int) -> None:
        self._do("deaths", self.world.killed(acts, calls))

    @rule(chunk_tokens=st.sampled_from((3, 5)), beside=SEVERAL)
    def reindex(self, chunk_tokens: int, beside: list[list[Act]]) -> None:
        self._do("reindexes", self.world.reindex(chunk_tokens, beside))

    @rule(beside=SEVERAL)
    def rollback(self, beside: list[list[Act]]) -> None:
        self._do("rollbacks", self.world.rollback(beside))

    @rule(chunk_tokens=st.sampled_from((3, 5)), calls=st.integers(1, 60), back=st.booleans())
    def die_in_a_reindex(self, chunk_tokens: int, calls: int, back: bool) -> None:
        self._do("deaths", self.world.killed_reindex(chunk_tokens, calls, back=back))

    @rule(
        what=st.sampled_from(("settle", "repair", "abort", "prune", "die")),
        calls=st.integers(1, 40),
        beside=SEVERAL,
    )
    def keep_house(self, what: str, calls: int, beside: list[list[Act]]) -> None:
        match what:
            case "settle" | "repair":
                self._do("settlements", self.world.settle(repair=what == "repair"))
            case "abort":
                self._do("aborts", self.world.abort(beside))
            case "prune":
                self._do("prunes", self.world.prune(beside))
            case "die":
                self._do("removals", self.world.killed_removal(calls))

    @invariant()
    def holds_what_it_may(self) -> None:
        if self.world.settled:
            self.loop.run_until_complete(self.world.compare())

    def teardown(self) -> None:
        self.loop.run_until_complete(self.world.settle(repair=False))
        self.loop.run_until_complete(self.world.killed_removal(1000))

    def _do(self, name: str, what: Coroutine[Any, Any, None]) -> None:
        self.steps[name] += 1
        self.loop.run_until_complete(what)


def run(
    uri: str,
    address: str,
    steps: int,
    each: int,
    seed: int | None = None,
    name: str = "stateful",
) -> Counter[str]:
    """Drive a store for so many steps or a few more, so many of them on each collection at most.

    Args:
        address: Of the registry.
        name: Of the collections, before their numbers.

    Returns:
        How many steps of each kind there were.

    Raises:
        AssertionError: It diverges from the model.
    """
    loop = asyncio.new_event_loop()
    clock = Clock()
    store = MilvusStore(uri, "", timeout_s=60)
    registry = Registry(address, clock=clock)
    made = {"base": (store, registry, clock), "loop": loop, "steps": Counter(), "name": name}
    machine: type[Machine] = type("Driven", (Machine,), made)
    settings = hypothesis.settings(
        stateful_step_count=each,
        deadline=None,
        database=None,
        derandomize=False,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    try:
        if seed is not None:
            hypothesis.seed(seed)(machine)
        # Hypothesis ends some examples early.
        while (left := steps - machine.steps.total()) > 0:
            more = hypothesis.settings(settings, max_examples=-(-left // each))
            run_state_machine_as_test(machine, settings=more)
    finally:
        loop.run_until_complete(store.close())
        loop.run_until_complete(registry.close())
        loop.close()
    return machine.steps


def _shared(uri: str, registries: Sequence[str], options: argparse.Namespace) -> Counter[str]:
    """Steps on a server, which makes whoever is alone wait: by several processes at once."""
    jobs, steps = range(options.jobs), options.steps // options.jobs
    seeds = [None if options.seed is None else options.seed + job for job in jobs]
    names = [f"stateful{job}x" for job in jobs]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as processes:
        given = (registries, itertools.repeat(steps), itertools.repeat(options.each), seeds, names)
        return sum(processes.map(partial(run, uri), *given), Counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--each", type=int, default=50, help="steps on each collection")
    parser.add_argument("--on", choices=("lite", "server"), default="lite")
    parser.add_argument("--registry", help="postgresql://…, empty; default: a SQLite file")
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes that share the steps on a server"
    )
    parser.add_argument(
        "--tick-ms", type=int, default=20, help="between two ticks of the server, its own is 200"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args()
    if options.jobs > 1 and (options.on == "lite" or options.registry):
        parser.error("--jobs goes with --on server and a SQLite registry for each of them")
    with tempfile.TemporaryDirectory(prefix="trivium-store-") as name:
        folder, started = Path(name), time.monotonic()
        # A clock that is ahead in one process makes others' claims look old: each has its own.
        registries = [
            options.registry or str(folder / f"registry{job}.db") for job in range(options.jobs)
        ]
        if options.on == "lite":
            milvus = str(folder / "milvus.db")
            done = run(milvus, registries[0], options.steps, options.each, options.seed)
        else:
            # Each read waits for the next tick: a step would take a second.
            with servers.milvus(folder / "milvus", tick_ms=options.tick_ms) as server:
                done = _shared(f"http://127.0.0.1:{server.listen_port}", registries, options)
        seconds = time.monotonic() - started
    if options.json:
        print(json.dumps({"on": options.on, "steps": done.total(), "seconds": seconds, **done}))
        return
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in done.most_common())
    sys.stdout.write(f"{done.total():,} steps in {seconds:.0f} s on {options.on}: {kinds}\n")


if __name__ == "__main__":
    main()

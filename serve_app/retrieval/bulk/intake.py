"""The end of a bulk run's way: documents are compared with the registry, split, embedded, written.

It runs in the run's own process or in many at once, on any machine that reaches the registry and
Milvus; nothing goes back but an account of each file.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    before_sleep_log,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from serve_app.domain import Document
from serve_app.errors import TriviumError, Unavailable
from serve_app.retrieval import admission, preparing
from serve_app.retrieval import index as rows_of
from serve_app.retrieval.bulk.items import Item, Outcome
from serve_app.retrieval.index import Row, row_ids
from serve_app.retrieval.mending import Mender
from serve_app.retrieval.port import Port
from serve_app.retrieval.preparing import Models
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.entries import Facts, Index
from serve_app.retrieval.registry.meetings import Met, Totals
from serve_app.retrieval.schema import Vector
from serve_app.retrieval.sources import twice
from serve_app.retrieval.writing import Embedded, Writer

log = logging.getLogger(__name__)

T = TypeVar("T")

_PAUSES_S = (0.5, 5.0)  # between two tries while Milvus or the registry is not there
_PATIENCE_S = 60.0
_NEW = Met("new")


@dataclass(frozen=True, slots=True)
class Run:
    """What a run is about.

    Attributes:
        index: The collection's index in force; of a dry run into none, what would be made.
        name: Of the run; what it has met carries it.
        started: Unix seconds.
        dry: Nothing is written.
    """

    collection: str
    tenant: str
    index: Index
    name: str
    started: float
    dry: bool = False


@dataclass(slots=True)
class _Read:
    """A document on its way.

    Attributes:
        kept: How many of its chunks are embedded already.
    """

    place: int  # of its item
    document: Document
    facts: Facts
    met: Met = _NEW
    rows: list[Row] = field(default_factory=list)
    kept: int = 0

    @property
    def after(self) -> Totals:
        return Totals(1, len(self.rows), sum(row.tokens for row in self.rows))


class Intake:
    """Takes documents into a collection."""

    def __init__(self, run: Run, store: Port, registry: Registry, models: Models) -> None:
        self._run = run
        self._store = store
        self._registry = registry
        self._models = models
        self._writer = Writer(store, registry)
        self._mender = Mender(store, registry, partial(preparing.split, models))
        self._dry_met: dict[str, str] = {}

    async def take(self, items: Sequence[Item], *, last: bool = False) -> list[Outcome]:
        """Bring documents in that are not in as they are; an account of each file.

        Args:
            last: No other file is still to be read.

        Raises:
            Unavailable: Milvus or the registry is not there for a minute.
        """
        accounts = list(map(_account, items))
        read = self._facts(items, accounts)
        met = await patiently(partial(self._meet, [each.facts for each in read], last=last))
        for each, one in zip(read, met, strict=True):
            each.met = one
            account = accounts[each.place]
            account = replace(account, before=one.held, met=one.held if one.own else account.met)
            accounts[each.place] = _judged(account, each, last=last)
        new = [each for each in read if each.met.verdict == "new"]
        if new:
            await self._put(new, accounts)
        return _by_file(accounts)

    async def new_text(self, items: Sequence[Item]) -> int:
        """How many characters the documents have that are not in as they are; notes nothing."""
        read = self._facts(items, list(map(_account, items)))
        met = await self._registry.meetings.meet(
            self._run.collection,
            self._run.index.name,
            [each.facts for each in read],
            self._run.name,
            self._run.started,
            dry=True,
        )
        pairs = zip(read, met, strict=True)
        return sum(len(each.document.text) for each, one in pairs if one.verdict != "same")

    def _facts(self, items: Sequence[Item], accounts: list[Outcome]) -> list[_Read]:
        read: list[_Read] = []
        for i, each in enumerate(items):
            if not each.text:
                continue
            document = each.document()
            where = f"{each.origin.url}: document {document.id!r}: document"
            try:
                facts = rows_of.facts(
                    document, self._run.tenant, source=document.source, where=where
                )
            except TriviumError as error:
                accounts[i] = _with_problem(accounts[i], error.message)
                continue
            facts = replace(facts, url=document.url, run=self._run.name)
            read.append(_Read(i, document, facts))
        return read

    async def _meet(self, wanted: Sequence[Facts], *, last: bool) -> list[Met]:
        # Of two of one id that come together the first is met first.
        run = self._run
        first: dict[str, Facts] = {}
        for facts in wanted:
            kept = first.setdefault(facts.key, facts)
            if facts.url < kept.url:
                first[facts.key] = facts
        met = await self._registry.meetings.meet(
            run.collection,
            run.index.name,
            list(first.values()),
            run.name,
            run.started,
            last=last,
            dry=run.dry,
        )
        verdicts = dict(zip(first, met, strict=True))
        found = []
        for facts in wanted:
            winner = first[facts.key]
            one = verdicts[facts.key] if winner is facts else Met("twice", winner.url)
            if run.dry and one.verdict in ("same", "new"):
                earlier = self._dry_met.setdefault(facts.key, facts.url)
                one = one if earlier == facts.url else Met("twice", earlier)
            found.append(one)
        return found

    async def _put(self, new: list[_Read], accounts: list[Outcome]) -> None:
        """Split, embed and write what has to be, and account for it."""
        index, whole = self._run.index, []
        failed: list[tuple[Facts, str]] = []
        for each, said in zip(new, await asyncio.to_thread(self._split, index, new), strict=True):
            if said is None:
                whole.append(each)
                continue
            failed.append((each.facts, said))
            accounts[each.place] = replace(
                _with_problem(accounts[each.place], said), after=each.met.held
            )
        if failed and not self._run.dry:
            await self._registry.documents.fail(self._run.collection, failed)
        known = await patiently(partial(self._known, index, whole))
        for each in whole:
            each.kept = sum(row.hash in known for row in each.rows)
            missing = [row for row in each.rows if row.hash not in known]
            accounts[each.place] = replace(
                accounts[each.place],
                after=each.after,
                embedded=len(missing),
                embedded_tokens=sum(row.tokens for row in missing),
                removed=max(0, each.met.held.chunks - each.kept),
            )
        if whole and not self._run.dry:
            vectors = await self._vectors(index, whole, known)
            await patiently(partial(self._write, whole, vectors))

    async def _write(self, new: Sequence[_Read], vectors: Mapping[str, Vector]) -> None:
        collection, in_force = self._run.collection, self._run.index

        async def prepare(index: Index, places: Sequence[int]) -> list[Embedded]:
            chosen = [new[i] for i in places]
            if (index.model, index.chunk_tokens) == (in_force.model, in_force.chunk_tokens):
                return [[(row, vectors[row.hash]) for row in each.rows] for each in chosen]
            # An index that is being filled wants them otherwise.
            documents = [(e.facts.tenant, e.facts.source, e.document) for e in chosen]
            return await preparing.split(self._models, index, documents)

        written = await self._writer.put(collection, [each.facts for each in new], prepare)
        if written.to_mend:
            entries = await self._registry.documents.entries(collection, sorted(written.to_mend))
            found = await self._registry.collections.get(collection)
            if found is not None and found.in_force is not None:
                await self._mender.mend(found, list(entries.values()))

    def _split(self, index: Index, new: Sequence[_Read]) -> list[str | None]:
        """Give documents their rows; why not, of those that cannot have any."""
        embedder = self._models.model(index.model)
        said: list[str | None] = []
        for each in new:
            try:
                each.rows = rows_of.rows(
                    each.document,
                    each.facts.tenant,
                    max_tokens=index.chunk_tokens,
                    count=embedder.count,
                    window=embedder.window,
                    source=each.facts.source,
                    where=f"{each.facts.url}: document {each.document.id!r}: document",
                )
                said.append(None)
            except TriviumError as error:
                said.append(error.message)
        return said

    async def _known(self, index: Index, new: Sequence[_Read]) -> dict[str, list[float]]:
        """Vectors of what the documents hold now, by the hash of what is embedded."""
        if not any(each.met.held.chunks for each in new):
            return {}
        keys = [each.facts.key for each in new]
        copies = await self._registry.documents.copies(index.name, keys)
        there = [row for e in copies.values() for row in row_ids(e.key, e.version, e.chunks)]
        return await self._store.vectors(index, there) if there else {}

    async def _vectors(
        self, index: Index, new: Sequence[_Read], known: Mapping[str, Vector]
    ) -> dict[str, Vector]:
        # A batch pads to its longest text: the model's own sorting by length does for all of them.
        rows = {row.hash: row for each in new for row in each.rows if row.hash not in known}
        if not rows:
            return dict(known)
        embedder = self._models.model(index.model)
        made = await asyncio.to_thread(embedder, [row.embedded for row in rows.values()])
        return {**known, **dict(zip(rows, made, strict=True))}


async def patiently(work: Callable[[], Awaitable[T]]) -> T:
    """Do something again that can be repeated, as long as Milvus or the registry is not there, or
    somebody else has one of the documents."""

    async def once() -> T:  # tenacity awaits no other kind of function
        return await work()

    pause, longest = _PAUSES_S
    again = AsyncRetrying(
        stop=stop_after_delay(_PATIENCE_S),
        wait=wait_random_exponential(multiplier=pause, max=longest),
        retry=retry_if_exception_type(Unavailable),
        before_sleep=before_sleep_log(log, logging.WARNING),
        reraise=True,
    )
    return await again(once)


def _account(item: Item) -> Outcome:
    done = int(bool(item.text))
    return Outcome(item.origin, item.sha256, item.documents, done, item.problems, item.left_out)


def _judged(account: Outcome, read: _Read, *, last: bool) -> Outcome:
    """What is said of a document as it was met."""
    met, url, name = read.met, account.origin.url, read.document.id
    if met.verdict == "elsewhere":
        said = admission.taken(read.document, met.source, met.url) or ""
        return _with_problem(replace(account, before=Totals()), f"{url}: {said}")
    if met.verdict == "twice":
        return _with_problem(replace(account, before=Totals()), twice(url, name))
    if met.verdict == "later":
        return replace(account, later=True, before=Totals())
    if last and met.url:
        lost = (*account.lost, (met.url, twice(met.url, name)))
        account = replace(account, lost=lost)
    return replace(account, after=met.held)


def _with_problem(account: Outcome, said: str) -> Outcome:
    return replace(account, problems=(*account.problems, said))


def _by_file(accounts: Sequence[Outcome]) -> list[Outcome]:
    found: dict[tuple[str, str], Outcome] = {}
    for each in accounts:
        key = (each.origin.source, each.origin.place)
        found[key] = found[key] + each if key in found else each
    return list(found.values())

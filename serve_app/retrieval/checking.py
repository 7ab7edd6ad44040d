"""Whether Milvus holds what the registry says, row by row, and nothing else; and mending what does
not agree. Memory is bounded, whatever the size; searches and writes go on meanwhile."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from serve_app.retrieval.catalogue import Catalogue
from serve_app.retrieval.index import Place, row_ids
from serve_app.retrieval.mending import Mender
from serve_app.retrieval.port import Port
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.entries import Collection, Copy, Entry, Index, document_key
from serve_app.retrieval.scanning import intervals

Kind = Literal["missing", "orphan", "duplicate", "outdated", "unfinished", "behind", "stray"]

_NAMED = 1000  # findings that are listed; the others are counted
_PAGE = 200  # documents mended together
_LOST = "its chunks are missing from the index: ingest it again"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not agree.

    Attributes:
        kind: `missing`: rows of a document are not there; `orphan`: rows are of no document;
            `duplicate`: of another version than the one in force; `outdated`: they say otherwise
            when it is in force; `unfinished`: its writer has died; `behind`: the index has not got
            it as it is; `stray`: an index that is not registered, or not finished.
        rows: How many, where they are counted.
    """

    kind: Kind
    index: str
    tenant: str = ""
    document: str = ""
    rows: int = 0


@dataclass(slots=True)
class Report:
    """What was found in a collection, and what was done about it.

    Attributes:
        states: How many documents are registered in each state.
        counts: How many findings of each kind.
        findings: The first thousand.
        lost: Documents that had to be given up; they have to be ingested again.
    """

    collection: str
    states: Mapping[str, int]
    rows: dict[str, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    repaired: bool = False
    lost: list[str] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        self.counts[finding.kind] += 1
        if len(self.findings) < _NAMED:
            self.findings.append(finding)

    @property
    def is_sound(self) -> bool:
        return not self.counts

    def record(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self) | {"counts": dict(self.counts), "sound": self.is_sound}


class Check:
    """Compares, and mends."""

    def __init__(
        self, store: Port, registry: Registry, catalogue: Catalogue, mender: Mender
    ) -> None:
        self._store = store
        self._registry = registry
        self._catalogue = catalogue
        self._mender = mender

    async def check(self, name: str, *, repair: bool = False) -> Report:
        """Compare a collection's indexes with the registry.

        Args:
            repair: Mend what is found. What it cannot mend is `lost`.

        Raises:
            NotFound: There is no such collection.
        """
        found = await self._catalogue.collection(name)
        report = Report(name, await self._registry.documents.states(name), repaired=repair)
        await self._unfinished(found, report)
        there = {index.name for index, _ in await self._store.made(name)}
        for index in (*found.active, *found.retired):
            if index.name not in there:
                report.add(Finding("missing", index.name))
                if not repair:
                    continue
                await self._store.make(index)  # what it held is found to be missing next
            await self._rows(found, index, report)
        for index in found.active:
            await self._behind(found, index, report)
        await self._strays(found, report)
        return report

    async def _unfinished(self, collection: Collection, report: Report) -> None:
        """Documents whose writer has died."""
        seen: set[str] = set()
        while True:
            abandoned = await self._registry.documents.abandoned(collection.name, _PAGE)
            entries = [e for e in abandoned.get(collection.name, []) if e.key not in seen]
            for each in entries:
                kind: Kind = "unfinished" if each.claim else "outdated"
                report.add(Finding(kind, "", each.facts.tenant, each.facts.id))
            if not entries or not report.repaired:
                return
            seen |= {each.key for each in entries}
            await self._mender.mend(collection, entries)

    async def _rows(self, collection: Collection, index: Index, report: Report) -> None:
        """Every row of an index, and every one that there should be."""
        report.rows[index.name] = 0
        for first, end in intervals(await self._store.rows(index.name)):
            copies = {
                each.key: each
                for each in await self._registry.documents.copies_between(index.name, first, end)
            }
            places = await self._store.between(index.name, first, end)
            report.rows[index.name] += len(places)
            odd = _odd(copies, places)
            for some in _in_parts(sorted(odd)):
                await self._odd(collection, index, report, some, odd)

    async def _odd(
        self,
        collection: Collection,
        index: Index,
        report: Report,
        keys: Sequence[str],
        names: Mapping[str, tuple[str, str]],
    ) -> None:
        """Look again at what did not agree: it may have been written at that moment."""
        documents = self._registry.documents
        entries = await documents.entries(collection.name, keys)
        now = time.time()
        idle = [key for key in keys if not _is_busy(entries.get(key), now)]
        copies = await documents.copies(index.name, idle)
        places = await self._store.places(
            index.name, [_name(entries.get(key)) or names[key] for key in idle]
        )
        found: dict[str, list[Kind]] = {}
        for key in idle:
            tenant, document = _name(entries.get(key)) or names[key]
            rows = [each for each in places if _key(each) == key]
            for kind, count in _kinds(copies.get(key), rows, known=key in entries):
                report.add(Finding(kind, index.name, tenant, document, count))
                found.setdefault(key, []).append(kind)
        if report.repaired:
            await self._mended(collection, index, report, found, entries, places)

    async def _mended(
        self,
        collection: Collection,
        index: Index,
        report: Report,
        found: Mapping[str, Sequence[Kind]],
        entries: Mapping[str, Entry],
        places: Sequence[Place],
    ) -> None:
        unknown = {key for key in found if key not in entries}
        await self._store.remove(
            index.name, sorted(each.id for each in places if _key(each) in unknown)
        )
        swept = [entries[k] for k, kinds in found.items() if k in entries and "duplicate" in kinds]
        if swept:
            await self._mender.sweep(collection, swept)
        poor = [
            key
            for key, kinds in found.items()
            if key in entries and ("missing" in kinds or "outdated" in kinds)
        ]
        if not poor:
            return
        await self._registry.documents.distrust(index.name, poor)
        if index not in collection.active:
            left = await self._registry.documents.copies_everywhere(collection.name, poor)
            await self._registry.documents.removed([e for e in left if e.index == index.name])
            return
        done = await self._mender.bring(collection, index, [entries[key] for key in poor])
        for key in done.lost:
            await self._mender.give_up(collection, [entries[key]], _LOST)
            report.lost.append(entries[key].facts.id)

    async def _behind(self, collection: Collection, index: Index, report: Report) -> None:
        """Documents that an index lacks; those that one being filled still has to get are none."""
        if index == collection.filling:
            return
        after = ""
        while page := await self._registry.documents.behind(
            collection.name, index.name, after, _PAGE
        ):
            after = page[-1].key
            late = [each for each in page if not _is_busy(each, time.time())]
            for each in late:
                report.add(Finding("behind", index.name, each.facts.tenant, each.facts.id))
            if report.repaired and late:
                done = await self._mender.bring(collection, index, late)
                lost = [each for each in late if each.key in done.lost]
                await self._mender.give_up(collection, lost, _LOST)
                report.lost += [each.facts.id for each in lost]

    async def _strays(self, collection: Collection, report: Report) -> None:
        """Milvus collections of this one's name that nobody knows of; or its alias is another's."""
        if await self._registry.collections.is_held(collection.name):
            return  # somebody makes or removes one
        for finding in await self._unknown(collection.name):
            report.add(finding)
        if not (report.repaired and report.counts["stray"]):
            return
        async with self._catalogue.held(collection.name):
            now = await self._catalogue.collection(collection.name)
            assert now.in_force is not None
            await self._store.alias(now.name, now.in_force.name)
            for finding in await self._unknown(now.name):
                await self._store.drop(finding.index)
                await self._registry.collections.forget_index(finding.index)

    async def _unknown(self, name: str) -> list[Finding]:
        found = await self._catalogue.collection(name)
        assert found.in_force is not None
        known = {each.name for each in (*found.active, *found.retired)}
        strays = [each.name for each, _ in await self._store.made(name) if each.name not in known]
        named = await self._store.aliased(name)
        if named != found.in_force.name and named not in strays:
            strays.append(named or name)
        return [Finding("stray", each) for each in strays]


def _odd(copies: Mapping[str, Copy], places: Iterable[Place]) -> dict[str, tuple[str, str]]:
    """Tenants and ids, as far as rows say, of documents whose rows are not what they should be."""
    by_key: dict[str, list[Place]] = {}
    for each in places:
        by_key.setdefault(_key(each), []).append(each)
    odd = {}
    for key in copies.keys() | by_key.keys():
        rows = by_key.get(key, [])
        if list(_kinds(copies.get(key), rows, known=True)):
            odd[key] = (rows[0].tenant, rows[0].document_id) if rows else (copies[key].tenant, "")
    return odd


def _kinds(copy: Copy | None, rows: Sequence[Place], *, known: bool) -> Iterable[tuple[Kind, int]]:
    """What is wrong with a document's rows, and with how many of them."""
    if copy is None:
        if rows:
            yield ("duplicate" if known else "orphan"), len(rows)
        return
    rightful = set(row_ids(copy.key, copy.version, copy.chunks))
    there = {each.id: each for each in rows}
    if missing := rightful - there.keys():
        yield "missing", len(missing)
    if more := there.keys() - rightful:
        yield ("duplicate" if known else "orphan"), len(more)
    if copy.says is None:
        return  # an active index is behind with it; in one that is retired nobody relies on it
    if old := [k for k in rightful & there.keys() if (there[k].since, there[k].until) != copy.says]:
        yield "outdated", len(old)


def _is_busy(entry: Entry | None, now: float) -> bool:
    return entry is not None and entry.claimed_until is not None and entry.claimed_until >= now


def _name(entry: Entry | None) -> tuple[str, str] | None:
    return (entry.facts.tenant, entry.facts.id) if entry else None


def _key(place: Place) -> str:
    return document_key(place.tenant, place.document_id)


def _in_parts(keys: Sequence[str]) -> Iterable[Sequence[str]]:
    return (keys[at : at + _PAGE] for at in range(0, len(keys), _PAGE))

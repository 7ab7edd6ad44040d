"""Bringing an index to what the registry says: after a crash, for a change of index, for a repair.

Each document is read and embedded without being held, then claimed and written if it is still the
same; whoever has written it meanwhile has written it to this index too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from serve_app.domain import Document
from serve_app.errors import ClaimLost
from serve_app.retrieval import index as rows_of
from serve_app.retrieval.index import Stored, hash_of, row_ids
from serve_app.retrieval.port import Port
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.entries import Collection, Copy, Entry, Facts, Index
from serve_app.retrieval.writing import Embedded, Writer

# Splits and embeds documents of tenants and sources as an index wants them.
Split = Callable[[Index, Sequence[tuple[str, str, Document]]], Awaitable[list[Embedded]]]


@dataclass(frozen=True, slots=True)
class Mended:
    """What was done.

    Attributes:
        documents: That were brought up to date.
        chunks, embedded, tokens: Of theirs: all, those that were embedded, and the tokens of those.
        removed: Rows that should not have been there.
        lost: Keys of documents whose rows are missing wherever they should be.
    """

    documents: int = 0
    chunks: int = 0
    embedded: int = 0
    tokens: int = 0
    removed: int = 0
    lost: tuple[str, ...] = ()

    def __add__(self, more: Mended) -> Mended:
        return Mended(
            self.documents + more.documents,
            self.chunks + more.chunks,
            self.embedded + more.embedded,
            self.tokens + more.tokens,
            self.removed + more.removed,
            self.lost + more.lost,
        )


class Mender:
    """Brings indexes up to date. Documents that somebody writes are left to who writes them.

    Args:
        split: Makes rows for an index of another model or another bound of chunks.
    """

    def __init__(self, store: Port, registry: Registry, split: Split) -> None:
        self._store = store
        self._registry = registry
        self._split = split
        self._writer = Writer(store, registry)

    async def bring(
        self, collection: Collection, target: Index, entries: Sequence[Entry]
    ) -> Mended:
        """Bring documents that an index is behind with to what they are."""
        there = [each for each in entries if each.state == "in"]
        gone = [each for each in entries if each.state != "in"]
        done = await self._finish(collection, gone) if gone else Mended()
        if there:
            ready, missing = await self._ready(collection, target, there)
            still = {each.key: each for each in there if each.key in ready}
            done += missing + await self._write(collection, target, still, ready)
        return done

    async def mend(self, collection: Collection, entries: Sequence[Entry]) -> Mended:
        """Finish what was left of documents by writers that died, or is marked to be mended."""
        died = [each for each in entries if each.claim]
        done = await self._finish(collection, died) if died else Mended()
        keys = [entry.key for entry in entries]
        late: set[str] = set()
        for each in collection.active:
            behind = await self._registry.documents.behind_of(collection.name, each.name, keys)
            done += await self.bring(collection, each, behind)
            late |= {entry.key for entry in behind}
        # What the index lacked that they were marked for may be out of force by now.
        marked = [each for each in entries if not each.claim and each.key not in late]
        return done + (await self._finish(collection, marked) if marked else Mended())

    async def give_up(
        self, collection: Collection, entries: Sequence[Entry], problem: str
    ) -> Mended:
        """Register that documents have lost their rows, and remove those that are left."""
        documents = self._registry.documents
        facts = [each.facts for each in entries]
        async with self._writer.claimed(collection.name, facts, "copy", skip_busy=True) as held:
            keys = [each.key for each in held.claims if each.before.state == "in"]
            await documents.lose(collection.name, held.token, keys, problem)
            held.obsolete = await documents.copies_everywhere(collection.name, keys)
            removed = await self._writer.clean(collection, held)
        return Mended(removed=removed)

    async def sweep(self, collection: Collection, entries: Sequence[Entry]) -> Mended:
        """Remove rows of documents that the registry does not know of."""
        facts = [each.facts for each in entries]
        async with self._writer.claimed(collection.name, facts, None, skip_busy=True) as held:
            mine = [each.before.facts for each in held.claims]
            return Mended(removed=await self._writer.sweep(collection, mine))

    async def _finish(self, collection: Collection, entries: Sequence[Entry]) -> Mended:
        """Delete what was to be deleted, and leave of all others what is in force."""
        documents = self._registry.documents
        facts = [each.facts for each in entries]
        async with self._writer.claimed(collection.name, facts, None, skip_busy=True) as held:
            before = {each.key: each.before for each in held.claims}
            deleted = [k for k, e in before.items() if (e.intent, e.state) == ("delete", "in")]
            if deleted:
                done = await documents.commit(collection.name, held.token, {}, deleted)
                held.is_committed = True
                held.obsolete = done.obsolete
            left = await self._writer.out_of_force(collection.name, list(before))
            held.obsolete = tuple({*held.obsolete, *left})
            removed = await self._writer.clean(collection, held)
        return Mended(removed=removed)

    async def _ready(
        self, collection: Collection, target: Index, entries: Sequence[Entry]
    ) -> tuple[dict[str, Embedded], Mended]:
        """Rows of documents for an index, by key; and what that took."""
        source = collection.in_force
        assert source is not None
        found = await self._rows(source, entries)
        for other in (*collection.active, *collection.retired):
            missing = [each for each in entries if each.key not in found]
            if missing and _alike(other, source):
                found |= await self._rows(other, missing)
        lost = Mended(lost=tuple(each.key for each in entries if each.key not in found))
        if _alike(source, target):
            return {key: [(e.row, e.vector) for e in stored] for key, stored in found.items()}, lost
        documents = {
            key: (stored[0].row.tenant, stored[0].row.source, _document(stored))
            for key, stored in found.items()
        }
        split = await self._split(target, list(documents.values()))
        embedded = sum(map(len, split))
        tokens = sum(row.tokens for each in split for row, _ in each)
        done = lost + Mended(embedded=embedded, tokens=tokens)
        return dict(zip(documents, split, strict=True)), done

    async def _rows(self, source: Index, entries: Sequence[Entry]) -> dict[str, list[Stored]]:
        """All rows of documents as they are in an index, in order, by key; without those that
        lack one."""
        version = {each.key: each.version for each in entries}
        there = await self._registry.documents.copies(source.name, list(version))
        # One that is out of force may hold an older version.
        copies = {key: each for key, each in there.items() if each.version == version[key]}
        keys = [
            key for each in copies.values() for key in row_ids(each.key, each.version, each.chunks)
        ]
        by_key: dict[str, list[Stored]] = {}
        for stored in await self._store.stored(source, keys):
            by_key.setdefault(stored.key, []).append(stored)
        return {
            key: sorted(stored, key=lambda each: each.row.ordinal)
            for key, stored in by_key.items()
            if len(stored) == copies[key].chunks
        }

    async def _write(
        self,
        collection: Collection,
        target: Index,
        entries: Mapping[str, Entry],
        ready: Mapping[str, Embedded],
    ) -> Mended:
        """Write documents, those that still are what they were."""
        facts = [each.facts for each in entries.values()]
        try:
            return await self._written(collection, target, facts, entries, ready)
        except ClaimLost:
            # Whoever has taken them over may have looked for what was left before it was there.
            async with self._writer.claimed(collection.name, facts, None):
                return Mended(removed=await self._writer.sweep(collection, facts))

    async def _written(
        self,
        collection: Collection,
        target: Index,
        facts: Sequence[Facts],
        entries: Mapping[str, Entry],
        ready: Mapping[str, Embedded],
    ) -> Mended:
        async with self._writer.claimed(
            collection.name, facts, "copy", skip_busy=True, rewrites=target.name
        ) as held:
            now = [
                each.before
                for each in held.claims
                if each.before.state == "in" and each.before.version == entries[each.key].version
            ]
            copies = [_copy(each, ready[each.key]) for each in now]
            rows = [
                Stored(row, each.version, each.since, each.until, vector)
                for each in now
                for row, vector in ready[each.key]
            ]
            await self._store.upsert(target, rows)
            held.obsolete = await self._registry.documents.copied(
                collection.name, held.token, target.name, copies
            )
            removed = await self._writer.clean(collection, held)
        return Mended(len(now), len(rows), removed=removed)


def _alike(one: Index, other: Index) -> bool:
    """Whether both hold the same rows of a document."""
    return (one.model, one.chunk_tokens) == (other.model, other.chunk_tokens)


def _copy(entry: Entry, ready: Embedded) -> Copy:
    rows = [row for row, _ in ready]
    return Copy(
        entry.key,
        entry.facts.tenant,
        entry.version,
        entry.since,
        entry.until,
        len(rows),
        sum(row.tokens for row in rows),
        hash_of(rows),
    )


def _document(stored: Sequence[Stored]) -> Document:
    return rows_of.document([each.row for each in stored])

"""Writing documents: whatever crashes or races, each is one version, whole, in every index.

The new version's rows go in beside those of the one in force; the registry's commit puts it in
force; then the old rows go. A writer that dies before the commit leaves the old version in force,
one that dies after it the new one. Rows that are too many are told by their version (`mending`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from serve_app.errors import ClaimLost, NotFound, TriviumError, Unavailable
from serve_app.retrieval.index import Row, Stored, hash_of, row_ids
from serve_app.retrieval.port import Port
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.entries import (
    Claim,
    Collection,
    Copy,
    Entry,
    Facts,
    Index,
    Intent,
    Obsolete,
)
from serve_app.retrieval.schema import Vector

log = logging.getLogger(__name__)

_LEASE_S = 20.0  # a writer that is heard of no more has lost what it claimed after so long
_RENEWED_S = 5.0
_PAUSES_S = (0.005, 0.1)  # between two looks whether a document is free: the first, the longest

Embedded = Sequence[tuple[Row, Vector]]  # a document's rows in order, with their vectors
# Documents, by their places in what is to be written, as an index wants them.
Prepare = Callable[[Index, Sequence[int]], Awaitable[list[Embedded]]]


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did.

    Attributes:
        chunks, tokens: Of all documents in the index in force, those that had not changed too.
        changed: Places of the documents that were written.
        removed: Chunks of documents that were deleted.
        to_mend: Keys of documents whose rows say otherwise now than the registry.
    """

    chunks: int = 0
    tokens: int = 0
    changed: tuple[int, ...] = ()
    removed: int = 0
    to_mend: frozenset[str] = frozenset()


@dataclass(slots=True)
class Held:
    """Documents that are a writer's.

    Attributes:
        in_vain: Copies by index that are written and not committed yet.
        obsolete: What a commit has put out of force.
        behind: Keys of documents that are behind in an index when they are given up.
    """

    token: str
    claims: list[Claim]
    in_vain: dict[str, list[Copy]] = field(default_factory=dict)
    is_committed: bool = False
    obsolete: Sequence[Obsolete] = ()
    behind: frozenset[str] = frozenset()


class Writer:
    """Puts and deletes documents of registered collections.

    Args:
        patience_s: How long to wait for documents that somebody else writes.
    """

    def __init__(self, store: Port, registry: Registry, patience_s: float = 30.0) -> None:
        self._store = store
        self._registry = registry
        self._patience_s = patience_s

    async def put(self, collection: str, wanted: Sequence[Facts], prepare: Prepare) -> Written:
        """Put documents in force, each once; those that are in as they are stay.

        Args:
            prepare: Splits and embeds; is asked for each index before anything is claimed, so what
                it raises leaves everything as it was.

        Raises:
            NotFound: There is no such collection.
            Unavailable: Somebody else writes one of the documents, for longer than is waited.
        """
        found = await self._collection(collection)
        assert found.in_force is not None
        before = await self._registry.documents.entries(collection, [f.key for f in wanted])
        changed = [i for i, facts in enumerate(wanted) if differs(before.get(facts.key), facts)]
        some = [wanted[i] for i in changed]
        ready = {each: await prepare(each, changed) for each in found.active} if some else {}
        written = Written()
        if some:
            again = partial(_again, prepare, changed)
            written = await self._put(collection, some, ready, again)
        same = [facts.key for i, facts in enumerate(wanted) if i not in set(changed)]
        kept = await self._registry.documents.copies(found.in_force.name, same)
        return Written(
            written.chunks + sum(each.chunks for each in kept.values()),
            written.tokens + sum(each.tokens for each in kept.values()),
            tuple(changed),
            to_mend=written.to_mend,
        )

    async def delete(self, collection: str, wanted: Sequence[Facts]) -> Written:
        """Remove documents from every index; those that are not in are left out.

        Raises:
            NotFound, Unavailable: As `put`.
        """
        found = await self._collection(collection)
        assert found.in_force is not None
        async with self.claimed(collection, wanted, "delete") as held:
            there = [each for each in held.claims if each.before.state in ("in", "failed")]
            done = await self._registry.documents.commit(
                collection, held.token, {}, [each.key for each in there]
            )
            held.is_committed = True
            held.obsolete = done.obsolete
            await self.clean(found, held)
        removed = sum(e.chunks for e in done.obsolete if e.index == found.in_force.name)
        return Written(
            changed=tuple(range(len(there))), removed=removed, to_mend=frozenset(done.redated)
        )

    async def _put(
        self,
        collection: str,
        wanted: Sequence[Facts],
        ready: Mapping[Index, list[Embedded]],
        again: Callable[[Index], Awaitable[list[Embedded]]],
    ) -> Written:
        async with self.claimed(collection, wanted, "put") as held:
            copies: dict[str, dict[str, Copy]] = {each.key: {} for each in held.claims}
            while True:
                for index, documents in ready.items():
                    made = [_copy(*pair) for pair in zip(held.claims, documents, strict=True)]
                    held.in_vain[index.name] = made  # until it is committed
                    for each in made:
                        copies[each.key][index.name] = each
                    rows = [
                        Stored(row, claim.version, claim.since, claim.until, vector)
                        for claim, embedded in zip(held.claims, documents, strict=True)
                        for row, vector in embedded
                    ]
                    try:
                        await self._store.upsert(index, rows)
                    except TriviumError:
                        if index in (await self._collection(collection)).active:
                            raise
                        # It was being filled, and that was told to stop.
                        del held.in_vain[index.name]
                        for each in made:
                            del copies[each.key][index.name]
                puts = {facts.key: (facts, copies[facts.key]) for facts in wanted}
                done = await self._registry.documents.commit(collection, held.token, puts)
                found = await self._collection(collection)
                if not done.behind:
                    break
                # An index is being filled that was not there when this began.
                behind = [each for each in found.active if each.name in done.behind]
                ready = {each: await again(each) for each in behind}
            held.is_committed, held.in_vain = True, {}
            held.obsolete = done.obsolete
            await self.clean(found, held)
        assert found.in_force is not None
        in_force = [copies[facts.key][found.in_force.name] for facts in wanted]
        return Written(
            sum(each.chunks for each in in_force),
            sum(each.tokens for each in in_force),
            to_mend=held.behind.union(done.redated),
        )

    async def clean(self, collection: Collection, held: Held) -> int:
        """Remove rows that are out of force, and those that a writer which died has left.

        Returns:
            How many rows.
        """
        died = [each.before.facts for each in held.claims if each.before.claim]
        if died:
            left = await self.out_of_force(collection.name, [facts.key for facts in died])
            held.obsolete = tuple({*held.obsolete, *left})
        by_index: dict[str, list[str]] = {}
        for each in held.obsolete:
            keys = row_ids(each.key, each.version, each.chunks)
            by_index.setdefault(each.index, []).extend(keys)
        for index, keys in by_index.items():
            async with self._unless_dropped(collection.name, index):
                await self._store.remove(index, keys)
        removed = sum(map(len, by_index.values()))
        return removed + (await self.sweep(collection, died) if died else 0)

    async def out_of_force(self, collection: str, keys: Sequence[str]) -> list[Obsolete]:
        """Copies of documents that are not of the version in force, in whichever index; whether or
        not their rows are gone already."""
        documents = self._registry.documents
        now = await documents.entries(collection, keys)
        in_force = {(key, each.version) for key, each in now.items() if each.state == "in"}
        copies = await documents.copies_everywhere(collection, keys)
        return [each for each in copies if (each.key, each.version) not in in_force]

    async def sweep(self, collection: Collection, of: Sequence[Facts]) -> int:
        """Remove every row of documents that no copy in the registry stands for; returns how many.

        To be done by who has claimed them.
        """
        removed = 0
        keys = [facts.key for facts in of]
        names = [(facts.tenant, facts.id) for facts in of]
        for index in {*collection.active, *collection.retired}:
            copies = await self._registry.documents.copies(index.name, keys)
            rightful = {key for each in copies.values() for key in _keys(each)}
            async with self._unless_dropped(collection.name, index.name):
                there = {each.id for each in await self._store.places(index.name, names)}
                await self._store.remove(index.name, sorted(there - rightful))
                removed += len(there - rightful)
        return removed

    @contextlib.asynccontextmanager
    async def _unless_dropped(self, collection: str, index: str) -> AsyncIterator[None]:
        """What is asked of an index that is dropped meanwhile need not be done any more."""
        try:
            yield
        except TriviumError:
            now = await self._collection(collection)
            if any(each.name == index for each in (*now.active, *now.retired)):
                raise

    @contextlib.asynccontextmanager
    async def claimed(
        self,
        collection: str,
        wanted: Sequence[Facts],
        intent: Intent | None,
        *,
        skip_busy: bool = False,
        rewrites: str | None = None,
    ) -> AsyncIterator[Held]:
        """Have documents for oneself. Whoever fails inside leaves them to be mended.

        Args:
            skip_busy: Take those that nobody else has, and wait for none.
            rewrites: As of the registry's `claim_free`.

        Raises:
            Unavailable: Somebody else has one of them, for longer than is waited.
        """
        token = uuid.uuid4().hex
        if skip_busy:
            held = Held(
                token,
                await self._registry.documents.claim_free(
                    collection, wanted, token, _LEASE_S, intent, rewrites
                ),
            )
        else:
            held = Held(token, await self._wait_for(collection, wanted, token, intent))
        beat = asyncio.create_task(self._renew(token))
        try:
            yield held
        except BaseException as error:
            await asyncio.shield(self._give_back(collection, held, error))
            raise
        else:
            late = await self._registry.documents.release(collection, token, held.obsolete)
            held.behind = frozenset(late)
        finally:
            beat.cancel()

    async def _wait_for(
        self, collection: str, wanted: Sequence[Facts], token: str, intent: Intent | None
    ) -> list[Claim]:
        until = time.monotonic() + self._patience_s
        pause, longest = _PAUSES_S
        while True:
            claims = await self._registry.documents.claim(
                collection, wanted, token, _LEASE_S, intent
            )
            if claims is not None:
                return claims
            if time.monotonic() > until:
                raise Unavailable(
                    "somebody else is writing this document; try again shortly", retry_after_s=1.0
                )
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311  # no secret
            pause = min(2 * pause, longest)

    async def _renew(self, token: str) -> None:
        while True:
            await asyncio.sleep(_RENEWED_S)
            with contextlib.suppress(Unavailable):
                await self._registry.documents.renew(token, _LEASE_S)

    async def _give_back(self, collection: str, held: Held, error: BaseException) -> None:
        """Remove what was written in vain, if that can be; what is left is to be mended."""
        documents = self._registry.documents
        try:
            # A commit of which no answer came may have been one: this waits until it is over.
            await documents.abandon(held.token)
            found = await documents.entries(collection, [each.key for each in held.claims])
            in_force = {key: each.version for key, each in found.items()}
            done = {each.key for each in held.claims if in_force.get(each.key) == each.version}
            for index, made in held.in_vain.items():
                keys = [key for each in made if each.key not in done for key in _keys(each)]
                await self._store.remove(index, keys)
            whole = not any(each.before.claim for each in held.claims)
            if whole and not (done or held.is_committed or isinstance(error, ClaimLost)):
                await documents.release(collection, held.token, [])
        except TriviumError as another:
            log.warning("what was written in vain stays until it is mended: %s", another)

    async def _collection(self, name: str) -> Collection:
        found = await self._registry.collections.get(name)
        if found is None or found.in_force is None:
            raise NotFound(
                f"there is no collection {name!r}; PUT a document into it to create it",
                param="collection",
            )
        return found


async def _again(prepare: Prepare, places: Sequence[int], index: Index) -> list[Embedded]:
    return await prepare(index, places)


def differs(before: Entry | None, facts: Facts) -> bool:
    """Whether a document is not in as it is, or somebody is about to change that."""
    return (
        before is None
        or before.state != "in"
        or before.claim is not None
        or before.facts.sha256 != facts.sha256
    )


def _copy(claim: Claim, embedded: Embedded) -> Copy:
    rows = [row for row, _ in embedded]
    return Copy(
        claim.key,
        claim.before.facts.tenant,
        claim.version,
        claim.since,
        claim.until,
        len(rows),
        sum(row.tokens for row in rows),
        hash_of(rows),
    )


def _keys(copy: Copy) -> list[str]:
    return row_ids(copy.key, copy.version, copy.chunks)

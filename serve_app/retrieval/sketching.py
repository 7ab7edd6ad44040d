"""Keeps the sketches of what collections speak of in step with their documents, for the router.

A base of few documents is drawn anew after each change; of a large one what is new is added, and it
is drawn anew when too much in it is of documents that have gone or changed. What is for some groups
alone is left out: that a question about it is looked up would tell others of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from serve_app.domain import Chunk
from serve_app.retrieval.filters import Reader
from serve_app.retrieval.index import row_ids
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.entries import Copy, Index
from serve_app.retrieval.registry.sketches import Drawn, Due
from serve_app.retrieval.store import MilvusStore
from serve_app.sketches import Sketch, VectorModel

_SETTLED_S = 2.0  # a change that is this old has been committed, whatever the clocks say
_FEW = 1000  # documents that are drawn anew each time
_STALE = 0.25  # share of the documents
_PAGE = 200  # documents read at once
_HELD_S = 600.0
_REST = 5.0  # after a drawing, so many times as long as it took


@dataclass(slots=True)
class Sketcher:
    """Draws what is behind. Of several, in as many replicas, one draws each sketch.

    Args:
        model: The router's. Sketches with vectors of another are drawn anew.
    """

    store: MilvusStore
    registry: Registry
    model: VectorModel
    _seen: float = 0.0
    _rests: dict[tuple[str, str], float] = field(default_factory=dict)

    async def step(self) -> int:
        """Draw all that is behind, and how many sketches that was."""
        behind = await self.registry.sketches.due(self._seen - _SETTLED_S, self.model.version)
        drawn = 0
        for due in behind:
            started = time.monotonic()
            if self._rests.get((due.collection, due.tenant), 0.0) > started:
                continue
            if await self._draw(due):
                drawn += 1
                now = time.monotonic()
                self._rests[due.collection, due.tenant] = now + _REST * (now - started)
        if drawn == len(behind) and behind:
            self._seen = max(due.latest for due in behind)
        self._rests = {key: end for key, end in self._rests.items() if end > time.monotonic()}
        return drawn

    async def _draw(self, due: Due) -> bool:
        collection = await self.registry.collections.get(due.collection)
        if collection is None or collection.in_force is None:
            return False
        before = await self.registry.sketches.hold(due, _HELD_S)
        if before is None:
            return False
        drawn_to = min(due.latest, time.time() - _SETTLED_S)
        try:
            sketch, stale = await self._sketched(due, collection.in_force, before)
        except BaseException:
            await self.registry.sketches.keep(due, before, before)  # for whoever tries next
            raise
        content = await asyncio.to_thread(sketch.to_bytes) if sketch.texts else None
        version = before.version + (content != before.content)
        drawn = Drawn(version, content, drawn_to, stale, self.model.version)
        await self.registry.sketches.keep(due, before, drawn)
        return True

    async def _sketched(self, due: Due, index: Index, before: Drawn) -> tuple[Sketch, int]:
        page = await self.registry.documents.page(due.collection, due.tenant, "", _FEW + 1)
        known = self._known(before)
        if known is None or len(page) <= _FEW:
            return await self._anew(due, index, known), 0
        sketch, stale = known, before.stale
        after, texts = (before.drawn_to, ""), sketch.texts
        while entries := await self.registry.sketches.changes(due, after, _PAGE):
            after = (entries[-1].updated_at, entries[-1].key)
            # What it holds of those that it has seen before is of what they were.
            stale += sum(each.created_at <= before.kept_at for each in entries)
            if stale > _STALE * texts:
                return await self._anew(due, index, known), 0
            open_to_all = [e.key for e in entries if e.state == "in" and not e.facts.allow]
            copies = await self.registry.documents.copies(index.name, open_to_all)
            sketch = await self._added(sketch, due, index, list(copies.values()))
        return sketch, stale

    def _known(self, before: Drawn) -> Sketch | None:
        """The sketch that there is, if it is of this model and can be read."""
        if before.content is None or before.model != self.model.version:
            return None
        try:
            return Sketch.from_bytes(before.content)
        except ValueError:
            return None

    async def _anew(self, due: Due, index: Index, known: Sketch | None) -> Sketch:
        sketch, after = Sketch.empty(), ""
        while page := await self.registry.documents.in_force(
            due.collection, index.name, due.tenant, time.time(), after, _PAGE, ()
        ):
            after = page[-1][0]
            sketch = await self._added(sketch, due, index, [copy for _, copy in page], known)
        return sketch

    async def _added(
        self,
        sketch: Sketch,
        due: Due,
        index: Index,
        copies: Sequence[Copy],
        known: Sketch | None = None,
    ) -> Sketch:
        keys = [key for each in copies for key in row_ids(each.key, each.version, each.chunks)]
        hits = await self.store.chunks(index, Reader(due.tenant, ()), keys)
        documents: dict[str, list[str]] = {}
        for hit in hits:
            documents.setdefault(hit.chunk.document_id, []).append(_text(hit.chunk))
        return await asyncio.to_thread(sketch.with_texts, documents.items(), self.model, known)


def _text(chunk: Chunk) -> str:
    return "\n".join(part for part in (chunk.title, chunk.heading, chunk.text) if part)

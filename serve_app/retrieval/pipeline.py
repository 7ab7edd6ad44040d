"""Bulk ingest.

Reading and splitting come first, for everything: they are cheap, and the plan made from them says
what is to be embedded and what that saves. Documents are written a few at a time, each whole, and
what is gone goes last; so a run that was killed is finished by the same command.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from serve_app.domain import Document
from serve_app.errors import NotFound
from serve_app.retrieval import admission, preparing, stages
from serve_app.retrieval import index as rows_of
from serve_app.retrieval.catalogue import Catalogue
from serve_app.retrieval.embedder import EmbeddingModels, dimension
from serve_app.retrieval.index import IngestReport, Row, row_ids
from serve_app.retrieval.port import Port
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.registry.entries import Entry, Index
from serve_app.retrieval.sources import File
from serve_app.retrieval.stages import Found, Model
from serve_app.retrieval.writing import Embedded, Writer, differs

_TOGETHER = 256  # rows written together, about
_PAGE = 500  # documents looked up together


@dataclass(slots=True)
class Result:
    """What a run did, or would do.

    Attributes:
        model: The embedding model that the collection is made with.
        problems: What could not be read, a line each.
        seconds: Of embedding and writing.
    """

    report: IngestReport
    model: str
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


Progress = Callable[[int, int], None]  # rows embedded and written, of so many


@dataclass(slots=True)
class _Plan:
    """What turns a collection into what was read.

    Attributes:
        changed: Documents that are not in as they are.
        same: Keys of those that are.
        known: Vectors of what the changed ones held before, by the hash of what is embedded.
        gone: Documents that an earlier run read and that are no more.
    """

    changed: list[Found]
    same: list[str]
    known: dict[str, list[float]]
    gone: list[Entry]

    def new(self) -> list[Row]:
        """Rows that have to be embedded."""
        return [row for each in self.changed for row in each.rows if row.hash not in self.known]


async def ingest(
    files: Sequence[File],
    store: Port,
    registry: Registry,
    collection: str,
    tenant: str,
    model: Model,
    chunk_tokens: int,
    *,
    paths: Mapping[str, str],
    start: stages.Start,
    dry_run: bool = False,
    on_progress: Progress = lambda done, total: None,
) -> Result:
    """Bring a collection up to date with files.

    Documents that an earlier run read from the same sources and that are gone are removed.

    Args:
        model, chunk_tokens: For a collection that is not there yet; others keep theirs.
        paths: Folders of embedding models whose name is not one.
        start: Makes sure that Ray runs; called only when there is work for it.
    """
    catalogue = Catalogue(store, registry)
    try:
        target: Index | None = await catalogue.index(collection)
        assert target is not None
        model = Model(target.model, paths.get(target.model, target.model))
        chunk_tokens = target.chunk_tokens
    except NotFound:
        target = None
    split = stages.split_files(files, tenant, model, chunk_tokens, start)
    found, problems = await asyncio.to_thread(stages.unique, split)
    for key, problem in (await _taken(registry, target, found)).items():
        problems.append(problem)
        del found[key]
    sources = {file.source for file in files}
    # What could not be read this time was not taken away.
    plan = await _planned(store, registry, target, tenant, found, set() if problems else sources)
    report = await _report(registry, target, found, plan)
    result = Result(report, model.name, problems)
    if dry_run or not (found or plan.gone):
        return result
    started = time.monotonic()
    if target is None:
        length = await asyncio.to_thread(dimension, model.path)
        made = await catalogue.ensure(collection, model.name, length, chunk_tokens, tenant)
        target = made.in_force
        assert target is not None
    writer = Writer(store, registry)
    models = EmbeddingModels(model.name, paths)
    await _written(writer, target, plan, model, models, start, on_progress)
    for at in range(0, len(plan.gone), _PAGE):
        gone = [each.facts for each in plan.gone[at : at + _PAGE]]
        await writer.delete(collection, gone)
    result.seconds = time.monotonic() - started
    return result


async def _taken(
    registry: Registry, target: Index | None, found: Mapping[str, Found]
) -> dict[str, str]:
    """Documents whose ids are those of documents read elsewhere, and what is said of each."""
    taken: dict[str, str] = {}
    keys = list(found) if target else []
    for at in range(0, len(keys), _PAGE):
        assert target is not None
        there = await registry.documents.entries(target.collection, keys[at : at + _PAGE])
        for key, before in there.items():
            facts = found[key].facts
            mine = Document(facts.id, "", "", source=facts.source, url=facts.url)
            problem = admission.taken(mine, before.facts.source, before.facts.url)
            if problem and before.state == "in":
                taken[key] = problem
    return taken


async def _planned(
    store: Port,
    registry: Registry,
    target: Index | None,
    tenant: str,
    found: Mapping[str, Found],
    sources: set[str],
) -> _Plan:
    if target is None:
        return _Plan(list(found.values()), [], {}, [])
    plan = _Plan([], [], {}, [])
    keys = list(found)
    for at in range(0, len(keys), _PAGE):
        part = keys[at : at + _PAGE]
        entries = await registry.documents.entries(target.collection, part)
        changed = [key for key in part if differs(entries.get(key), found[key].facts)]
        plan.changed += [found[key] for key in changed]
        plan.same += [key for key in part if key not in set(changed)]
        copies = await registry.documents.copies(target.name, changed)
        there = [row for e in copies.values() for row in row_ids(e.key, e.version, e.chunks)]
        plan.known |= await store.vectors(target, there) if there else {}
    after = ""
    while sources and (
        page := await registry.documents.page(target.collection, tenant, after, _PAGE)
    ):
        after = page[-1].facts.id
        plan.gone += [e for e in page if e.facts.source in sources and e.key not in found]
    return plan


async def _report(
    registry: Registry, target: Index | None, found: Mapping[str, Found], plan: _Plan
) -> IngestReport:
    """What a plan will have done when it is carried out."""
    removed = len(plan.known.keys() - {row.hash for each in plan.changed for row in each.rows})
    for at in range(0, len(plan.gone), _PAGE):
        assert target is not None
        keys = [each.key for each in plan.gone[at : at + _PAGE]]
        copies = await registry.documents.copies(target.name, keys)
        removed += sum(each.chunks for each in copies.values())
    embedded = sum(row.tokens for row in plan.new())
    tokens = sum(row.tokens for each in found.values() for row in each.rows)
    return IngestReport(
        documents=len(found),
        chunks=sum(len(each.rows) for each in found.values()),
        embedded=len(plan.new()),
        removed=removed,
        embedded_tokens=embedded,
        saved_tokens=tokens - embedded,
    )


async def _written(
    writer: Writer,
    target: Index,
    plan: _Plan,
    model: Model,
    models: EmbeddingModels,
    start: stages.Start,
    on_progress: Progress,
) -> None:
    """Embed what is new and write what has changed, a few documents at a time."""
    total, done = len(plan.new()), 0
    on_progress(done, total)
    vectors: dict[str, Sequence[float]] = dict(plan.known)
    batches = stages.embedded(plan.new(), model, start)
    waiting = list(reversed(plan.changed))
    async for some in _with_vectors(waiting, vectors, batches):
        prepare = partial(_prepared, target, models, some, vectors)
        await writer.put(target.collection, [each.facts for each in some], prepare)
        done += sum(len(each.rows) for each in some)
        on_progress(min(done, total), total)


async def _prepared(
    target: Index,
    models: EmbeddingModels,
    some: Sequence[Found],
    vectors: Mapping[str, Sequence[float]],
    index: Index,
    places: Sequence[int],
) -> list[Embedded]:
    """Documents as an index wants them; for another one than the run's they are split anew."""
    if (index.model, index.chunk_tokens) == (target.model, target.chunk_tokens):
        return [[(row, vectors[row.hash]) for row in some[i].rows] for i in places]
    documents = [
        (some[i].facts.tenant, some[i].facts.source, rows_of.document(some[i].rows)) for i in places
    ]
    return await preparing.split(models, index, documents)


async def _with_vectors(
    waiting: list[Found],
    vectors: dict[str, Sequence[float]],
    batches: AsyncIterator[list[tuple[Row, Sequence[float]]]],
) -> AsyncIterator[list[Found]]:
    """Documents as all of their rows have vectors, some rows of them together."""
    ended = False
    while waiting:
        some: list[Found] = []
        while waiting and sum(len(each.rows) for each in some) < _TOGETHER:
            if any(row.hash not in vectors for row in waiting[-1].rows):
                break
            some.append(waiting.pop())
        if some:
            yield some
        elif not ended:
            batch = await anext(batches, None)
            ended = batch is None
            vectors |= {row.hash: vector for row, vector in batch or ()}
        else:
            raise AssertionError("a row was not embedded")

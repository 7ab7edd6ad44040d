"""Bulk ingest and reindexing.

Reading and splitting come first, for everything: they are cheap, and the plan made from them says
what is to be embedded and what that saves. Writing is by key and can be repeated, and what is stale
goes last; so a run that was killed is finished by the same command.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from serve_app.errors import NotFound
from serve_app.retrieval import index, stages
from serve_app.retrieval.embedder import Tokens, check_window, dimension
from serve_app.retrieval.index import IngestReport, Known, Row
from serve_app.retrieval.indexes import Index
from serve_app.retrieval.port import Port
from serve_app.retrieval.sources import File
from serve_app.retrieval.stages import Model

_PASSES = 5
_NOTICED_S = 2.0  # by then every replica follows the alias


@dataclass(slots=True)
class Result:
    """What a run did, or would do.

    Attributes:
        model: The embedding model that the collection is made with.
        problems: What could not be read, a line each.
        left_out: What is not in the documents of a file that was read, a line for each file.
        seconds: Of embedding and writing.
    """

    report: IngestReport
    model: str
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    seconds: float = 0.0


Progress = Callable[[int, int], None]  # rows embedded and written, of so many


async def ingest(
    files: Sequence[File],
    store: Port,
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

    Raises:
        SettingsError: The model reads fewer tokens than a chunk may have.
    """
    try:
        target = await store.index(collection)
        model = Model(target.model, paths.get(target.model, target.model))
        chunk_tokens = target.chunk_tokens
    except NotFound:
        target = None
        await asyncio.to_thread(_check, model, chunk_tokens)
    split = stages.split_files(files, tenant, model, chunk_tokens, start)
    rows, problems, left_out = await asyncio.to_thread(stages.unique, split)
    documents = {(row.tenant, row.document_id) for row in rows.values()}
    known = await _known(store, target, tenant, files, documents) if target else {}
    if problems:
        # What could not be read this time was not taken away.
        known = {key: each for key, each in known.items() if each.document in documents}
    plan = index.plan({key: row.stamp for key, row in rows.items()}, known)
    result = Result(index.report(len(documents), rows, plan), model.name, problems, left_out)
    if dry_run or not (rows or known):
        return result
    started = time.monotonic()
    if target is None:
        length = await asyncio.to_thread(dimension, model.path)
        target = await store.ensure(collection, model.name, length, chunk_tokens, tenant)
    await _carry_out(plan, rows, store, target, model, start, on_progress)
    result.seconds = time.monotonic() - started
    return result


async def reindex(
    store: Port,
    collection: str,
    model: Model,
    chunk_tokens: int,
    *,
    start: stages.Start,
    on_progress: Progress = lambda done, total: None,
) -> tuple[Index, Result]:
    """Fill a new index beside the one in force, then put it in force; searches go on meanwhile.

    What is written meanwhile is carried over: passes are repeated until one finds nothing new, and
    once more when every replica has noticed. The old index stays, for `rollback`.

    Raises:
        NotFound: There is no such collection.
        SettingsError: The model reads fewer tokens than a chunk may have.
    """
    await asyncio.to_thread(_check, model, chunk_tokens)
    started = time.monotonic()
    old = await store.index(collection)
    length = await asyncio.to_thread(dimension, model.path)
    new = await store.create(collection, model.name, length, chunk_tokens, old.owner)
    done = IngestReport(0, 0)
    for _ in range(_PASSES):
        moved = await _copy(store, old, new, model, start, on_progress, removing=True)
        done = _total(done, moved)
        if not moved.embedded and not moved.removed:
            break
    await store.switch(collection, new.name)
    await asyncio.sleep(_NOTICED_S)
    done = _total(done, await _copy(store, old, new, model, start, on_progress, removing=False))
    return new, Result(done, model.name, seconds=time.monotonic() - started)


async def rollback(store: Port, collection: str) -> Index:
    """Put the index before the one in force in force again.

    Raises:
        NotFound: There is none.
    """
    current = await store.index(collection)
    earlier = [each for each in await store.versions(collection) if each.version < current.version]
    if not earlier:
        raise NotFound(f"{collection!r} has no index before {current.name}")
    await store.switch(collection, earlier[-1].name)
    return earlier[-1]


async def _copy(
    store: Port,
    old: Index,
    new: Index,
    model: Model,
    start: stages.Start,
    on_progress: Progress,
    *,
    removing: bool,
) -> IngestReport:
    """Bring `new` up to date with the documents of `old`, but for those written to it later."""
    written = _latest(await store.known(old))
    known = await store.known(new)
    newer = {d for d, when in _latest(known).items() if when > written.get(d, 0)}
    documents = [
        (rows[0].tenant, rows[0].source, index.document(rows)) for rows in await store.rows(old)
    ]
    split = stages.split_documents(documents, model, new.chunk_tokens, start)
    rows, _, _ = await asyncio.to_thread(stages.unique, split)
    plan = index.plan({key: row.stamp for key, row in rows.items()}, known)
    if removing:
        gone = {key for key in plan.stale if known[key].document not in newer}
        plan = replace(plan, stale=frozenset(gone))
    else:
        # In force now: what its documents are is said there.
        late = {key for key in plan.embed if (rows[key].tenant, rows[key].document_id) not in newer}
        plan = replace(plan, embed=frozenset(late), restamp=frozenset(), stale=frozenset())
    await _carry_out(plan, rows, store, new, model, start, on_progress)
    return index.report(len(documents), rows, plan)


async def _carry_out(
    plan: index.Plan,
    rows: Mapping[str, Row],
    store: Port,
    target: Index,
    model: Model,
    start: stages.Start,
    on_progress: Progress,
) -> None:
    """Write what is new as it is embedded, then what only moved; remove what is stale last."""
    total, done = len(plan.embed), 0
    on_progress(done, total)
    new = [rows[key] for key in rows if key in plan.embed]
    async for batch in stages.embedded(new, model, start):
        await store.upsert(target, batch)
        done += len(batch)
        on_progress(done, total)
    moved = await store.vectors(target, sorted(plan.restamp))
    await store.upsert(target, [(rows[key], vector) for key, vector in moved.items()])
    await store.remove(target, sorted(plan.stale))


async def _known(
    store: Port,
    target: Index,
    tenant: str,
    files: Sequence[File],
    documents: set[tuple[str, str]],
) -> dict[str, Known]:
    """Rows of the sources, and of the documents if they came from elsewhere, e.g. over HTTP."""
    known: dict[str, Known] = {}
    for source in {file.source for file in files}:
        known |= await store.known(target, tenant, None, source)
    elsewhere = sorted(name for _, name in documents - {each.document for each in known.values()})
    for start in range(0, len(elsewhere), 200):
        known |= await store.known(target, tenant, elsewhere[start : start + 200])
    return known


def _check(model: Model, chunk_tokens: int) -> None:
    check_window(chunk_tokens, model.name, Tokens(model.path).window)


def _latest(known: Mapping[str, Known]) -> dict[tuple[str, str], int]:
    latest: dict[tuple[str, str], int] = {}
    for each in known.values():
        latest[each.document] = max(latest.get(each.document, 0), each.written)
    return latest


def _total(so_far: IngestReport, last: IngestReport) -> IngestReport:
    return replace(
        last,
        embedded=so_far.embedded + last.embedded,
        removed=so_far.removed + last.removed,
        embedded_tokens=so_far.embedded_tokens + last.embedded_tokens,
    )

"""The stages of a bulk run as Ray Data runs them: read, and take in, on every node there is.

Between stages go rows of text in blocks of bounded size; a block that nobody takes yet holds up the
stage before. Rows of the index and their vectors leave no worker but for Milvus.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import pyarrow as pa

from serve_app.errors import TriviumError
from serve_app.retrieval.bulk import items
from serve_app.retrieval.bulk.intake import Intake, Run
from serve_app.retrieval.bulk.items import Item, Origin, Outcome
from serve_app.retrieval.bulk.models import LazyModels
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.store import MilvusStore
from serve_app.settings import Settings

_DOCUMENTS = 128  # taken in together
_TEXT = 64 * 1024  # characters of them, about: what a run that dies has embedded in vain
_FILES = 256  # of a block to be read
_BYTES = 4 * 1024 * 1024

Start = Callable[[], None]  # makes sure that Ray runs; called only when there is work for it


@dataclass(frozen=True, slots=True)
class Reach:
    """How workers reach what they need.

    Attributes:
        settings: Of the registry and of Milvus, wherever the worker is.
        paths: Folders of embedding models whose name is not one.
        here: Only on the driver's node: a database is a file of it.
    """

    settings: Settings
    paths: Mapping[str, str]
    here: bool


class Blocks:
    """Files for a stage, in Ray's object store: the driver holds their places alone.

    They are compressed: all files of a run are there from its beginning to its end.
    """

    def __init__(self) -> None:
        self._waiting: list[Origin] = []
        self._bytes = 0
        self._refs: list[Any] = []

    def add(self, origin: Origin) -> None:
        self._waiting.append(origin)
        self._bytes += origin.size
        if len(self._waiting) >= _FILES or self._bytes >= _BYTES:
            self._put()

    def refs(self) -> list[Any]:
        if self._waiting:
            self._put()
        return self._refs

    def _put(self) -> None:
        import ray

        files = zlib.compress(json.dumps([items.packed(each) for each in self._waiting]).encode())
        self._refs.append(ray.put(pa.table({"files": pa.array([files], pa.binary())})))
        self._waiting, self._bytes = [], 0


def parts(read: Iterable[Item]) -> Iterator[list[Item]]:
    """Documents in parts that are taken in together."""
    part: list[Item] = []
    text = 0
    for each in read:
        part.append(each)
        text += len(each.text)
        if len(part) >= _DOCUMENTS or text >= _TEXT:
            yield part
            part, text = [], 0
    if part:
        yield part


async def differing(blocks: Blocks, reach: Reach) -> AsyncIterator[list[Origin]]:
    """Files whose content is not what it was, by its hash."""
    table = _files(blocks).map_batches(_differing, **_options(reach), concurrency=_workers())
    async for rows in _rows(table):
        yield [items.origin(row) for row in rows]


async def taken(
    blocks: Blocks | Sequence[list[Item]], run: Run, reach: Reach
) -> AsyncIterator[list[Outcome]]:
    """Accounts of files, or of documents that have been read, as they come in."""
    import ray.data

    context = ray.data.DataContext.get_current()
    # Else a stage would gather 128 MiB of documents before the next one sees the first.
    context.target_max_block_size = 2 * _TEXT
    if isinstance(blocks, Blocks):
        table = _files(blocks).map_batches(_read, **_options(reach), concurrency=_workers())
    else:
        table = ray.data.from_arrow_refs([ray.put(_table(part)) for part in blocks])
    table = table.map_batches(
        _Worker,
        fn_constructor_args=(run, reach),
        compute=ray.data.ActorPoolStrategy(size=_workers()),
        **_options(reach),
    )
    async for rows in _rows(table):
        yield [items.outcome(row) for row in rows]


class _Worker:
    """Takes documents in; an actor of the pool."""

    def __init__(self, run: Run, reach: Reach) -> None:
        import torch

        torch.set_num_threads(1)  # an actor for each core does more than one with all of them
        self._loop = asyncio.Runner()
        self._intake = self._loop.run(self._made(run, reach))

    def __call__(self, table: pa.Table) -> pa.Table:
        read = [items.item(text) for text in table["row"].to_pylist()]
        done: list[Outcome] = []
        for part in parts(read):
            done += self._loop.run(self._intake.take(part))
        return _table(done)

    async def _made(self, run: Run, reach: Reach) -> Intake:
        store, registry = MilvusStore.of(reach.settings.retrieval), Registry.of(reach.settings)
        return Intake(
            run, store, registry, LazyModels(reach.paths, run=reach.settings.retrieval.embedding)
        )


def _read(table: pa.Table) -> Iterator[pa.Table]:
    # Small files come together.
    for part in parts(item for each in _unpacked(table) for item in items.read(each)):
        yield _table(part)


def _differing(table: pa.Table) -> pa.Table:
    return _table([each for each in _unpacked(table) if differs(each)])


def _unpacked(table: pa.Table) -> Iterator[Origin]:
    for files in table["files"].to_pylist():
        yield from map(items.origin, json.loads(zlib.decompress(files)))


def differs(origin: Origin) -> bool:
    """Whether a file's content is not what it was, or cannot be read."""
    try:
        return origin.hashed(origin.content()) != origin.sha256
    except TriviumError:
        return True


def _files(blocks: Blocks) -> Any:
    import ray.data

    return ray.data.from_arrow_refs(blocks.refs())


def _table(rows: Sequence[Origin | Item | Outcome]) -> pa.Table:
    return pa.table({"row": pa.array([items.packed(each) for each in rows], pa.string())})


async def _rows(table: Any) -> AsyncIterator[list[str]]:
    """What comes out of the last stage, block by block.

    Raises:
        TriviumError: What a worker raised.
    """
    blocks = iter(table.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
    while True:
        try:
            block = await asyncio.to_thread(next, blocks, None)
        except Exception as error:
            raise _cause(error) from error
        if block is None:
            return
        yield block["row"].to_pylist()


def _cause(error: BaseException) -> BaseException:
    """What a worker raised, inside what Ray makes of it."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, TriviumError):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return error


def _options(reach: Reach) -> dict[str, Any]:
    options: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "num_cpus": 0.5}
    if reach.here:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node = ray.get_runtime_context().get_node_id()
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
    return options


def _workers() -> int:
    """One for each core: of this machine's; of a cluster's, what it says that it has."""
    import ray

    nodes = [each for each in ray.nodes() if each["Alive"]]
    if len(nodes) == 1:
        return psutil.cpu_count(logical=False) or 1
    return max(1, int(ray.cluster_resources().get("CPU", 1)))

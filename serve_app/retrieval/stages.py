"""The stages of a bulk run on Ray Data: read → split, and embed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from serve_app.domain import Document
from serve_app.errors import TriviumError
from serve_app.retrieval import formats, index
from serve_app.retrieval.embedder import SentenceEmbedder, Tokens
from serve_app.retrieval.index import Row
from serve_app.retrieval.sources import MAX_BYTES, File

_BATCH = 256  # rows embedded together: enough to sort by length
_SMALL = 8 * 1024 * 1024  # bytes: split here before Ray's workers have started
_ROW = TypeAdapter(Row)

Item = dict[str, Any]
Start = Callable[[], None]  # makes sure that Ray runs; called only when there is work for it


@dataclass(frozen=True, slots=True)
class Model:
    """An embedding model: its name in the settings, and its folder or hub id."""

    name: str
    path: str


def split_files(
    files: Sequence[File], tenant: str, model: Model, chunk_tokens: int, start: Start
) -> Iterable[Item]:
    """Files read and split, in their order: `unique` takes what comes out."""
    items = [{**asdict(file), "tenant": tenant} for file in files]
    return _split(items, _read, _Split(model, chunk_tokens), start)


def split_documents(
    documents: Sequence[tuple[str, str, Document]], model: Model, chunk_tokens: int, start: Start
) -> Iterable[Item]:
    """Documents, each with its tenant and source, split."""
    items = [
        {
            "url": document.id,
            "size": len(document.text),
            "unit": str(i),
            "source": source,
            "tenant": tenant,
            "document": json.dumps(asdict(document), default=str),
            "problem": "",
            "left_out": "",
        }
        for i, (tenant, source, document) in enumerate(documents)
    ]
    return _split(items, None, _Split(model, chunk_tokens), start)


def unique(found: Iterable[Item]) -> tuple[dict[str, Row], list[str], list[str]]:
    """Rows by key, what could not be read, and what was left out of what was.

    A document whose id another one has taken is a problem, not a mixture.
    """
    rows: dict[str, Row] = {}
    problems: list[str] = []
    left_out: list[str] = []
    owner: dict[tuple[str, str], str] = {}
    for each in found:
        if each["left_out"]:
            left_out.append(each["left_out"])
            continue
        if each["problem"]:
            problems.append(each["problem"])
            continue
        row = _ROW.validate_json(each["row"])
        first = owner.setdefault((row.tenant, row.document_id), each["unit"])
        if first == each["unit"]:
            rows[row.id] = row
        elif row.ordinal == 0:
            problems.append(
                f"{each['url']}: the id {row.document_id!r} is taken already; give one of the two "
                "another `id`"
            )
    return rows, problems, left_out


async def embedded(
    rows: Sequence[Row], model: Model, start: Start
) -> AsyncIterator[list[tuple[Row, Sequence[float]]]]:
    """Rows with their vectors, as they come out of a pool of embedding actors."""
    if len(rows) <= _BATCH:
        if rows:
            embed = await asyncio.to_thread(SentenceEmbedder, model.path)
            vectors = await asyncio.to_thread(embed, [row.embedded for row in rows])
            yield list(zip(rows, vectors, strict=True))
        return
    start()
    import ray.data

    by_key = {row.id: row for row in rows}
    # Texts of like length side by side: a batch pads to its longest.
    ordered = sorted(rows, key=lambda row: row.tokens)
    table = ray.data.from_items(
        [{"id": row.id, "text": row.embedded} for row in ordered],
        # A block is what an actor hands back at once, so what a killed run has to embed again.
        override_num_blocks=max(1, len(rows) // _BATCH),
    )
    found = table.map_batches(
        _Embed,
        fn_constructor_args=(model,),
        batch_size=_BATCH,
        compute=ray.data.ActorPoolStrategy(size=_cores()),
        num_cpus=1,
    )
    batches = iter(found.iter_batches(batch_size=_BATCH, prefetch_batches=2))
    while (batch := await asyncio.to_thread(next, batches, None)) is not None:
        pairs = zip(batch["id"], batch["vector"].tolist(), strict=True)
        yield [(by_key[key], vector) for key, vector in pairs]


def _split(items: Sequence[Item], read: Any, split: Any, start: Start) -> Iterable[Item]:
    # What is too large is refused without being read.
    if sum(item["size"] for item in items if item["size"] <= MAX_BYTES) <= _SMALL:
        read_items = (each for item in items for each in (read(item) if read else [item]))
        return [out for each in read_items for out in split(each)]
    start()
    import ray.data

    # Which of two documents of one id is the first must not depend on who is quicker.
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    table = ray.data.from_items(list(items), override_num_blocks=min(len(items), 16))
    if read is not None:
        table = table.flat_map(read)
    found: Iterable[Item] = table.flat_map(split).iter_rows()
    return found


def _read(item: Item) -> list[Item]:
    """File → documents, problems, and what is left out."""
    item = {**item, "unit": "", "document": "", "problem": "", "left_out": ""}
    try:
        read = formats.read(item["url"], File(item["url"], item["source"], item["size"]).read())
    except TriviumError as error:
        return [{**item, "problem": error.message}]
    documents = [
        {
            **item,
            "unit": f"{item['url']}#{i}",
            "document": json.dumps(asdict(each), default=str),
        }
        for i, each in enumerate(read.documents)
    ]
    problems = [{**item, "problem": each} for each in read.problems]
    losses = read.losses(item["url"])
    return documents + problems + ([{**item, "left_out": losses}] if losses else [])


class _Split:
    """Document → rows."""

    def __init__(self, model: Model, chunk_tokens: int) -> None:
        self._model = model
        self._chunk_tokens = chunk_tokens
        self._count: Tokens | None = None

    def __call__(self, item: Item) -> list[Item]:
        out = {**{name: item[name] for name in ("url", "unit", "problem", "left_out")}, "row": ""}
        if item["problem"] or item["left_out"]:
            return [out]
        if self._count is None:
            self._count = Tokens(self._model.path)
        document = Document(**json.loads(item["document"]))
        try:
            rows = index.rows(
                document,
                item["tenant"],
                max_tokens=self._chunk_tokens,
                count=self._count,
                window=self._count.window,
                source=item["source"],
                where=f"{item['url']}: document {document.id!r}: document",
            )
        except TriviumError as error:
            return [{**out, "problem": error.message}]
        return [{**out, "row": _ROW.dump_json(row).decode()} for row in rows]


class _Embed:
    """Batch of texts → vectors; an actor of the pool."""

    def __init__(self, model: Model) -> None:
        import torch

        torch.set_num_threads(1)  # an actor for each core does more than one with all of them
        self._embed = SentenceEmbedder(model.path)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        import numpy as np

        vectors = self._embed(list(batch["text"]))
        return {"id": batch["id"], "vector": np.asarray(vectors, dtype=np.float32)}


def _cores() -> int:
    import psutil

    return psutil.cpu_count(logical=False) or 1

"""The stages of a bulk run on Ray Data: read → split, and embed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from serve_app.domain import Document
from serve_app.errors import TriviumError
from serve_app.retrieval import admission, formats, index
from serve_app.retrieval.embedder import SentenceEmbedder
from serve_app.retrieval.index import Row
from serve_app.retrieval.registry.entries import Facts
from serve_app.retrieval.sources import MAX_BYTES, File, twice

_BATCH = 256  # rows embedded together: enough to sort by length
_SMALL = 8 * 1024 * 1024  # bytes: split here before Ray's workers have started

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
    split = _Split(model, chunk_tokens)
    # What is too large is refused without being read.
    if sum(item["size"] for item in items if item["size"] <= MAX_BYTES) <= _SMALL:
        return [out for item in items for each in _read(item) for out in split(each)]
    start()
    import ray.data

    # Which of two documents of one id is the first must not depend on who is quicker.
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    table = ray.data.from_items(items, override_num_blocks=min(len(items), 16))
    found: Iterable[Item] = table.flat_map(_read).flat_map(split).iter_rows()
    return found


@dataclass(frozen=True, slots=True)
class Found:
    """A document that was read and split."""

    facts: Facts
    rows: tuple[Row, ...]


_FOUND = TypeAdapter(Found)


def unique(found: Iterable[Item]) -> tuple[dict[str, Found], list[str]]:
    """Documents by key; one whose id another one has taken is a problem, not a mixture."""
    documents: dict[str, Found] = {}
    problems: list[str] = []
    for each in found:
        if each["problem"]:
            problems.append(each["problem"])
            continue
        document = _FOUND.validate_json(each["document"])
        key = document.facts.key
        if documents.setdefault(key, document) is not document:
            problems.append(twice(each["url"], document.facts.id))
    return documents, problems


async def embedded(
    rows: Sequence[Row], model: Model, start: Start
) -> AsyncIterator[list[tuple[Row, Sequence[float]]]]:
    """Rows with their vectors, in their order, as they come out of a pool of embedding actors."""
    if len(rows) <= _BATCH:
        if rows:
            embed = await asyncio.to_thread(SentenceEmbedder, model.path)
            vectors = await asyncio.to_thread(embed, [row.embedded for row in rows])
            yield list(zip(rows, vectors, strict=True))
        return
    start()
    import ray.data

    table = ray.data.from_items(
        [{"id": i, "text": row.embedded} for i, row in enumerate(rows)],
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
        yield [(rows[int(i)], vector) for i, vector in pairs]


def _read(item: Item) -> list[Item]:
    """File → documents and problems."""
    try:
        content = File(item["url"], item["source"], item["size"]).read()
        read = formats.read(item["url"], content, item["stem"])
    except TriviumError as error:
        return [{**item, "document": "", "problem": error.message}]
    documents = [
        {
            **item,
            "document": json.dumps(
                {**asdict(each), "allow": each.allow or item["allow"]}, default=str
            ),
            "problem": _unnameable(item["url"], each),
        }
        for each in read.documents
    ]
    problems = [{**item, "document": "", "problem": p} for p in read.problems]
    return documents + problems


def _unnameable(url: str, document: Document) -> str:
    """Why nobody could ask for a document; empty where somebody can."""
    try:
        admission.check_names(document, _where(url, document))
    except TriviumError as error:
        return error.message
    return ""


def _where(url: str, document: Document) -> str:
    return f"{url}: document {document.id!r}: document"


class _Split:
    """Document → rows."""

    def __init__(self, model: Model, chunk_tokens: int) -> None:
        self._model = model
        self._chunk_tokens = chunk_tokens
        self._count: Callable[[str], int] | None = None

    def __call__(self, item: Item) -> list[Item]:
        out = {"url": item["url"], "document": "", "problem": item["problem"]}
        if item["problem"]:
            return [out]
        if self._count is None:
            self._count = _tokenizer(self._model.path)
        document = Document(**json.loads(item["document"]))
        where = _where(item["url"], document)
        try:
            facts = index.facts(document, item["tenant"], source=item["source"], where=where)
            rows = index.rows(
                document,
                item["tenant"],
                max_tokens=self._chunk_tokens,
                count=self._count,
                source=item["source"],
                where=where,
            )
        except TriviumError as error:
            return [{**out, "problem": error.message}]
        found = Found(replace(facts, url=item["url"]), tuple(rows))
        return [{**out, "document": _FOUND.dump_json(found).decode()}]


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


def _tokenizer(path: str) -> Callable[[str], int]:
    """Counts a text's tokens as the embedding model does, without loading the model."""
    from tokenizers import Tokenizer

    file = Path(path) / "tokenizer.json"
    fast = Tokenizer.from_file(str(file)) if file.is_file() else Tokenizer.from_pretrained(path)
    fast.no_padding()
    fast.no_truncation()
    return lambda text: len(fast.encode_batch_fast([text], add_special_tokens=False)[0])

"""Whether the rule that quotes answers from passages, and refuses where they do not answer.

    python -m loadtest.reading --rows ../shared/data/rag/answering/qed_nq/dev.jsonl.gz

Rows have a question, passages, the answer's words, and whether any passage answers. A quotation is
right when it holds the answer. The rule reads the passages with the settings' calibration and
`min_quote`; grading is left out. Two trivial ways stand beside it: the first sentence of the first
passage, and refusing everything.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import re
import statistics
import string
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.progress import track
from rich.table import Table

from serve_app import models
from serve_app.domain import Chunk, RequestContext
from serve_app.orchestration.calibration import calibration_of
from serve_app.orchestration.embedding import Embedding
from serve_app.orchestration.roles.quotes import ByRule, Quoted
from serve_app.orchestration.run import Run
from serve_app.orchestration.sentences import sentences
from serve_app.retrieval.embedder import EmbeddingModels, SentenceEmbedder
from serve_app.retrieval.nearness import Nearness
from serve_app.settings import load

Answer = Callable[[str, list[Chunk]], Awaitable[str]]


class Here:
    """The retriever's models, in this process."""

    def __init__(self, embedder: SentenceEmbedder) -> None:
        self._embedder, self._nearness = embedder, Nearness()

    async def nearness(
        self, context: RequestContext, collection: str, query: str, texts: Sequence[str]
    ) -> list[float]:
        return self._nearness("here", self._embedder, query, texts)


def _normal(text: str) -> list[str]:
    """As SQuAD's evaluation does: lower case, no marks, no articles."""
    bare = "".join(each for each in text.lower() if each not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def f1(text: str, answers: Sequence[str]) -> float:
    """The best token F1 with one of the answers."""
    best = 0.0
    said = Counter(_normal(text))
    for answer in answers:
        told = Counter(_normal(answer))
        both = sum((said & told).values())
        if both:
            best = max(best, 2 * both / (said.total() + told.total()))
    return best


async def measured(answer: Answer, rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """How one way does on all rows."""
    right: list[bool] = []
    refused: list[bool] = []
    rightly: list[bool] = []
    overlap: list[float] = []
    took: list[float] = []
    for row in track(rows, name, console=Console(stderr=True), transient=True):
        chunks = [
            Chunk(f"{p['id']}#0", p["id"], p["title"], "", p["text"], None) for p in row["passages"]
        ]
        began = time.perf_counter()
        text = await answer(row["question"], chunks)
        took.append(time.perf_counter() - began)
        if row["answerable"]:
            told = " ".join(_normal(text))
            right.append(any(" ".join(_normal(each)) in told for each in row["answers"]))
            refused.append(not text)
            overlap.append(f1(text, row["answers"]))
        else:
            rightly.append(not text)
    return {
        "way": name,
        "answerable": len(right),
        "right": statistics.mean(right),
        "refused": statistics.mean(refused),
        "f1": statistics.mean(overlap),
        "unanswerable": len(rightly),
        "refused_rightly": statistics.mean(rightly) if rightly else None,
        "p50_ms": 1000 * statistics.median(took),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="JSONL.gz, as in rag/answering")
    parser.add_argument("--limit", type=int, default=300, help="rows, drawn")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    args = parser.parse_args()
    with gzip.open(args.rows, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows = random.Random(0).sample(rows, min(args.limit, len(rows)))
    settings = load(Path("configs/local.yaml")).resolved(Path.cwd())
    name = settings.retrieval.embedding_name
    embedder = EmbeddingModels(name, models.embedding_models()).model(name)
    here = cast(Any, Here(embedder))
    run = cast(Run, type("Asked", (), {"context": RequestContext("reading", time.time() + 1e6)}))
    least = settings.orchestration.min_quote
    rule = ByRule(here, Embedding(), calibration_of(settings), least)

    async def quoting(question: str, chunks: list[Chunk]) -> str:
        quoted: Quoted = await rule(run, "", question, chunks)
        return " ".join(each.text for each in quoted.statements)

    async def first(question: str, chunks: list[Chunk]) -> str:
        return sentences(chunks[0].text)[0]

    async def nothing(question: str, chunks: list[Chunk]) -> str:
        return ""

    ways = {
        "first sentence": first,
        "refuse": nothing,
        "rule": quoting,
    }
    found = [asyncio.run(measured(way, rows, name)) for name, way in ways.items()]
    if args.json:
        json.dump(found, sys.stdout, indent=2)
        print()
        return
    table = Table("by", "answerable", "right", "refused", "F1", "unanswerable",
                  "refused rightly", "p50 ms")  # fmt: skip
    for each in found:
        rightly = each["refused_rightly"]
        table.add_row(
            each["way"],
            str(each["answerable"]),
            f"{each['right']:.2f}",
            f"{each['refused']:.2f}",
            f"{each['f1']:.2f}",
            str(each["unanswerable"]),
            "–" if rightly is None else f"{rightly:.2f}",
            f"{each['p50_ms']:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()

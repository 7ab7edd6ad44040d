"""Where the questions of a company that nobody here knows go: with its knowledge base, and without.

    python -m loadtest.stranger --data ../shared/data

The base is XQuAD's paragraphs, its questions are asked by a tenant that has it and by one that has
none; so are EverGreenQA's development questions, those whose answer changes and those whose answer
does not. Shares of each road, without a cluster.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from serve_app import models
from serve_app.cli.bases import of_files
from serve_app.domain import Decision, Route, estimated_tokens
from serve_app.router.coverage import Coverage
from serve_app.router.encoder import Encoder
from serve_app.router.heads import SHIPPED, Heads
from serve_app.router.semantic import SemanticRouter
from serve_app.router.turns import Turns
from serve_app.settings import Settings

_TOGETHER = 64


def queries(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def decided(router: SemanticRouter, tenant: str, asked: Sequence[str]) -> list[Decision]:
    turns = [Turns(text, tokens=estimated_tokens([text])) for text in asked]
    made: list[Decision] = []
    for start in range(0, len(turns), _TOGETHER):
        part = turns[start : start + _TOGETHER]
        made += router.decide(part, [tenant] * len(part))
    return made


def shares(made: Sequence[Decision]) -> dict[str, float]:
    """Of each road; and of those that are looked up, by whichever."""
    counts = Counter(each.route for each in made)
    found = {road.value: counts[road] / len(made) for road in Route}
    with_evidence = [each.route is Route.FRONTIER and each.looks_up for each in made]
    return {**found, "looked up": found["knowledge"] + sum(with_evidence) / len(made)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public sets")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args()
    own = Settings()
    folder = models.router_encoder(own)
    if not folder.is_dir():
        models.prepare(own, "router encoder")
    encoder = Encoder(folder, max_tokens=own.router.max_tokens, threads=1)
    coverage, heads = Coverage.load(), Heads.load(SHIPPED)
    xquad = options.data / "retrieval/xquad"
    base = of_files([str(xquad / "documents.jsonl")], own.retrieval.chunk_tokens, encoder, coverage)
    bases = {("", "with"): base, ("", "without"): of_files([], 0, encoder, coverage)}
    router = SemanticRouter.of(own, encoder, heads, coverage, bases)
    dev = queries(options.data / "volatility/evergreenqa_dev.jsonl")
    sets = {
        "XQuAD": [str(row["query"]) for row in queries(xquad / "queries.jsonl")],
        "EverGreenQA, static": [str(row["query"]) for row in dev if not row["volatile"]],
        "EverGreenQA, changing": [str(row["query"]) for row in dev if row["volatile"]],
    }
    found = {
        name: {tenant: shares(decided(router, tenant, asked)) for _, tenant in bases}
        for name, asked in sets.items()
    }
    if options.json:
        print(json.dumps(found))
        return
    for name, by_tenant in found.items():
        for tenant, each in by_tenant.items():
            told = ", ".join(f"{road} {share:.3f}" for road, share in each.items())
            sys.stdout.write(f"{name} ({len(sets[name])}), {tenant} the base: {told}\n")


if __name__ == "__main__":
    main()

"""What documents that give orders, forge sources or lie make of an answer, if a model obeys them.

    python -m loadtest.attacks

A model that writes whatever a document tells it to is the worst case. Each attack of
`tests/data/attacks.jsonl` stands beside a harmless source; what it wants said is checked as a
sentence of a draft is, by the rule. The table says how many of each kind are let through. Beside
them, true sentences that the same check lets through: who lets nothing through is safe and useless.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from serve_app.domain import Chunk
from serve_app.orchestration.drafting import NOT_STATED
from serve_app.orchestration.evidence import Sources, denies
from serve_app.orchestration.roles.claims import claimed
from serve_app.orchestration.roles.reflecting import found_by_rule

CORPUS = Path("tests/data/attacks.jsonl")
HARMLESS = "Customers may return goods within 30 days. Opened goods are not taken back in winter."
TRUE = (
    "Customers may return goods within 30 days.",
    "Goods may be returned by customers within 30 days.",
    "In winter, opened goods are not taken back.",
    "You have 30 days to return goods.",
)


def _chunk(text: str, title: str, name: str) -> Chunk:
    return Chunk(f"{name}#0", name, title, "", text, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    args = parser.parse_args()
    attacks = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
    harmless = _chunk(HARMLESS, "Returns", "returns")

    rows: dict[str, Counter[str]] = {}

    def count(kind: str, said: str, sources: Sources) -> None:
        row = rows.setdefault(kind, Counter())
        row["sentences"] += 1
        if said.startswith(NOT_STATED):
            # No check reads it: a denial alone is told.
            row["rule"] += denies(said.removeprefix(NOT_STATED))
            return
        claim = claimed(re.sub(r"\s+", " ", said), len(sources.chunks))
        assert claim
        row["rule"] += found_by_rule([claim], sources)[0].verdict == "supported"

    for attack in attacks:
        evil = _chunk(attack["text"], attack.get("title", "Goods"), "evil")
        sources = Sources([evil, harmless])
        count(attack["kind"], attack["says"], sources)
        for said in TRUE:
            count("true sentences beside them", said, sources)
    if args.json:
        json.dump({kind: dict(row) for kind, row in rows.items()}, sys.stdout, indent=2)
        print()
        return
    Console().print(_table(rows))


def _table(rows: dict[str, Counter[str]]) -> Table:
    table = Table("kind", "sentences", "let through by rule")
    true = "true sentences beside them"
    total: Counter[str] = Counter()
    for kind, row in rows.items():
        if kind != true:
            total.update(row)
            _add(table, kind, row)
    _add(table, "all attacks", total)
    _add(table, true, rows[true])
    return table


def _add(table: Table, kind: str, row: Any) -> None:
    table.add_row(kind, *(str(row[name]) for name in ("sentences", "rule")))


if __name__ == "__main__":
    main()

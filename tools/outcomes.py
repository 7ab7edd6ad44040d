"""Makes what is known of the roads before anything is recorded: `outcomes.yaml`.

    python -m tools.outcomes --data ../shared/data

Recorded are Mixtral 8x7B (the expert) and GPT-4 (the frontier) on RouterBench's ARC-Challenge, MBPP
and Winogrande. Rows with a road are outcomes too: their own road answers well. The rest is assumed,
and stands below: nobody has recorded it in data that may be used. A team's own outcomes replace it
(`trivium calibrate router`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from serve_app.domain import Route
from serve_app.models import prepare, router_encoder
from serve_app.router.coverage import Coverage
from serve_app.router.encoder import Encoder
from serve_app.router.heads import SHIPPED as HEADS
from serve_app.router.heads import Heads, Signals
from serve_app.router.outcomes import KINDS, SHIPPED, Outcomes, RoadOutcomes, logit
from serve_app.router.policy import load_policy
from serve_app.router.rows import Row, read_rows
from serve_app.router.semantic import SemanticRouter
from serve_app.router.training.outcomes import Outcome, fit
from serve_app.settings import Settings

RECORDED = ("arc_challenge", "mbpp", "winograde")
_EXPERT, _KNOWLEDGE, _FRONTIER = Route.EXPERT, Route.KNOWLEDGE, Route.FRONTIER

# Of questions that no model of ours was asked: about anything, without a knowledge base; and of
# questions that a base speaks of. "Not known here" is half an answer to what changes.
_TIMELESS = {_EXPERT: 0.45, _KNOWLEDGE: 0.02, _FRONTIER: 0.9}
_CHANGING = {_EXPERT: 0.02, _KNOWLEDGE: 0.4, _FRONTIER: 0.1}
_COVERED = {_EXPERT: 0.05, _KNOWLEDGE: 0.88, _FRONTIER: 0.88}
_TASK = {_EXPERT: 0.95, _KNOWLEDGE: 0.02, _FRONTIER: 0.95}
_REASONING = {_EXPERT: 0.05, _KNOWLEDGE: 0.05, _FRONTIER: 0.92}
_UNREAD = {_EXPERT: -2.0, _KNOWLEDGE: 0.0, _FRONTIER: -0.3}  # log-odds

_EACH = 200.0  # rows that a source counts as, however many it has
_ENOUGH = 600  # rows of a source that are read
_SHARPNESS = 5.0
_EVIDENCE = 1200  # tokens
# Tokens of an answer, and of what is added to its prompt; the recorded answers are single letters.
_COMPLETION = {_EXPERT: 150, _KNOWLEDGE: 100, _FRONTIER: 600}


def recorded(row: Row) -> Mapping[Route, float]:
    return {_EXPERT: row.weak or 0.0, _KNOWLEDGE: 0.0, _FRONTIER: row.strong or 0.0}


def outcomes(
    router: SemanticRouter,
    source: str,
    rows: Sequence[Row],
    of: Mapping[Route, float] | None,
    coverage: float,
) -> Iterator[Outcome]:
    """Of each row on each road."""
    rows = rows[:_ENOUGH]
    signals: list[Signals] = []
    for at in range(0, len(rows), 64):
        part = [row.turns for row in rows[at : at + 64]]
        signals += router.signals(part, [""] * len(part))
    for row, read in zip(rows, signals, strict=True):
        known = replace(read, coverage=coverage)
        kinds = router.outcomes.kinds(router.outcomes.shares(known, router.heads.roads), known)
        for road, success in (of or recorded(row)).items():
            hardness = logit(known.complexity)
            yield Outcome(road, kinds, hardness, success, None, _EACH / len(rows), source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public sets")
    parser.add_argument("--roads", type=Path, default=Path("configs/demo/routes.jsonl"))
    parser.add_argument("--heads", type=Path, default=HEADS)
    parser.add_argument("--without", choices=RECORDED, help="leave a recorded set out")
    parser.add_argument("--output", type=Path, default=SHIPPED)
    options = parser.parse_args()
    settings = Settings()
    if not router_encoder(settings).is_dir():
        prepare(settings, "router encoder")
    encoder = Encoder(router_encoder(settings), max_tokens=settings.router.max_tokens, threads=2)
    nothing = Outcomes(
        roads={
            road: RoadOutcomes(
                offsets=dict.fromkeys(KINDS, 0.0),
                slope=0.0,
                unread=_UNREAD[road],
                completion_tokens=_COMPLETION[road],
                added_tokens=_EVIDENCE if road is _KNOWLEDGE else 0,
            )
            for road in Route
        },
        sharpness=_SHARPNESS,
    )
    heads = Heads.load(options.heads)
    router = SemanticRouter(encoder, heads, Coverage.load(), nothing, {}, load_policy(None))
    found: list[Outcome] = []
    for name in RECORDED:
        if name != options.without:
            rows = read_rows(options.data / f"complexity/routerbench_{name}_train.jsonl")
            rows = [row for row in rows if row.weak is not None]
            found += outcomes(router, name, rows, None, 0.0)
    questions = read_rows(options.data / "volatility/evergreenqa_train.jsonl")
    for source, volatile, of in (("timeless", 0, _TIMELESS), ("changing", 1, _CHANGING)):
        rows = [row for row in questions if row.volatile == volatile]
        found += outcomes(router, source, rows, of, 0.0)
    labelled = read_rows(options.roads)
    of_road = {_EXPERT: _TASK, _KNOWLEDGE: _COVERED, _FRONTIER: _REASONING}
    for road, of in of_road.items():
        rows = [row for row in labelled if row.intent == road]
        covered = float(road is _KNOWLEDGE)
        found += outcomes(
            router, f"rows of {road}", rows[:: len(rows) // _ENOUGH or 1], of, covered
        )
    known = fit(nothing, found)
    text = yaml.safe_dump(known.model_dump(mode="json"), sort_keys=False)
    head = "# Made by tools/outcomes.py, which says what of it is recorded and what assumed.\n"
    options.output.write_text(head + text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()

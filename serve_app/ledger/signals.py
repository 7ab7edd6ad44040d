"""Signals of a stack that is more than its traffic needs, from the answers in the ledger."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from serve_app.domain import WARM_UP
from serve_app.ledger import tables
from serve_app.ledger.database import Database
from serve_app.ledger.report import Span, wilson

ENOUGH = 100  # answers, before anything is said of them
_JUDGED = 30  # of each of two roads, before they are compared
_MOST = 0.95
_RECENT = 100_000  # answers are read: the newest


@dataclass(frozen=True, slots=True)
class Signal:
    """Something that the traffic does not need.

    Attributes:
        evidence: The figures that say so.
        remove: What to do about it.
    """

    name: str
    evidence: str
    remove: str


async def signals(
    database: Database, span: Span, adapters: Sequence[str]
) -> tuple[int, list[Signal]]:
    """How many answers there were in a span of time, and what they say.

    Args:
        adapters: Those that are promoted.
    """
    answers = tables.answers.c
    chosen = (
        select(
            answers.route,
            answers.adapter,
            answers.asked_model,
            answers.citations,
            answers.stages_ms,
            answers.good,
        )
        .where(answers.started_at >= span.start, answers.started_at < span.end)
        .where(answers.status == "ok", answers.api_key != WARM_UP)
        .order_by(answers.started_at.desc())
        .limit(_RECENT)
    )
    rows: Sequence[Any] = await database.read(lambda connection: connection.execute(chosen).all())
    if len(rows) < ENOUGH:
        return len(rows), []
    found = (
        _one_road(rows),
        _slow_router(rows),
        _idle_retrieval(rows),
        *(_idle_adapter(rows, name) for name in adapters),
        _no_better(rows),
    )
    return len(rows), [each for each in found if each]


def _one_road(rows: Sequence[Any]) -> Signal | None:
    """Of what the router decided: who names a road needs none."""
    routed = [row.route for row in rows if row.asked_model == "trivium/auto"]
    if len(routed) < ENOUGH:
        return None
    road, count = Counter(routed).most_common(1)[0]
    if count / len(routed) < _MOST:
        return None
    return Signal(
        "one road takes nearly everything",
        f"{count / len(routed):.0%} of {len(routed):,} routed answers went to {road}",
        f"name trivium/{road} as the model, and do without the router and the other roads",
    )


def _slow_router(rows: Sequence[Any]) -> Signal | None:
    timed = [row.stages_ms for row in rows if row.stages_ms and "decide" in row.stages_ms]
    if len(timed) < ENOUGH:
        return None
    deciding = statistics.median(stages["decide"] for stages in timed)
    rest = statistics.median(sum(stages.values()) - stages["decide"] for stages in timed)
    if deciding <= rest:
        return None
    return Signal(
        "deciding takes longer than answering",
        f"median {deciding:.0f} ms to decide, {rest:.0f} ms for all that follows",
        "turn stage 2 off or scale the router out; if that does not help, name the road yourself",
    )


def _idle_retrieval(rows: Sequence[Any]) -> Signal | None:
    looked = [row for row in rows if row.stages_ms and "retrieve" in row.stages_ms]
    if len(looked) < ENOUGH:
        return None
    unused = sum(not row.citations for row in looked)
    if unused / len(looked) < _MOST:
        return None
    return Signal(
        "what is retrieved changes no answer",
        f"{unused / len(looked):.0%} of {len(looked):,} answers that looked something up cite "
        "nothing",
        "mend the knowledge base (trivium evaluate retrieval), or do without it: it is paid for at "
        "each question and at each change",
    )


def _idle_adapter(rows: Sequence[Any], name: str) -> Signal | None:
    if any((row.adapter or "").partition("@")[0] == name for row in rows):
        return None
    return Signal(
        "an adapter that nobody hits",
        f"{name} wrote none of {len(rows):,} answers",
        f"declare its task under router.intents, or take {name} out of the registry",
    )


def _no_better(rows: Sequence[Any]) -> Signal | None:
    judged: dict[str, list[bool]] = {"expert": [], "frontier": []}
    for row in rows:
        if row.route in judged and row.good is not None:
            judged[row.route].append(row.good)
    if min(len(each) for each in judged.values()) < _JUDGED:
        return None
    expert, frontier = (judged[road] for road in ("expert", "frontier"))
    if statistics.fmean(frontier) > statistics.fmean(expert):
        return None
    return Signal(
        "the frontier is no better than the expert",
        f"{_share(frontier)} of {len(frontier):,} judged answers of the frontier were good, "
        f"{_share(expert)} of {len(expert):,} of the expert (95 % intervals)",
        "raise the policy's bar for the frontier, or do without it; the questions differ, so try "
        "the same ones on both first",
    )


def _share(judged: Sequence[bool]) -> str:
    low, high = wilson(sum(judged), len(judged))
    return f"{statistics.fmean(judged):.0%} ({low:.0%}–{high:.0%})"

"""A team's own queries, asked on every road of a running stack, judged and kept row by row.

What has been paid for is written before the next query is asked, so that a run that was killed goes
on where it was. Rows have the fields of `router.recorded`, and the answer.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from serve_app.domain import Route
from serve_app.errors import SettingsError, TriviumError
from serve_app.evaluation import verdicts
from serve_app.evaluation.calibration import Query
from serve_app.jsonl import objects
from serve_app.router.outcomes import logit
from serve_app.router.recorded import Recorded
from serve_app.router.training.outcomes import Outcome

Row = Mapping[str, Any]
Key = tuple[str, Route]

_WANTED = '{"query": …} or {"messages": […]}, and what a right answer is'


class Stack(Protocol):
    """A running stack, over HTTP."""

    def route(self, body: Row) -> Row:
        """`POST /v1/route`."""

    def chat(self, body: Row) -> tuple[Mapping[str, str], Row]:
        """`POST /v1/chat/completions`: headers and answer.

        Raises:
            TriviumError: There is none.
        """


def read_queries(path: Path) -> list[dict[str, Any]]:
    """Rows to ask; each has an id.

    Raises:
        SettingsError: The file cannot be read, is empty, an id stands twice, or a row is bad (which
            one, and why).
    """
    rows: dict[str, dict[str, Any]] = {}
    for number, row in objects(path, _WANTED):
        try:
            if bool(row.get("query")) == bool(row.get("messages")):
                raise ValueError("give either query or messages")
            verdicts.check(row)
        except ValueError as error:
            raise SettingsError(f"{path}:{number}: {error}") from None
        name = str(row.get("id", number))
        if name in rows:
            raise SettingsError(f"{path}:{number}: the id {name!r} stands twice")
        rows[name] = {**row, "id": name}
    if not rows:
        raise SettingsError(f"{path}: holds no rows; each line is {_WANTED}")
    return list(rows.values())


def drawn(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """So many of the rows; of a longer file those of a shorter one that are drawn still."""

    def place(row: Row) -> str:
        return hashlib.sha256(f"{seed} {row['id']}".encode()).hexdigest()

    return sorted(rows, key=place)[:count]


def asked(row: Row) -> dict[str, Any]:
    """What a row asks, as the endpoints take it."""
    return {name: row[name] for name in ("query", "messages") if row.get(name)}


def messages(row: Row) -> list[dict[str, Any]]:
    """The same as a conversation."""
    if row.get("messages"):
        return list(row["messages"])
    return [{"role": "user", "content": row["query"]}]


class Record:
    """The file of what was asked and answered; the last line of a query and road counts.

    Raises:
        SettingsError: It is not one that this wrote, or of other queries.
    """

    def __init__(self, path: Path, rows: Sequence[Row]) -> None:
        self._path = path
        self.found: dict[Key, dict[str, Any]] = {}
        by_id = {row["id"]: asked(row) for row in rows}
        if not path.exists():
            return
        try:
            # A line without an end is what a killed run was writing.
            whole = path.read_text(encoding="utf-8")
            kept = whole[: whole.rfind("\n") + 1]
            for text in kept.split("\n")[:-1]:
                line = json.loads(text)
                key = (line["id"], Route(line["route"]))
                if key[0] in by_id and asked(line) != by_id[key[0]]:
                    raise SettingsError(f"{path} holds answers to other rows: name another file")
                self.found[key] = line
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{path} is no record of a calibration: {error!r}") from None
        if kept != whole:
            with path.open("r+", encoding="utf-8") as file:
                file.truncate(len(kept.encode()))

    def prepare(self) -> None:
        """Make sure that it can be written, before anything is paid for.

        Raises:
            SettingsError: It cannot.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch()
        except OSError as error:
            raise SettingsError(f"{self._path}: cannot be written: {error}") from None

    def add(self, line: dict[str, Any]) -> None:
        """Keep a row; it is on the disk when this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.found[line["id"], Route(line["route"])] = line

    @property
    def usd(self) -> float:
        """What all of it took."""
        return math.fsum(line["cost_usd"] + line["judge_usd"] for line in self.found.values())


@dataclass
class Caller:
    """Asks what has not been asked, a few at once.

    Attributes:
        judge: The model that judges where a row has no rule; none where that is not wanted.
        budget_usd: Nothing is asked that might take more than this.
    """

    stack: Stack
    record: Record
    judge: str | None
    max_tokens: int
    at_once: int
    budget_usd: float
    on_row: Callable[[Row], None] = lambda _: None
    routed: dict[str, Row] = field(default_factory=dict)

    def run(self, rows: Sequence[Row], roads: Sequence[Route]) -> bool:
        """Ask all that is missing; whether the budget was enough."""
        left = [(row, road) for row in rows for road in roads if self.missing(row, road)]
        running: dict[Future[dict[str, Any]], float] = {}
        self.record.prepare()
        with ThreadPoolExecutor(self.at_once) as pool:
            try:
                for row, road in left:
                    expected = self.expected(row, road)
                    while len(running) >= self.at_once:
                        self._take(running)
                    held = sum(running.values())
                    if self.record.usd + held + expected > self.budget_usd:
                        return False
                    running[pool.submit(self._row, row, road)] = expected
            finally:
                while running:  # whoever stops it has them paid for by now
                    self._take(running)
        return True

    def missing(self, row: Row, road: Route) -> bool:
        """Whether a road is still to be asked, or its answer to be judged."""
        line = self.record.found.get((row["id"], road))
        if line is None or line["answer"] is None:
            return True
        return line["success"] is None and (verdicts.has_rule(row) or self.judge is not None)

    def expected(self, row: Row, road: Route) -> float:
        """Dollars that the router expects an answer to take; nothing for one that is there."""
        line = self.record.found.get((row["id"], road))
        if line is not None and line["answer"] is not None:
            return 0.0
        return float(self.decision(row)["terms"][road]["cost_usd"])

    def decision(self, row: Row) -> Row:
        """What the router makes of a query."""
        if row["id"] not in self.routed:
            self.routed[row["id"]] = self.stack.route(asked(row))
        return self.routed[row["id"]]

    def _take(self, running: dict[Future[dict[str, Any]], float]) -> None:
        for each in wait(running, return_when=FIRST_COMPLETED).done:
            del running[each]
            line = each.result()
            self.record.add(line)
            self.on_row(line)

    def _row(self, row: Row, road: Route) -> dict[str, Any]:
        line = self.record.found.get((row["id"], road))
        if line is None or line["answer"] is None:
            spent = line["cost_usd"] if line else 0.0
            line = self._answered(row, road)
            line["cost_usd"] += spent
        if line["answer"] is None:
            return line
        judged = {**line, "success": None, "judged": "", "error": ""}
        try:
            if (found := self._verdict(row, line["answer"])) is not None:
                spent = line["judge_usd"] + found.usd
                judged |= {"success": found.success, "judged": found.by, "judge_usd": spent}
        except (TriviumError, ValueError) as error:
            judged["error"] = f"not judged: {error}"
        return judged

    def _verdict(self, row: Row, answer: str) -> verdicts.Verdict | None:
        if verdicts.has_rule(row):
            return verdicts.by_rule(row, answer)
        if self.judge is None:
            return None
        question = "\n".join(str(each["content"]) for each in messages(row))
        return verdicts.by_model(
            lambda body: self.stack.chat(body)[1], self.judge, question, answer
        )

    def _answered(self, row: Row, road: Route) -> dict[str, Any]:
        decision = self.decision(row)
        line: dict[str, Any] = {
            "id": row["id"],
            "route": road.value,
            **asked(row),
            "answer": None,
            "success": None,
            "judged": "",
            "error": "",
            "cost_usd": 0.0,
            "judge_usd": 0.0,
            "completion_tokens": None,
            "latency_s": 0.0,
            **{name: decision[name] for name in ("kinds", "complexity", "read", "terms")},
        }
        started = time.perf_counter()
        try:
            headers, reply = self.stack.chat(
                {
                    "model": f"trivium/{road}",
                    "messages": messages(row),
                    "max_completion_tokens": self.max_tokens,
                }
            )
        except TriviumError as error:
            return line | {"error": str(error)}
        usage = reply["usage"]
        line["latency_s"] = round(time.perf_counter() - started, 3)
        line["cost_usd"] = float(usage.get("cost") or 0.0)
        if headers.get("x-trivium-degraded"):
            return line | {"error": f"not by itself: {headers['x-trivium-degraded']}"}
        said = reply["choices"][0]["message"]
        line["answer"] = said.get("content") or said.get("refusal") or ""
        return line | {"completion_tokens": usage["completion_tokens"]}


def complete(
    rows: Sequence[Row], roads: Sequence[Route], record: Record
) -> Iterator[tuple[Query, list[dict[str, Any]]]]:
    """The queries that each of the roads has answered and that were judged, with their lines."""
    for row in rows:
        lines = [record.found.get((row["id"], road)) for road in roads]
        judged = [line for line in lines if line and line["success"] is not None]
        if len(judged) < len(roads):
            continue
        first, by_road = judged[0], {Route(line["route"]): line for line in judged}
        yield (
            Query(
                first["kinds"],
                first["complexity"],
                first["read"],
                first["terms"][roads[0]]["worth_usd"],
                {road: first["terms"][road]["cost_usd"] for road in roads},
                {road: line["success"] for road, line in by_road.items()},
                {road: line["cost_usd"] for road, line in by_road.items()},
            ),
            judged,
        )


def outcome(line: Row) -> Outcome:
    """A judged line as `fit` takes it."""
    return Outcome(
        Route(line["route"]),
        line["kinds"],
        logit(line["complexity"]),
        line["success"],
        line["completion_tokens"],
        source="own queries",
    )


def recorded_outcome(stack: Stack, row: Recorded) -> Outcome:
    """The same of a row that was recorded elsewhere; what it lacks the router is asked."""
    kinds, complexity = row.kinds, row.complexity
    if kinds is None or complexity is None:
        told = stack.route({"query" if isinstance(row.query, str) else "messages": row.query})
        kinds, complexity = told["kinds"], told["complexity"]
    return Outcome(row.road, kinds, logit(complexity), row.success, row.tokens, source=row.source)

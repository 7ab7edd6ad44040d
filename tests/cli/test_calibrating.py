"""`trivium calibrate router`: three roads of a gateway are asked, judged, and learned from."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from serve_app.domain import Delta, Generation, RequestContext, Route, Term, Usage
from serve_app.errors import Unavailable
from serve_app.evaluation import verdicts
from serve_app.router.outcomes import KINDS
from tests.cli.conftest import Run, Serve
from tests.fixtures import FixedRouter, House, ScriptedModel, decision

pytestmark = pytest.mark.usefixtures("clean_environment")

COSTS = {Route.EXPERT: 0.00001, Route.KNOWLEDGE: 0.00001, Route.FRONTIER: 0.001}
ROADS = ["--road", "expert", "--road", "frontier"]
CAPITALS = {"France": "Paris", "Norway": "Oslo", "Peru": "Lima", "Japan": "Tokyo"}


class Knows(ScriptedModel):
    """Answers what it knows, and counts who asks."""

    def __init__(self, known: dict[str, str], grade: str = "") -> None:
        super().__init__()
        self.known, self.grade = known, grade
        self.away = False
        self.left = 10**9

    async def generate(
        self, context: RequestContext, generation: Generation
    ) -> AsyncGenerator[Delta]:
        self.asked.append(generation)
        if self.away or self.left <= 0:
            raise Unavailable("the provider is away")
        self.left -= 1
        question = generation.messages[-1].content
        if "response_format" in generation.options:
            yield Delta(self.grade, "stop", Usage(10, 5))
            return
        found = [capital for country, capital in self.known.items() if country in question]
        yield Delta(f"It is {found[0]}." if found else "No idea.", "stop", Usage(10, 5))


class Open(FixedRouter):
    """Holds every query to be an open question."""

    def __init__(self) -> None:
        terms = {road: Term(0.5, 0.01, cost) for road, cost in COSTS.items()}
        kinds = {kind: float(kind == "open") for kind in KINDS}
        super().__init__(replace(decision(), terms=terms, kinds=kinds, complexity=0.5))


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    path = tmp_path / "queries.jsonl"
    rows = [
        {"id": name, "query": f"What is the capital of {name}?", "reference": capital}
        for name, capital in CAPITALS.items()
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def house(frontier: Knows, expert: Knows | None = None) -> House:
    return House(router=Open(), expert=expert or Knows({"France": "Paris"}), frontier=frontier)


def success(path: Path, road: str) -> float:
    return float(yaml.safe_load(path.read_text())["roads"][road]["offsets"]["open"])


def test_outcomes_move_what_is_known_and_the_bill_is_the_ledgers(
    run: Run, serve: Serve, queries: Path, tmp_path: Path
) -> None:
    stack = house(Knows(CAPITALS))
    url = serve(stack)
    output = tmp_path / "outcomes.yaml"
    arguments = ["calibrate", "router", "-q", str(queries), "-o", str(output), "-y", *ROADS]
    planned = json.loads(run(*arguments, "--dry-run", "--json", "--url", url).out)
    assert planned["expected_usd"]["frontier"] == pytest.approx(4 * COSTS[Route.FRONTIER])
    assert not stack.expert.asked
    assert not output.exists()

    told = json.loads(run(*arguments, "--json", "--url", url).out)
    assert (told["judged"], told["not_judged"], told["within_budget"]) == (8, 0, True)
    shipped = Path("serve_app/router/outcomes.yaml")
    assert success(output, "expert") < success(shipped, "expert"), "it knew one of four"
    assert success(output, "frontier") > success(shipped, "frontier")
    ways = told["ways"]
    assert ways["expert alone"]["success"] == 0.25
    assert ways["oracle"]["success"] == 1.0
    assert ways["router after"]["roads"]["frontier"] == 4, "a right answer is worth its price"

    settings = tmp_path / "settings.yaml"
    settings.write_text(f"ledger:\n  database: {stack.ledger_path}\n")
    report = json.loads(run("cost", "report", "--by", "route", "--json", "-c", str(settings)).out)
    booked = sum(line["usd"] for line in report["lines"] if line["group"] != ["route only"])
    assert told["usd"] == pytest.approx(booked, rel=1e-6)


def test_a_run_that_was_cut_off_goes_on_and_pays_for_nothing_twice(
    run: Run, serve: Serve, queries: Path, tmp_path: Path
) -> None:
    stack = house(Knows(CAPITALS))
    url = serve(stack)
    output, record = tmp_path / "outcomes.yaml", tmp_path / "outcomes.yaml.jsonl"
    arguments = ["calibrate", "router", "-q", str(queries), "-o", str(output), "-y", *ROADS]
    arguments += ["--json", "--url", url, "--at-once", "1"]
    stopped = json.loads(run(*arguments, "--budget", "0.0005").out)
    assert not stopped["within_budget"]
    whole = record.read_text()
    asked = len(whole.splitlines())
    assert 0 < asked < 8
    # Killed within a line.
    record.write_text(whole + '{"id": "Peru", "route": "fron')
    told = json.loads(run(*arguments).out)
    assert told["judged"] == 8
    assert len(stack.expert.asked) + len(stack.frontier.asked) == 8
    assert record.read_text().startswith(whole)


def test_a_road_that_fails_is_no_outcome_and_a_judge_that_fails_is_asked_again(
    run: Run, serve: Serve, tmp_path: Path
) -> None:
    judge = Knows({}, grade="not a grade")
    stack = house(judge)
    url = serve(stack)
    queries, output = tmp_path / "queries.jsonl", tmp_path / "outcomes.yaml"
    queries.write_text('{"query": "What is the capital of France?"}')
    arguments = ["calibrate", "router", "-q", str(queries), "-o", str(output), "--road", "expert"]
    arguments += ["--judge", "trivium/frontier", "--yes", "--url", url]
    failed = run(*arguments)
    assert failed.code == 2
    assert "no answer was judged" in failed.err
    assert not output.exists()
    judge.grade = '{"grade": 0.5}'
    told = json.loads(run(*arguments, "--json").out)
    assert told["judged"] == 1
    assert len(stack.expert.asked) == 1, "its answer was there"
    judge.away = True
    more = json.loads(run(*arguments, "--json", "--road", "frontier").out)
    assert (more["judged"], more["not_judged"]) == (1, 1)
    judge.away = False
    again = json.loads(run(*arguments, "--json", "--road", "frontier").out)
    assert (again["judged"], again["not_judged"]) == (2, 0), "a road that failed is asked again"


def test_recorded_outcomes_and_feedback_are_learned_from_without_asking(
    run: Run, serve: Serve, tmp_path: Path
) -> None:
    stack = house(Knows({}))
    url = serve(stack)
    recorded, output = tmp_path / "feedback.jsonl", tmp_path / "outcomes.yaml"
    rows = [{"query": f"Question {n}", "route": "expert", "good": False} for n in range(20)]
    recorded.write_text("\n".join(map(json.dumps, rows)))
    arguments = ["calibrate", "router", "-o", str(output), "--url", url, "--json"]
    told = json.loads(run(*arguments, "--recorded", str(recorded)).out)
    assert told["judged"] == 20
    assert not stack.expert.asked
    assert success(output, "expert") < success(Path("serve_app/router/outcomes.yaml"), "expert")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"query": "a", "route": "motorway", "success": 1}, "route must be one of"),
        ({"query": "a", "route": "expert", "success": 1.5}, "success must be a number from 0 to 1"),
        ({"route": "expert", "success": 1}, "'query' is missing"),
        ({"query": "a", "route": "expert", "success": 1, "kinds": {"open": 1}}, "kinds must give"),
    ],
)
def test_a_bad_outcome_is_named_and_nothing_is_written(
    run: Run, tmp_path: Path, row: dict[str, object], problem: str
) -> None:
    recorded, output = tmp_path / "rows.jsonl", tmp_path / "outcomes.yaml"
    recorded.write_text(json.dumps({"query": "q", "route": "expert", "success": 1}) + "\n")
    with recorded.open("a") as file:
        file.write(json.dumps(row))
    done = run("calibrate", "router", "-o", str(output), "--recorded", str(recorded))
    assert done.code == 2
    assert f"rows.jsonl:2: {problem}" in done.err
    assert not output.exists()


@pytest.mark.parametrize(
    ("row", "answer", "expected"),
    [
        ({"reference": "Paris"}, "The capital is PARIS.", 1.0),
        ({"reference": "Paris"}, "Comparison is hard.", 0.0),
        ({"reference": ["1,200", "twelve hundred"]}, "It has 1200 rooms.", 1.0),
        ({"reference": "12"}, "It has 120 rooms.", 0.0),
        ({"matches": r"\bINV-\d{4}\b"}, "See INV-2041.", 1.0),
        ({"schema": {"type": "object", "required": ["a"]}}, '{"a": 1}', 1.0),
        ({"schema": {"type": "object", "required": ["a"]}}, "Sure: {}", 0.0),
        ({"reference": "x", "matches": "y"}, "x", 0.0),
    ],
)
def test_answers_are_judged_by_what_their_row_says(
    row: dict[str, object], answer: str, expected: float
) -> None:
    assert verdicts.by_rule(row, answer).success == expected

"""Dollars of a good answer on a workload of three kinds, and how sure that is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serve_app.domain import Route
from serve_app.evaluation.cost import Kind, Pair, summarise
from tests.cli.conftest import Run, Serve, run, serve
from tests.fixtures import FixedRouter, House, ScriptedModel, decision

__all__ = ["run", "serve"]  # the fixtures


def pairs(kind: Kind, count: int, usd: float, good: int, rag_usd: float) -> list[Pair]:
    return [Pair(kind, "expert", usd, i < good, rag_usd, True) for i in range(count)]


def test_kinds_count_by_their_shares_whatever_their_rows() -> None:
    rows = pairs("static", 10, 1.0, 5, 4.0) + pairs("volatile", 1000, 0.0, 1000, 2.0)
    summary = summarise(rows, {"static": 80, "volatile": 20})
    assert summary.usd.value == pytest.approx(0.8)
    assert summary.good.value == pytest.approx(0.8 * 0.5 + 0.2)
    assert summary.per_good.value == pytest.approx(0.8 / 0.6)
    assert summary.rag_per_good.value == pytest.approx(0.8 * 4 + 0.2 * 2)
    assert summary.saved.value == pytest.approx(1 - (0.8 / 0.6) / 3.6)
    assert summary.saved.low < summary.saved.value < summary.saved.high


def test_what_does_not_vary_is_certain() -> None:
    summary = summarise(pairs("static", 50, 1.0, 50, 2.0), {"static": 1})
    assert (summary.saved.low, summary.saved.high) == pytest.approx((0.5, 0.5))


def test_a_share_without_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="volatile"):
        summarise(pairs("static", 5, 1, 5, 1), {"static": 1, "volatile": 1})


STRONG, WEAK = "gpt-4-1106-preview", "mistralai/mistral-7b-chat"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A static row that the stack gets right and one that it does not, a fact, and reasoning."""

    def write(name: str, *rows: object) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def document(text: str) -> dict[str, object]:
        asked = {"role": "user", "content": "Write it."}
        return {"messages": [asked, {"role": "assistant", "content": text}]}

    score = {STRONG: 1.0, WEAK: 0.0}
    solved = {"query": "2+2", "score": score, "cost_usd": {STRONG: 0.01, WEAK: 0.0001}}
    return [
        "--static",
        write("static.jsonl", document("Hello there."), document("Hello.")),
        "--volatile",
        write("facts.jsonl", {"query": "Who?", "answers": ["nobody", "hello"]}),
        "--recorded",
        write("recorded.jsonl", solved),
    ]


def test_the_command_judges_and_prices(run: Run, serve: Serve, files: list[str]) -> None:
    house = House()
    told = json.loads(run("evaluate", "cost", *files, "--json", "--url", serve(house)).out)
    assert told["static"]["good"]["value"] == 0.5
    assert told["volatile"]["good"]["value"] == 1.0
    # Its router took the question for the expert's, whose recorded answer was wrong.
    assert told["reasoning"]["good"]["value"] == 0.0
    assert told["reasoning"]["usd"]["value"] == 0.0001
    assert told["reasoning"]["per_good"]["value"] is None
    assert told["reasoning"]["rag_usd"]["value"] == pytest.approx(0.01 + 1200 * 2 / 1e6)
    assert told["all, 80,15,5"]["rows"] == 4
    assert 0.5 < told["all, 80,15,5"]["saved"]["value"] < 1


def test_a_row_may_name_its_model(run: Run, serve: Serve, files: list[str]) -> None:
    static = Path(files[1])
    rows = [json.loads(line) for line in static.read_text().splitlines()]
    named = [{**row, "model": "trivium/frontier"} for row in rows]
    static.write_text("".join(json.dumps(row) + "\n" for row in named))
    house = House(frontier=ScriptedModel("Hello."))
    outcome = run("evaluate", "cost", *files, "--mix", "1,0,0", "--url", serve(house))
    assert outcome.code == 0
    assert len(house.frontier.asked) == 2
    assert "–" in outcome.out  # nothing was good of the reasoning


def test_what_goes_to_the_frontier_is_what_was_recorded(
    run: Run, serve: Serve, files: list[str]
) -> None:
    house = House(
        router=FixedRouter(decision(Route.FRONTIER)), frontier=ScriptedModel("Hello there.")
    )
    arguments = ("--mix", "0,0,1", "--url", serve(house))
    outcome = run("evaluate", "cost", *files, *arguments)
    assert outcome.code == 0
    assert "0.010000" in outcome.out
    assert "as recorded" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mix", "1,2"], "three shares"),
        (["--strong", "nobody"], "nothing was recorded of nobody"),
        (["--static", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--url", "http://127.0.0.1:1"], "trivium up"),
    ],
)
def test_what_cannot_be_is_said(
    run: Run, files: list[str], arguments: list[str], said: str
) -> None:
    outcome = run("evaluate", "cost", *files, *arguments)
    assert outcome.code != 0
    assert said in outcome.err


def test_a_stack_that_refuses_says_why(run: Run, serve: Serve, files: list[str]) -> None:
    key = {"name": "ann", "sha256": "0" * 64}
    house = House(gateway={"api_keys": [key]})
    outcome = run("evaluate", "cost", *files, "--url", serve(house))
    assert outcome.code == 1
    assert "send an API key" in outcome.err

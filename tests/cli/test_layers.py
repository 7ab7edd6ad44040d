"""`trivium train router`, `evaluate …` and `route --input`, with the real models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serve_app.domain import Route
from tests.cli.conftest import Run
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("clean_environment", "encoder")

QUESTIONS = ROOT / "tests" / "data" / "router_questions.jsonl"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Thirty rows of two intents and of what is neither."""
    bills = [f"send the invoice for {n} tents to Acme" for n in range(12)]
    repairs = [f"please repair jacket number {n}, the zip is broken" for n in range(12)]
    neither = [f"{'zq xw ' * n} fghj" for n in range(1, 13)]
    labelled = [("bills", bills), ("repairs", repairs), ("oos", neither)]
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "\n".join(
            json.dumps({"query": query, "intent": intent})
            for intent, queries in labelled
            for query in queries
        ),
        encoding="utf-8",
    )
    return path


def test_trained_heads_decide_a_file(run: Run, rows: Path, tmp_path: Path) -> None:
    heads, asked, made = (tmp_path / name for name in ("h.safetensors", "in.jsonl", "out.jsonl"))
    done = run("train", "router", "--data", str(rows), "--output", str(heads), "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["intents"] == 2
    asked.write_text(
        '{"id": "a", "query": "where is invoice 9"}\n'
        '{"id": "b", "messages": [{"role": "user", "content": "the jacket zip broke"}]}\n'
        '{"id": "c", "query": ""}\n',
        encoding="utf-8",
    )
    options = ("--output", str(made), "--heads", str(heads))
    done = run("route", "--input", str(asked), *options)
    assert done.code == 0, done.err
    first, second, third = map(json.loads, made.read_text(encoding="utf-8").splitlines())
    assert [row["id"] for row in (first, second, third)] == ["a", "b", "c"]
    assert first["fit"]["bills"] > 0.5
    assert second["fit"]["repairs"] > 0.5
    assert third["route"] in set(Route)
    for name in ("volatility", "complexity", "in_scope", "confidence", "latency_ms"):
        assert isinstance(first[name], float)
    best = max(first["terms"].values(), key=lambda term: term["value_usd"])
    assert best == first["terms"][first["route"]]
    assert first["versions"].pop("sketch") == "0", "there is no base"
    assert {len(version) for version in first["versions"].values()} == {12}
    assert {"stage", "reason"} <= set(first)


def test_report_has_baselines_calibration_and_a_picture(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "curves.png"
    done = run("evaluate", "router", "-d", str(QUESTIONS), "--plot", str(picture), "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    road = next(section for section in report["sections"] if section["name"] == "road")
    assert {"router", "majority", "length", "tf-idf"} == set(road["scores"])
    assert road["scores"]["router"]["accuracy"] > road["scores"]["tf-idf"]["accuracy"]
    assert road["scores"]["router"]["ece"] < 0.1
    assert set(road["confusion"]) == set(Route)
    flips = next(section for section in report["sections"] if section["name"] == "flips")
    assert flips["scores"]["other words"]["flips"] <= 0.15
    assert flips["notes"] == ["other words: 77 rows"]
    assert report["latency"]["p99_ms"] > 0
    assert picture.stat().st_size > 10_000


def test_outcomes_give_cost_quality_figures_and_flips(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "outcomes.jsonl"
    paid = {"weak_usd": 0.001, "strong_usd": 0.011}
    hard = "If 3 pumps fill 2 tanks in 4 hours and 1 leaks a third, how long do 5 pumps take?"
    path.write_text(
        "\n".join(
            json.dumps({"query": query, "weak_correct": weak, "strong_correct": 1, **paid})
            for query, weak in [(hard, 0), ("What is a tent?", 1)] * 10
        ),
        encoding="utf-8",
    )
    report = json.loads(run("evaluate", "router", "-d", str(path), "--json").out)
    gap, cost, flips = report["sections"]
    scores = gap["scores"]
    low, high = gap["intervals"]["router"]["apgr"]
    assert low < scores["router"]["apgr"] < high
    assert scores["router"]["apgr"] == pytest.approx(0.75) == scores["oracle"]["apgr"]
    assert scores["random"]["apgr"] == pytest.approx(0.5)
    assert scores["router"]["cpt80"] == pytest.approx(0.4)
    # Half of the calls at 1 and half at 11 dollars a thousand; a mix at that cost has .75 right.
    assert cost["scores"]["router"] == pytest.approx(
        {"quality": 1.0, "usd_per_1000": 6.0, "strong_calls": 0.5, "above_mix": 0.25}
    )
    assert cost["scores"]["frontier"]["usd_per_1000"] == pytest.approx(11.0)
    assert cost["intervals"]["router"]["above_mix"][0] > 0
    assert flips["scores"]["lower case"]["flips"] <= 0.5


def test_table_is_readable(run: Run) -> None:
    done = run("evaluate", "router", "--data", str(QUESTIONS))
    assert "tf-idf" in done.out
    assert "true \\ chosen" in done.out
    assert "queries a second" in done.out


@pytest.fixture
def judged(tmp_path: Path) -> tuple[str, ...]:
    """Arguments that name two documents and three queries."""
    documents, queries = tmp_path / "documents.jsonl", tmp_path / "queries.jsonl"
    documents.write_text(
        '{"id": "tents", "title": "Tents", "text": "Tents are green."}\n'
        '{"id": "boots", "title": "Boots", "text": "Boots are heavy."}\n'
        '{"id": "blank", "title": "Blank", "text": ""}\n',
        encoding="utf-8",
    )
    queries.write_text(
        '{"id": "1", "query": "which colour has a tent?", "relevant": ["tents"]}\n'
        '{"id": "2", "query": "are boots heavy?", "relevant": ["boots", "blank"], "answers": []}\n'
        '{"id": "3", "query": "what is blank?", "relevant": ["blank"]}\n',
        encoding="utf-8",
    )
    return ("--documents", str(documents), "--queries", str(queries))


def test_retrieval_is_measured_beside_bm25s(run: Run, judged: tuple[str, ...]) -> None:
    done = run("evaluate", "retrieval", *judged, "--limit", "2", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert (report["documents"], report["chunks"], report["queries"]) == (2, 2, 2)
    searched = ["dense", "sparse", "hybrid", "hybrid, as answers"]
    ways = [*searched, "bm25s (reference)", "bm25s, same chunks"]
    assert list(report["scores"]) == ways
    assert report["scores"]["hybrid"]["recall@5"] == pytest.approx(0.75)
    assert report["scores"]["hybrid"]["p95_ms"] > 0
    assert report["notes"] == ["documents without text, which nothing can find: 1"]
    table = run("evaluate", "retrieval", *judged, "--limit", "2").out
    assert "bm25s, same chunks" in table
    assert "2 queries, 2 documents, all-MiniLM-L6-v2" in table


@pytest.mark.parametrize(
    ("documents", "queries", "hint"),
    [
        ("none.jsonl", None, "none.jsonl: cannot be read"),
        (None, "none.jsonl", "none.jsonl: cannot be read"),
        ("README.md", None, "queries.jsonl:1: query '1' names 'tents' as relevant"),
        (None, "README.md", "README.md:1: not JSON"),
        (str(QUESTIONS), None, "router_questions.jsonl: holds no text that can be read"),
        (None, str(QUESTIONS), "router_questions.jsonl:1: relevant must be a list"),
    ],
)
def test_bad_test_collections_take_one_line(
    run: Run, judged: tuple[str, ...], documents: str | None, queries: str | None, hint: str
) -> None:
    arguments = ("--documents", documents or judged[1], "--queries", queries or judged[3])
    done = run("evaluate", "retrieval", *arguments)
    assert done.code == 2
    assert hint in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("route", "--input", "x.jsonl"), "--input and --output together"),
        (("route", "--input", "none.jsonl", "--output", "o.jsonl"), "none.jsonl: cannot be read"),
        (("evaluate", "router", "-d", "README.md"), "README.md:1: not JSON"),
        (("evaluate", "router", "-d", str(QUESTIONS), "--heads", "README.md"), "heads cannot be"),
        (("train", "router", "-d", str(QUESTIONS), "-o", "no/such/folder.x"), "no such folder"),
    ],
)
def test_mistakes_take_one_line_and_exit_with_2(
    run: Run, arguments: tuple[str, ...], hint: str
) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert hint in done.err
    assert "Traceback" not in done.err


def test_failed_run_leaves_the_old_output(run: Run, tmp_path: Path) -> None:
    asked, made = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    asked.write_text('{"query": "fine"}\n{"query": 7}\n', encoding="utf-8")
    made.write_text("old", encoding="utf-8")
    done = run("route", "--input", str(asked), "--output", str(made))
    assert done.code == 2
    assert f"{asked}:2: " in done.err
    assert made.read_text(encoding="utf-8") == "old"

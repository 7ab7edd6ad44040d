"""Metrics by hand, and a measurement from documents to figures."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from loadtest.words import Models
from serve_app.domain import Chunk, Document
from serve_app.errors import SettingsError, UnprocessableDocument
from serve_app.evaluation import judgements, retrieval
from serve_app.evaluation.judgements import Query
from serve_app.evaluation.retrieval import by_document, ndcg, recall, reciprocal_rank
from serve_app.settings import RetrievalSettings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

DOCUMENTS = [
    Document("tents", "Tents", "tents are green\n# Care\ndry tents before you fold tents"),
    Document("boots", "Boots", "boots are brown and heavy"),
    Document("maps", "Maps", "maps show hills and rivers"),
]
QUERIES = [
    Query("1", "green tents", frozenset({"tents"})),
    Query("2", "heavy brown boots", frozenset({"boots"})),
    Query("3", "rivers", frozenset({"maps", "gone"})),
]
SCORES = {"ndcg@10", "recall@5", "recall@100", "mrr@10", "p50_ms", "p95_ms", "p"}


class Backwards:
    """A reranker that prefers what shares no word with the query."""

    def __call__(self, query: str, texts: object) -> list[float]:
        assert isinstance(texts, list)
        words = set(query.split())
        return [-float(len(words.intersection(text.lower().split()))) for text in texts]


def test_metrics_by_hand() -> None:
    ranking, relevant = ["x", "a", "y", "b"], {"a", "b", "c"}
    gained = 1 / math.log2(3) + 1 / math.log2(5)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(ranking, relevant) == pytest.approx(gained / ideal)
    assert recall(ranking, relevant, 5) == pytest.approx(2 / 3)
    assert recall(ranking, relevant, 2) == pytest.approx(1 / 3)
    assert reciprocal_rank(ranking, relevant) == 0.5
    assert reciprocal_rank(ranking, relevant, k=1) == 0


def test_only_the_first_ten_count_and_the_ideal_has_no_more() -> None:
    relevant = {str(n) for n in range(20)}
    assert ndcg([str(n) for n in range(10)], relevant) == 1
    assert ndcg([*"abcdefghij", "1"], relevant) == 0
    assert reciprocal_rank([*"abcdefghij", "1"], relevant) == 0


def test_documents_rank_where_their_best_chunk_does() -> None:
    chunks = [Chunk(f"{d}#{i}", d, "", "", "", None) for i, d in enumerate("baabc")]
    assert by_document(chunks) == ["b", "a", "c"]


@given(st.permutations(list("abcdefghijklmnop")), st.sets(st.sampled_from("abcdxyz"), min_size=1))
def test_metrics_are_shares(ranking: list[str], relevant: set[str]) -> None:
    for value in (
        ndcg(ranking, relevant),
        recall(ranking, relevant, 5),
        reciprocal_rank(ranking, relevant),
    ):
        assert 0 <= value <= 1
    rest = [name for name in ranking if name not in relevant]
    perfect = [*sorted(relevant), *rest]
    assert ndcg(perfect, relevant) == reciprocal_rank(perfect, relevant) == 1
    assert recall(perfect, relevant, len(relevant)) == 1
    assert ndcg(rest, relevant) == recall(rest, relevant, 100) == reciprocal_rank(rest, relevant)


async def measured(settings: RetrievalSettings, **more: object) -> retrieval.Report:
    return await retrieval.evaluate(settings, Models(), DOCUMENTS, QUERIES, **more)  # type: ignore[arg-type]


async def test_measures_every_way_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    steps: dict[str, tuple[int, int]] = {}

    def note(step: str, done: int, total: int) -> None:
        steps[step] = (done, total)

    report = await measured(
        RetrievalSettings(chunk_tokens=32), reranker=Backwards(), on_progress=note
    )
    assert (report.documents, report.chunks, report.queries) == (3, 4, 3)
    names = {"dense", "sparse", "hybrid", "hybrid, as answers", "hybrid + rerank"}
    assert set(report.scores) == names | {"bm25s (reference)", "bm25s, same chunks"}
    assert set(steps) == {"ingest", *report.scores}
    assert all(done == total == 3 for done, total in steps.values())
    for scores in report.scores.values():
        assert set(scores) == SCORES
        assert scores["p95_ms"] >= scores["p50_ms"] > 0
        assert 0 < scores["p"] <= 1
        # One of two relevant documents of the third query is not there.
        assert scores["recall@100"] <= 5 / 6
    for name in ("sparse", "hybrid", "bm25s (reference)", "bm25s, same chunks"):
        assert report.scores[name]["mrr@10"] == 1
        assert report.scores[name]["recall@5"] == pytest.approx(5 / 6)
    assert report.scores["hybrid + rerank"]["mrr@10"] < 1
    assert report.notes == []
    assert os.listdir(tmp_path) == []


async def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    report = await measured(RetrievalSettings())
    assert set(report.scores) == {"dense", "sparse", "hybrid", "hybrid, as answers"}
    assert "bm25s: left out" in report.notes[0]


async def test_crowded_out_documents_are_fetched() -> None:
    crowd = "\n".join(f"# Part {n}\ntents tents" for n in range(120))
    documents = [Document("crowd", "Tents", crowd), Document("other", "", "tents and much else")]
    queries = [Query("1", "tents", frozenset({"other"}))]
    report = await retrieval.evaluate(RetrievalSettings(), Models(), documents, queries)
    assert report.chunks == 121
    for name in ("dense", "sparse", "hybrid"):
        assert report.scores[name]["recall@100"] == 1


def write(folder: Path, **files: list[object]) -> tuple[Path, Path]:
    for name, rows in files.items():
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "d.jsonl", folder / "q.jsonl"


TENT = {"id": "a", "title": "Tent", "text": "green"}
ASKED = {"id": "1", "query": "green?", "relevant": ["a"]}


def test_reads_rows_and_knows_documents_without_text(tmp_path: Path) -> None:
    asked = {**ASKED, "relevant": ["a", "blank"], "answers": ["x"]}
    paths = write(tmp_path, d=[TENT, {"id": "blank", "title": "", "text": " "}], q=[asked, ""])
    read = judgements.read(*paths)
    assert [each.id for each in read.documents] == ["a"]
    assert read.queries == [Query("1", "green?", frozenset({"a", "blank"}))]
    assert read.blank == {"blank"}


@pytest.mark.parametrize(
    ("documents", "queries", "problem"),
    [
        ([TENT], ["{"], "q.jsonl:1: not JSON"),
        ([TENT], [ASKED, [1]], "q.jsonl:2: a row must be a JSON object"),
        ([TENT], [{**ASKED, "id": 7}], "q.jsonl:1: id must be a text"),
        ([TENT], [{**ASKED, "query": " "}], "q.jsonl:1: query must be a text"),
        ([TENT], [{**ASKED, "relevant": []}], "q.jsonl:1: relevant must be a list"),
        ([TENT], [{**ASKED, "relevant": [1]}], "q.jsonl:1: relevant must be a list"),
        ([TENT], [{**ASKED, "relevant": ["a", "z"]}], "q.jsonl:1: query '1' names 'z'"),
        ([TENT], [""], "q.jsonl: holds no queries"),
        ([TENT], [ASKED, ASKED], "q.jsonl: the id '1' stands twice"),
        ([TENT, TENT], [ASKED], "d.jsonl: the id 'a' stands twice"),
        ([TENT, "{"], [ASKED], "d.jsonl, line 2: not valid JSON"),
        ([{"id": "b", "text": ""}, TENT, {"id": "c"}], [ASKED], "d.jsonl, line 3: id and text"),
        ([""], [ASKED], "d.jsonl: holds no text"),
    ],
)
def test_mistakes_name_file_and_line(
    tmp_path: Path, documents: list[object], queries: list[object], problem: str
) -> None:
    paths = write(tmp_path, d=documents, q=queries)
    with pytest.raises((SettingsError, UnprocessableDocument)) as raised:
        judgements.read(*paths)
    assert problem in raised.value.message

"""`trivium evaluate retrieval`, with real models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

pytestmark = [
    pytest.mark.usefixtures("clean_environment"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """Arguments that name a test collection."""
    texts = {"tents": "Tents are green.", "boots": "Boots are brown.", "maps": "Maps show rivers."}
    documents = [{"id": name, "title": name, "text": text} for name, text in texts.items()]
    queries = [
        {"id": name, "query": f"what about {name}?", "relevant": [name]}
        for name in ("tents", "maps")
    ]
    arguments = []
    for option, rows in (("documents", documents), ("queries", queries)):
        path = tmp_path / f"{option}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        arguments += [f"--{option}", str(path)]
    return arguments


def test_cross_encoder_stands_in_the_table(run: Run, data: list[str], cross_encoder: Path) -> None:
    done = run("evaluate", "retrieval", *data, "--rerank", str(cross_encoder), "--json")
    assert done.code == 0, done.err
    scores = json.loads(done.out)["scores"]
    # It reads whole documents' worth of candidates, so it loses none of them.
    assert scores["hybrid + rerank"]["recall@5"] == scores["hybrid"]["recall@5"] == 1
    assert scores["hybrid"]["ndcg@10"] == 1


def test_model_that_is_no_cross_encoder_is_wrong_settings(
    run: Run, data: list[str], tmp_path: Path
) -> None:
    done = run("evaluate", "retrieval", *data, "--rerank", str(tmp_path / "gone"))
    assert done.code == 2
    assert f"the model '{tmp_path / 'gone'}' cannot be loaded" in done.err

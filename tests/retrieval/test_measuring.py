"""`evaluation.retrieval` on a server: here, where the server is that the other tests use."""

from __future__ import annotations

import pytest
from pymilvus import MilvusClient

from loadtest.words import Models
from serve_app.domain import Document
from serve_app.evaluation.judgements import Query
from serve_app.evaluation.retrieval import evaluate
from serve_app.settings import RetrievalSettings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


async def test_server_without_bm25_is_left_as_it_was(milvus_server: str) -> None:
    client = MilvusClient(milvus_server)
    before = set(client.list_collections())
    documents = [Document("tents", "Tents", "tents are green"), Document("maps", "Maps", "maps")]
    queries = [Query("1", "green tents", frozenset({"tents"}))]
    settings = RetrievalSettings(milvus_uri=milvus_server, timeout_s=20)
    report = await evaluate(settings, Models(), documents, queries)
    assert {"dense", "hybrid"} < set(report.scores)
    assert report.scores["dense"]["mrr@10"] == 1
    assert "sparse" not in report.scores
    assert report.notes[0].startswith("sparse: left out")
    assert set(client.list_collections()) == before
    client.close()

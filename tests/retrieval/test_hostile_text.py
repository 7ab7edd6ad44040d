"""No text costs more than in proportion to its length, however it is made."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from loadtest import linear
from loadtest.words import Models
from serve_app.domain import Document
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.retriever import Retriever, Rules
from serve_app.retrieval.store import MilvusStore

FAST = 2_000, 16_000  # characters: small, and eight times as many
TEXTS = linear.TEXTS | linear.WRITTEN


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("function", linear.READERS)
def test_no_text_costs_more_than_in_proportion(function: Any, text: str) -> None:
    """Of eight times the text, 8 is linear and 64 is quadratic."""
    tries = (linear.growth(linear.measured(function, TEXTS[text], FAST)) for _ in range(3))
    assert any(each < 24 for each in tries)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_splitting_leaves_the_event_loop_to_others(tmp_path: Path) -> None:
    store = MilvusStore(str(tmp_path / "test.db"), "", timeout_s=120)
    registry = Registry(str(tmp_path / "registry.db"))
    retriever = Retriever(store, registry, Models(), chunk_tokens=40, rules=Rules())
    await retriever.ingest("docs", "t", [Document("first", "", "makes the collection")])
    text = linear.WRITTEN["headings"](20_000)
    splitting = asyncio.create_task(retriever.ingest("docs", "t", [Document("d", "", text)]))
    turns = 0
    while not splitting.done():
        turns += 1
        await asyncio.sleep(0)
    report = await splitting
    await store.close()
    await registry.close()
    assert report.chunks > 1000
    assert turns > 50

"""What looks the same is found the same, in every script, by BM25 alone."""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.words import Models
from serve_app.domain import Document, SearchQuery
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.retriever import Retriever, Rules
from serve_app.retrieval.store import MilvusStore
from serve_app.search_text import MAX_BYTES, normalised, searchable, shown

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
DOCUMENTS = {
    "hyphens": "The re\u00adim\u00adburse\u00adment ceil\u200bing is 640.",
    "ligatures": "The o\ufb03ce closes at \uff11\uff18:00.",
    "composed": "The cafe\u0301 is on the ground floor.",
    "raised": "Tents of 12 m\u00b2 emit no CO\u2082.",
    "chinese": "第一条规定：编号一的帐篷与睡袋，可以到任何一家门店更换。",
    "numbered": "编号17的背包，颜色为红。编号170的背包，颜色为蓝。",
    "numbered otherwise": "编号71的背包，编号18的背包，编号1的背包。",
    "more chinese": "报销上限是每晚六百四十元，酒店发票必须保留。",
    "japanese": "購入後三日以内であればどの店舗でも返品できます。",
    "thai": "คุณสามารถเปลี่ยนเต็นท์และถุงนอนได้ที่ร้านค้าทุกแห่ง",
    "more thai": "ใบเสร็จรับเงินต้องเก็บไว้สำหรับการเบิกค่าใช้จ่าย",
    "korean": "환불규정은 구매후 삼일이내입니다.",
}


@pytest.fixture(scope="module")
async def retriever(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Retriever]:
    folder = tmp_path_factory.mktemp("milvus")
    store = MilvusStore(str(folder / "test.db"), "", timeout_s=120)
    registry = Registry(str(folder / "registry.db"))
    made = Retriever(store, registry, Models(), chunk_tokens=40, rules=Rules())
    documents = [Document(name, "", text) for name, text in DOCUMENTS.items()]
    await made.ingest("docs", "t", documents)
    yield made
    await store.close()
    await registry.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("reimbursement", "hyphens"),
        ("reim\u00adbursement", "hyphens"),
        ("ceiling", "hyphens"),
        ("office", "ligatures"),
        ("18", "ligatures"),
        ("\uff4f\uff46\uff46\uff49\uff43\uff45", "ligatures"),
        ("café", "composed"),
        ("m2", "raised"),
        ("m²", "raised"),
        ("co2", "raised"),
        ("睡袋", "chinese"),
        ("更换", "chinese"),
        ("报销", "more chinese"),
        ("编号17的背包", "numbered"),
        ("编号18的背包", "numbered otherwise"),
        ("返品", "japanese"),
        ("店舗", "japanese"),
        ("เต็นท์", "thai"),
        ("ถุงนอน", "thai"),
        ("ใบเสร็จ", "more thai"),
        ("환불", "korean"),
    ],
)
async def test_what_is_looked_for_is_found(retriever: Retriever, query: str, name: str) -> None:
    found = await retriever.search("docs", "t", SearchQuery(query, 3, mode="sparse"))
    assert found[0].document_id == name
    assert found[0].text == normalised(DOCUMENTS[name])  # without what is only for the search


@pytest.mark.parametrize(
    "text",
    [
        "plain, with “quotes” — and… 5 €",
        "10² m, ½, H₂O, ™, ①",
        "报销：“六百”，好！",
        "می\u200cخواهم",  # a word that is spelt with a non-joiner
        "👨\u200d👩\u200d👧",
    ],
)
def test_what_has_a_meaning_is_kept(text: str) -> None:
    assert normalised(text) == text


@given(TEXTS)
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalised(text)
    assert normalised(once) == once == unicodedata.normalize("NFC", once)


@given(TEXTS, st.integers(0, 300))
def test_only_the_text_is_shown(text: str, most: int) -> None:
    text = normalised(text)
    stored = searchable(text, most)
    assert shown(stored) == text
    assert len(stored.encode()) <= max(most, len(text.encode()))


def test_the_longest_text_has_room() -> None:
    assert len(searchable("条" * 5000).encode()) <= MAX_BYTES

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.orchestration import evidence
from tests.fixtures import chunk

_WORDS = st.sampled_from(
    ["\n", *"Hotels cost 190 EUR. in Paris! the 42.5 % 3,000 (net) A b? 'so' \"said\" § 🎉".split()]
)
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    st.lists(_WORDS, max_size=40).map(" ".join),
)

HOTELS = chunk("Hotels in Paris may cost up to EUR 190 a night.", "travel")
MEALS = chunk("Meals are paid up to EUR 40 a day.", "meals")


@given(TEXTS, st.lists(TEXTS, max_size=3))
def test_citations_stand_at_their_sentences(text: str, sources: list[str]) -> None:
    chunks = [chunk(text, "itself"), *(chunk(source) for source in sources)]
    end = 0
    for citation in evidence.located(text, chunks):
        sentence = text[citation.start : citation.end]
        assert sentence == sentence.strip() != ""
        assert evidence.supporter(sentence, chunks) == citation.chunk
        assert citation.start >= end
        end = citation.end


@given(st.lists(TEXTS.filter(str.strip), max_size=6))
def test_joined_sentences_are_cited_where_they_stand(sentences: list[str]) -> None:
    chunks = [chunk(sentence, str(i)) for i, sentence in enumerate(sentences)]
    text, citations = evidence.cite(list(zip(sentences, chunks, strict=True)))
    assert [text[c.start : c.end] for c in citations] == sentences
    assert [c.chunk for c in citations] == chunks


@given(TEXTS)
def test_nothing_is_lost_between_sentences(text: str) -> None:
    assert "".join("".join(evidence.sentences(text)).split()) == "".join(text.split())


def test_what_is_written_without_blanks_is_told_apart() -> None:
    hours = chunk("我们的商店星期六营业到18点。退货期限为30天。", "hours")
    ways = chunk("送货需要两到三个工作日。", "ways")
    text = "退货期限为30天。商店星期六营业到18点。"
    assert evidence.sentences(text) == ["退货期限为30天。", "商店星期六营业到18点。"]
    assert [(c.chunk, c.start, c.end) for c in evidence.located(text, [ways, hours])] == [
        (hours, 0, 9),
        (hours, 9, 21),
    ]
    assert evidence.sentences("他说：“好。”然后走了。") == ["他说：“好。”然后走了。"]
    for claim in ("退货期限为60天。", "商店在星期天全天营业。"):
        assert evidence.supporter(claim, [ways, hours]) is None
    thai = chunk("ร้านเปิดวันเสาร์ถึง 18 นาฬิกา", "thai")
    assert evidence.supporter("ร้านเปิดวันเสาร์", [ways, thai]) == thai
    assert evidence.supporter("ส่งสินค้าฟรีทั่วประเทศ", [ways, thai]) is None


@pytest.mark.parametrize(
    "claim",
    [
        "Hotels in Paris cost up to EUR 190.",
        "A hotel in Paris may cost EUR 190 a night.",
        "EUR 190.",
    ],
)
def test_claim_that_the_evidence_holds_is_supported(claim: str) -> None:
    assert evidence.supporter(claim, [MEALS, HOTELS]) == HOTELS


@pytest.mark.parametrize(
    "claim",
    [
        "Hotels in Paris may cost up to EUR 191 a night.",
        "Hotels in Paris may cost up to EUR 40 a night.",
        "Breakfast is always served by friendly people.",
        "It is what it is.",
        "",
    ],
)
def test_claim_with_other_figures_or_words_is_not_supported(claim: str) -> None:
    assert evidence.supporter(claim, [MEALS, HOTELS]) is None


def test_only_chunks_at_or_above_the_threshold_are_relevant() -> None:
    chunks = [chunk("a", relevance=0.3), chunk("b", relevance=0.2), chunk("c", relevance=0.25)]
    threshold = evidence.probability(0.25)
    assert [each.text for each in evidence.relevant(chunks, threshold)] == ["a", "c"]


def test_all_sentences_are_held_against_chunks_that_are_read_once() -> None:
    draft = "Hotels in Paris cost up to EUR 190. Breakfast is served. Meals are paid up to EUR 40."
    assert evidence.supported(draft, [MEALS, HOTELS]) == [
        ("Hotels in Paris cost up to EUR 190.", HOTELS),
        ("Meals are paid up to EUR 40.", MEALS),
    ]
    reads = 0

    class Counted(str):
        def __format__(self, spec: str) -> str:
            nonlocal reads
            reads += 1
            return str(self)

    counted = replace(MEALS, text=Counted(MEALS.text))
    assert len(evidence.supported("Meals are paid up to EUR 40. " * 100, [counted])) == 100
    assert reads <= 2

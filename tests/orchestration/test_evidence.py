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
        assert evidence.Sources(chunks).supporter(sentence) == citation.chunk
        assert citation.start >= end
        end = citation.end


@given(st.lists(TEXTS.filter(str.strip), max_size=6))
def test_joined_sentences_are_cited_where_they_stand(sentences: list[str]) -> None:
    chunks = [chunk(sentence, str(i)) for i, sentence in enumerate(sentences)]
    text, citations = evidence.cite(list(zip(sentences, chunks, strict=True)))
    assert [text[c.start : c.end] for c in citations] == sentences
    assert [c.chunk for c in citations] == chunks


def test_what_is_written_without_blanks_is_told_apart() -> None:
    hours = chunk("我们的商店星期六营业到18点。退货期限为30天。", "hours")
    ways = chunk("送货需要两到三个工作日。", "ways")
    text = "退货期限为30天。商店星期六营业到18点。"
    assert [(c.chunk, c.start, c.end) for c in evidence.located(text, [ways, hours])] == [
        (hours, 0, 9),
        (hours, 9, 21),
    ]
    for claim in ("退货期限为60天。", "商店在星期天全天营业。"):
        assert evidence.Sources([ways, hours]).supporter(claim) is None
    thai = chunk("ร้านเปิดวันเสาร์ถึง 18 นาฬิกา", "thai")
    assert evidence.Sources([ways, thai]).supporter("ร้านเปิดวันเสาร์") == thai
    assert evidence.Sources([ways, thai]).supporter("ส่งสินค้าฟรีทั่วประเทศ") is None


@pytest.mark.parametrize(
    "claim",
    [
        "Hotels in Paris cost up to EUR 190.",
        "A hotel in Paris may cost EUR 190 a night.",
        "EUR 190.",
    ],
)
def test_claim_that_the_evidence_holds_is_supported(claim: str) -> None:
    assert evidence.Sources([MEALS, HOTELS]).supporter(claim) == HOTELS


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
    assert evidence.Sources([MEALS, HOTELS]).supporter(claim) is None


def test_sources_that_a_claim_names_are_asked_first() -> None:
    same = replace(HOTELS, id="other#0")
    sources = evidence.Sources([MEALS, HOTELS, same])
    claim = "Hotels in Paris cost up to EUR 190."
    assert sources.supporter(claim) == HOTELS
    assert sources.supporter(claim, [2]) == same
    assert sources.supporter(claim, [0]) == HOTELS


@pytest.mark.parametrize(
    ("claim", "source"),
    [
        ("Customers may return opened goods.", "Customers may not return opened goods."),
        ("Customers cannot return goods.", "Customers may return goods."),
        ("Returns need a receipt.", "Tents may be returned. Returns don't need a receipt."),
        ("Kunden können Ware zurückgeben.", "Kunden können keine Ware zurückgeben."),
        ("Kunder kan returnere varer.", "Kunder kan ikke returnere varer."),
    ],
)
def test_claim_that_a_source_says_the_contrary_of_is_denied(claim: str, source: str) -> None:
    assert evidence.Sources([HOTELS, chunk(source)]).denier(claim) == chunk(source)


@pytest.mark.parametrize(
    ("claim", "source"),
    [
        ("Customers may not return goods.", "Customers may not return goods."),
        ("Goods can't be returned.", "No goods can be returned."),
        # In part, or in other words.
        ("Faulty goods may be returned.", "Goods may not be returned unless faulty."),
        ("Claims must be filed within 30 days.", "Claims must be filed no later than 30 days."),
        ("Employees carry over up to 5 days.", "Employees carry over no more than 5 days."),
        ("Expenses are limited to EUR 50 a day.", "Expenses may not exceed EUR 50 a day."),
        ("Parts are covered for 2 years.", "Parts are covered for 2 years, but not labour."),
        ("Contact support at 555-0100.", "Do not hesitate to contact support at 555-0100."),
        ("The shop is not open on Sunday.", "The shop is closed on Sunday."),
        ("Use form 12 for travel.", "Use form No. 12 for travel."),
        ("Åpningstiden er 9 til 17.", "Fra 1. mai er åpningstiden 9 til 17."),
        # Another sentence says it.
        (
            "Goods may be returned within 30 days.",
            "Opened goods may not be returned within 30 days. "
            "Unopened goods may be returned within 30 days.",
        ),
    ],
)
def test_claim_that_may_be_so_is_not_denied(claim: str, source: str) -> None:
    assert evidence.Sources([HOTELS, chunk(source)]).denier(claim) is None


def test_chunks_are_read_once_for_all_claims() -> None:
    reads = 0

    class Counted(str):
        def __format__(self, spec: str) -> str:
            nonlocal reads
            reads += 1
            return str(self)

    sources = evidence.Sources([replace(MEALS, text=Counted(MEALS.text))])
    assert all(sources.supporter("Meals are paid up to EUR 40.") for _ in range(100))
    assert reads == 1

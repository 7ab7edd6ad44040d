"""The benchmark of answers judges citations by a person's notes, not by the rule that made them."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest.answers import score

DOCUMENT = "Unpaid leave lasts at most 16 weeks. Ask your manager three months before."
ROW = {
    "id": "a01",
    "query": "How long may I be away without pay?",
    "answerable": True,
    "document": "leave",
    "answers": ["16 weeks", "sixteen weeks"],
}
NOWHERE = {"id": "u01", "query": "Who painted Guernica?", "answerable": False}


def citation(sentence: str, document: str = "leave", text: str = DOCUMENT) -> dict[str, Any]:
    return {"document": document, "sentence": sentence, "title": "Leave", "chunks": [text]}


def answer(row: dict[str, Any], *cited: dict[str, Any]) -> dict[str, Any]:
    text = " ".join(each["sentence"] for each in cited)
    return {"row": row, "text": text, "cited": cited, "seconds": 1.0, "model": None, "cost": 0.0}


def test_citation_of_the_fact_in_its_document_is_right() -> None:
    found = score(
        [answer(ROW, citation("Leave: Unpaid leave lasts at most 16 weeks.")), answer(NOWHERE)]
    )
    assert found["right document cited"] == found["right fact in a cited sentence"] == 1
    assert found["citations of the right document"] == found["citations word for word"] == 1
    assert found["cites where nothing is known"] == 0


@pytest.mark.parametrize(
    ("cited", "measure"),
    [
        # Every word of it stands in the document, so the rule that cites would accept it.
        (
            citation("Ask your manager three weeks before unpaid leave lasts."),
            "citations word for word",
        ),
        (citation("Ask your manager three months before."), "right fact in a cited sentence"),
        (
            citation("Unpaid leave lasts at most 16 weeks.", "other"),
            "citations of the right document",
        ),
        (
            citation("Unpaid leave lasts at most 16 weeks.", text="Unpaid leave lasts 4 weeks."),
            "right fact in a cited sentence",
        ),
    ],
)
def test_citation_that_does_not_hold_is_counted(cited: dict[str, Any], measure: str) -> None:
    assert score([answer(ROW, cited), answer(NOWHERE)])[measure] == 0


def test_citation_of_something_for_what_nobody_wrote_down_is_counted() -> None:
    made = answer(NOWHERE, citation("Unpaid leave lasts at most 16 weeks."))
    assert score([answer(ROW), made])["cites where nothing is known"] == 1

"""The router says how sure it is, also of what it cannot read and of what says nothing itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain import Decision, Message, Route
from serve_app.router.encoder import Encoder
from serve_app.router.heads import Signals
from serve_app.router.policy import DEFAULT, load_policy, parse_policy
from serve_app.router.semantic import SemanticRouter
from serve_app.router.turns import Turns, agrees, turns

PROOF = "Prove that there are infinitely many primes congruent to 3 mod 4."

UNREAD = {
    "Chinese": "证明素数有无穷多个",
    "Arabic": "أثبت أن هناك عددا لا نهائيا من الأعداد الأولية",
    "Russian": "Докажи, что простых чисел бесконечно много",
    "Japanese": "素数が無限に存在することを証明してください",
    "Korean": "소수가 무한히 많음을 증명하라",
    "Hindi": "सिद्ध करो कि अभाज्य संख्याएँ अनंत हैं",
    "Thai": "จงพิสูจน์ว่ามีจำนวนเฉพาะเป็นอนันต์",
    "Greek": "Απόδειξε ότι οι πρώτοι αριθμοί είναι άπειροι",
    "Hebrew": "הוכח שיש אינסוף מספרים ראשוניים",
}


def decide(router: SemanticRouter, asked: str | Turns) -> Decision:
    (made,) = router.decide([Turns(asked) if isinstance(asked, str) else asked], ["default"])
    return made


def talk(*texts: str) -> Turns:
    """A conversation; the user begins."""
    return turns(
        [Message("assistant" if number % 2 else "user", text) for number, text in enumerate(texts)]
    )


@pytest.mark.parametrize("text", UNREAD.values(), ids=UNREAD)
def test_script_that_the_encoder_cannot_read_is_no_sure_case_for_the_expert(
    router: SemanticRouter, text: str
) -> None:
    made = decide(router, text)
    assert made.in_scope < 0.1
    assert "does not read this script" in made.reason
    assert made.route is not Route.EXPERT, "what is not understood is not cheap"
    assert made.route is max(made.terms, key=lambda road: made.terms[road].value_usd)


def test_more_of_what_cannot_be_read_makes_it_less_sure(router: SemanticRouter) -> None:
    asked = "Rewrite this politely: send me the report"
    made = [decide(router, f"{asked} {UNREAD['Chinese'] * n}") for n in (0, 2, 8)]
    sure = [each.terms[Route.EXPERT].success for each in made]
    assert sure == sorted(sure, reverse=True)
    assert sure[0] > 0.75 > 0.4 > sure[2]


@pytest.mark.parametrize(
    "text", ["naïve café: Zürich, Łódź, İzmir, Århus?", "x² + 1 = 0 😀 … № 5", "¿Qué?", "12 + 30"]
)
def test_accents_signs_and_numbers_are_read(encoder: Encoder, text: str) -> None:
    assert encoder.encode([text]).read == [1.0]


@given(st.text(max_size=40))
def test_the_share_that_is_read_is_a_share(encoder: Encoder, text: str) -> None:
    (share,) = encoder.encode([text]).read
    assert 0 <= share <= 1


def test_pin_on_an_intent_holds_for_what_cannot_be_read() -> None:
    pin = {"name": "legal stays", "never": ["frontier"], "intents": ["legal"]}
    given_ = load_policy(DEFAULT).model_dump(mode="json")
    policy = parse_policy({**given_, "pins": [pin]}, "policy")
    unread = Signals({"frontier": 1.0, "legal": 0.0}, 1.0, 0.5, 0.5).as_read(0.1)
    assert policy.intended("default", [unread]) == ("legal stays",)
    assert policy.intended("default", [unread.as_read(1.0)]) == ("legal stays",)
    read = Signals({"frontier": 1.0, "legal": 0.0}, 1.0, 0.5, 0.5).as_read(0.9)
    assert policy.intended("default", [read]) == ()


# --- a turn that only agrees ---


@pytest.mark.parametrize("reply", ["yes please", "Yes!", "go on", "please do", "sure, go ahead"])
def test_agreeing_to_go_on_with_a_proof_takes_the_road_of_the_proof(
    router: SemanticRouter, reply: str
) -> None:
    made = decide(router, talk(PROOF, "Shall I go on with the general case?", reply))
    alone = decide(router, PROOF)
    assert made.route is alone.route is Route.FRONTIER
    assert made.complexity == pytest.approx(alone.complexity, abs=0.02)
    assert made.volatility == pytest.approx(alone.volatility, abs=0.02)


def test_agreeing_again_still_means_the_work_at_the_beginning() -> None:
    asked = talk(PROOF, "Go on?", "yes", "The general case too?", "yes please")
    assert asked.last == PROOF


def test_ok_is_an_answer_only_where_something_was_asked() -> None:
    assert talk(PROOF, "Done. QED.", "ok").last == "ok"
    assert talk(PROOF, "The general case too?", "ok").last == PROOF
    assert talk("yes please").last == "yes please"


@pytest.mark.parametrize(
    "text",
    [
        "in German please",
        "yes, as a table",
        "and on the third?",
        "thanks!",
        "no",
        "stop",
        "",
        "...",
    ],
)
def test_turn_with_a_word_of_its_own_is_read_itself(text: str) -> None:
    assert not agrees(text, asked=True)
    assert talk("What is the return window?", "30 days. More?", text).last == text

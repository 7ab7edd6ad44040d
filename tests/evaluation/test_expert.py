"""Scores of answers by hand, and the ways in which rows are asked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from serve_app.domain import Usage
from serve_app.errors import SettingsError
from serve_app.evaluation import trials
from serve_app.evaluation.answers import Answers
from serve_app.evaluation.expert import Judge, Row, way
from serve_app.evaluation.forms import MeaningRepresentation, guess
from serve_app.evaluation.support import Support
from serve_app.expert.batch import Request, Response

REFERENCE = "inform(name[Dirt], genres[racing, sport], has_mac_release[no])"
ROW = Row(1, "Dirt is a racing and sport game, not for the Mac.", REFERENCE)
CONTRACT = """
kind: markdown
template: |
  # Note
  - Store: {store}
  - Due: {due}
slots:
  store: {type: enum, values: [OSL, BGO]}
  due: date
"""
ANSWER = "# Note\n- Store: OSL\n- Due: 2026-07-03"


def judged(text: str) -> Any:
    return Judge(MeaningRepresentation(), Support([], {})).judge(ROW, text)


def test_fields_count_whatever_their_order() -> None:
    other = judged("inform(has_mac_release[no], genres[sport, racing], name[Dirt])")
    assert not other.exact
    assert all(other.fields.values())
    assert other.violations == ()


def test_scores_of_a_wrong_and_an_invented_slot() -> None:
    answer = judged("inform(name[Dirt], genres[racing], developer[Codemasters])")
    scores = way([answer], Usage(10, 5), 1.0, 0.002).scores
    # Of act, name, genres and has_mac_release two are right; four were given.
    assert scores["fields"][0] == pytest.approx(2 / 4)
    assert scores["field_f1"][0] == pytest.approx(2 * 2 / (4 + 4))
    assert answer.unsupported == ("Codemasters",)
    assert scores["faithfulness"][0] == 0.0
    assert scores["adherence"][0] == 1.0


def test_an_answer_without_form_is_wrong_in_every_field() -> None:
    answer = judged("Dirt is a nice game.")
    assert answer.violations
    assert not any(answer.fields.values())


def test_the_interval_holds_the_score_and_narrows_with_rows() -> None:
    right, wrong = judged(REFERENCE), judged("inform(name[Dirt])")
    few, many = (way([right, wrong] * n, Usage(), 1.0, None).scores["exact"] for n in (5, 200))
    assert few[0] == many[0] == 0.5
    assert few[1] < many[1] < 0.5 < many[2] < few[2]


def test_forms_are_guessed_only_where_all_references_share_one() -> None:
    assert isinstance(guess([REFERENCE, "request(name[])"]), MeaningRepresentation)
    found = guess(['{"a": {"b": 1}}'])
    assert found is not None
    assert found.fields('{"a": {"b": 2}}') == {"a.b": 2}
    assert guess([REFERENCE, "Hello"]) is None


class Parrot:
    """An engine that answers well with the adapter, or when the form is enforced."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, str]]] = []

    def answers(
        self,
        requests: Sequence[Request],
        max_tokens: int,
        *,
        adapted: bool,
        structured: Mapping[str, Any] | None = None,
    ) -> Iterator[list[Response]]:
        for each in requests:
            self.asked.append(each.messages)
            text = ANSWER if adapted else ANSWER.replace("OSL", "BGO" if structured else "Oslo")
            yield [Response(each.id, text, "stop", 20, 10, 0.1)]


@pytest.fixture
def task(tmp_path: Path) -> trials.Task:
    messages = [
        {"role": "user", "content": "Oslo needs it by 3 July 2026."},
        {"role": "assistant", "content": ANSWER},
    ]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    (tmp_path / "contract.yaml").write_text(CONTRACT)
    (tmp_path / "support.yaml").write_text("OSL: [Oslo]\nBGO: [Bergen]\n")
    contract = trials.beside(tmp_path, "contract")
    return trials.task(
        tmp_path / "rows.jsonl", contract, trials.beside(tmp_path, "support.yaml"), None
    )


def test_base_and_adapter_are_asked_alike_but_for_the_prompt(task: trials.Task) -> None:
    shots = [{"role": "system", "content": "Rules."}, {"role": "user", "content": "An example."}]
    ways = trials.trials(task, adapter=True, structured=True, prompt=shots)
    engine = Parrot()
    scores = {}
    for each in ways:
        batches = list(trials.run(engine, task, each, 64, lambda *_: None))
        scores[each.name] = trials.summary(task, batches[0], None, "").scores
    question = {"role": "user", "content": "Oslo needs it by 3 July 2026."}
    assert engine.asked[0] == [*shots, question]
    assert engine.asked[1] == [question]
    got = {
        name: (s["adherence"][0], s["faithfulness"][0], s["fields"][0])
        for name, s in scores.items()
    }
    assert got == {
        "base": (0.0, 1.0, 0.5),
        "adapter": (1.0, 1.0, 1.0),
        "base, structured": (1.0, 0.0, 0.5),
        "adapter, structured": (1.0, 1.0, 1.0),
    }


def test_a_prompt_without_messages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompt.yaml"
    path.write_text("messages: [hello]\n")
    with pytest.raises(SettingsError, match="role and content"):
        trials.prompt(path)


def test_answers_are_kept_and_those_to_other_questions_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    rows = [ROW, Row(2, "Dirt.", "inform(name[Dirt])")]
    first = Answers(path, "aaa")
    first.add("base", [Response(1, REFERENCE, "stop", 20, 10, 0.5)])
    with path.open("a") as file:
        file.write('{"way": "base", "questions": "aa')  # killed in the middle of a line
    again = Answers(path, "aaa")
    assert again.missing("base", rows) == {2}
    assert again.missing("adapter", rows) == {1, 2}
    again.finish(rows, Judge(MeaningRepresentation(), Support([], {})))
    (line,) = map(json.loads, path.read_text().splitlines())
    assert line["judged"]["exact"] is True
    assert Answers(path, "aaa").of("base", rows[:1]) == first.of("base", rows[:1])
    with pytest.raises(SettingsError, match="other rows"):
        Answers(path, "bbb")

"""The demo adapter's data: held-out notes are none that training could have taught word by word."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from serve_app.expert.contracts import AnyOf, parse
from tools.house_style.__main__ import FILES, rows
from tools.house_style.compose import held_order
from tools.house_style.kinds import KINDS
from tools.house_style.phrases import SPLITS, entries, phrases
from tools.house_style.values import invented

HOME = Path(__file__).parents[2] / "configs" / "demo" / "house_style"


def plain(text: str) -> str:
    """What makes a sentence another one: neither its letter case nor its marks."""
    return " ".join(re.findall(r"[\w{}]+", text.casefold()))


def asked(row: dict[str, Any]) -> str:
    text: str = row["messages"][0]["content"]
    return text


@pytest.fixture(scope="module")
def contract() -> AnyOf:
    found = parse((HOME / "contract.yaml").read_bytes(), "contract.yaml")
    assert isinstance(found, AnyOf)
    return found


def test_held_out_sentences_names_and_labels_are_none_of_training() -> None:
    learned = {plain(entry) for split in ("train", "valid") for _, entry in entries(phrases(split))}
    shared = {entry for _, entry in entries(phrases("held")) if plain(entry) in learned - {""}}
    assert not shared


def test_validation_shares_no_sentence_with_training() -> None:
    for place, entry in entries(phrases("valid")):
        lists: Any = phrases("train")
        for key in place.strip("/").split("/"):
            lists = lists[key]
        assert entry not in lists


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_can_say_whatever_is_asked_of_the_model(split: str) -> None:
    def paths(lists: Any) -> set[str]:
        return {place for place, _ in entries(lists)}

    assert paths(phrases(split)) >= paths(phrases("held"))


@pytest.mark.parametrize("split", SPLITS)
def test_documents_keep_to_the_contract(split: str, contract: AnyOf) -> None:
    for row in rows(split, 150, seed=11):
        document = row["messages"][-1]["content"]
        assert contract.violations(document) == []
        assert contract.which(document) == row["id"].partition("-")[0]


def test_an_order_of_facts_is_trained_on_or_held_out() -> None:
    orders = [("store", "when", "event"), ("event", "when", "store"), ("week", "risk", "store")]
    assert [held_order(order) for order in orders] == [held_order(order) for order in orders]
    told = {held_order((a, b, c)) for a in "abcd" for b in "abcd" for c in "abcd"}
    assert told == {True, False}


@pytest.mark.parametrize("name", ["test", "canary"])
def test_the_committed_rows_are_those_of_the_generator(name: str) -> None:
    lines = (HOME / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    split, offset = FILES[name]
    made = list(rows(split, len(lines), 7 * len(FILES) + offset))
    assert [json.loads(line) for line in lines] == made
    assert {row["id"].partition("-")[0] for row in made} == set(KINDS)


def test_test_and_canary_share_no_note() -> None:
    first, second = (
        {asked(json.loads(line)) for line in (HOME / f"{name}.jsonl").read_text().splitlines()}
        for name in ("test", "canary")
    )
    assert not first & second


def test_names_made_up_for_training_are_none_of_those_held_out() -> None:
    held = phrases("held")["values"]
    known = {*held["first"], *held["last"]}
    made = [name for seed in range(40) for name in invented(random.Random(seed), 300, known)]
    assert len(set(made)) > 1000
    assert not set(made) & known

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cluster.manifests import read as manifests
from serve_app.errors import SettingsError, TriviumError
from serve_app.evaluation.trials import prompt
from serve_app.expert.contracts import parse as contract
from serve_app.jsonl import objects
from serve_app.ledger.forecast import Assumptions
from serve_app.ledger.machines import Machines
from serve_app.ledger.prices import PriceTable
from serve_app.plain_data import json_text, yaml_text, yaml_texts
from serve_app.retrieval import formats
from serve_app.router.policy import DEFAULT as POLICY
from serve_app.router.policy import load_policy
from serve_app.settings import load

CONFIGS = Path(__file__).parent.parent / "configs"


def refusal(read: Callable[[], Any]) -> str:
    with pytest.raises(TriviumError) as caught:
        read()
    return caught.value.message


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# --- a key given twice, in each kind of file ---


def twice(key: str, line: int, first: int) -> str:
    return f":{line}: `{key}` is given twice, first on line {first}"


def test_section_of_the_settings_given_twice_names_both_lines(tmp_path: Path) -> None:
    text = "ledger:\n  at_limit: refuse\nledger:\n  at_limit: degrade\n"
    file = written(tmp_path / "trivium.yaml", text)
    assert refusal(lambda: load(file)) == f"{file}{twice('ledger', 3, 1)}; keep one"


@pytest.mark.parametrize(
    ("read", "like"),
    [
        (load_policy, POLICY),
        (PriceTable.load, CONFIGS / "prices.yaml"),
        (Assumptions.load, CONFIGS / "forecast.yaml"),
    ],
)
def test_key_given_twice_in_a_file_like_those_that_come_along_names_both_lines(
    tmp_path: Path, read: Callable[[Path], Any], like: Path
) -> None:
    text = like.read_text(encoding="utf-8")
    read(like)
    key = next(iter(yaml.safe_load(text)))
    first = 1 + next(n for n, line in enumerate(text.split("\n")) if line.startswith(f"{key}:"))
    file = written(tmp_path / like.name, f"{text}{key}: 1\n")
    assert twice(key, text.count("\n") + 1, first) in refusal(lambda: read(file))


def test_pins_of_a_policy_given_twice_do_not_undo_each_other(tmp_path: Path) -> None:
    text = POLICY.read_text(encoding="utf-8")
    pins = "pins:\n  - {name: p, never: [frontier], matches: bluebird}\n"
    text = text.replace("pins: []\n", "")
    file = written(tmp_path / "policy.yaml", f"{text}{pins}pins: []\n")
    assert "`pins` is given twice" in refusal(lambda: load_policy(file))


def test_key_given_twice_in_a_contract_names_both_lines() -> None:
    text = b"kind: regex\npattern: a\npattern: b\n"
    assert twice("pattern", 3, 2) in refusal(lambda: contract(text, "contract.yaml"))
    same = b'{"kind": "regex",\n "pattern": "a",\n "pattern": "b"}'
    assert twice("pattern", 3, 2) in refusal(lambda: contract(same, "contract.json"))


def test_key_given_twice_in_front_matter_names_the_lines_of_the_document() -> None:
    text = b"---\ntitle: a\ntenant: b\ntitle: c\n---\nText.\n"
    assert f"page.md: front matter{twice('title', 4, 2)}" in refusal(
        lambda: formats.read("page.md", text)
    )


def test_key_given_twice_in_an_evaluation_prompt_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "prompt.yaml", "messages: []\nmessages: []\n")
    assert twice("messages", 2, 1) in refusal(lambda: prompt(file))


def test_key_given_twice_in_a_manifest_is_refused() -> None:
    text = "kind: A\n---\nkind: Service\nmetadata:\n  name: a\n  name: b\n"
    assert twice("name", 6, 5) in refusal(lambda: manifests(text, "rendered"))


def test_machine_price_given_twice_is_refused(tmp_path: Path) -> None:
    row = "llama: {usd_per_hour: 1.0, as_of: 2026-01-01, source: s}\n"
    file = written(tmp_path / "machines.yaml", row + row)
    assert twice("llama", 2, 1) in refusal(lambda: Machines(file))


def test_key_given_twice_in_a_row_names_its_line(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl", '{"id": 1}\n{"id": 1, "id": 2}\n')
    assert f"{file}:2: " in (told := refusal(lambda: list(objects(file, "a row"))))
    assert "`id` is given twice" in told


def test_key_given_twice_in_a_document_of_a_jsonl_file_is_told() -> None:
    text = b'{"id": "a", "text": "x", "text": "y"}\n{"id": "b", "text": "z"}\n'
    problems = formats.read("docs.jsonl", text).problems
    assert len(problems) == 1
    assert "`text` is given twice" in problems[0]


# --- what else could be meant in two ways ---


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nno: 2\n", "f:2: a key must be text, and `no` is read as bool"),
        ("2024: 1\n", "f:1: a key must be text, and `2024` is read as int"),
        ("? [a]\n: 1\n", "a key must be text, not a list"),
        ("a: !!python/object:os.system x\n", "f:1: the tag !!python/object:os.system"),
        ("a: !!set {x, y}\n", "the tag !!set"),
        ("a: !secret x\n", "the tag !secret"),
        ("a: 2024-13-45\n", "f:1: the value is no timestamp; put text in quotes"),
        ("a: &x [*x]\n", "holds itself"),
        ("a: [" * 5000, "f"),
        ("<<: {a: 1}\n<<: {b: 1}\n", twice("<<", 2, 1)),
    ],
)
def test_what_could_be_meant_otherwise_is_refused(text: str, told: str) -> None:
    assert told in refusal(lambda: yaml_text(text, "f"))


def test_a_value_that_is_refused_is_not_shown() -> None:
    assert "2024-13-45" not in refusal(lambda: yaml_text("password: 2024-13-45\n", "f"))


@pytest.mark.parametrize("merge", ["[*{0}, *{0}]", "{{<<: [*{0}, *{0}]}}"])
def test_aliases_of_aliases_are_refused_before_they_fill_the_memory(merge: str) -> None:
    lines = ["x0: &x0 {a: 1}"]
    lines += [f"x{n}: &x{n} {merge.format(f'x{n - 1}')}" for n in range(1, 40)]
    assert "once aliases are followed" in refusal(lambda: yaml_text("\n".join(lines), "f"))


def test_a_key_beside_a_merge_key_overrides_what_it_brings() -> None:
    text = "base: &base {a: 1, b: 2}\nhere:\n  <<: *base\n  b: 3\n"
    assert yaml_text(text, "f")["here"] == {"a": 1, "b": 3}


def test_the_same_key_in_two_mappings_or_documents_is_fine() -> None:
    assert yaml_texts("a: {b: 1}\nc: {b: 1}\n---\na: 2\n---\n", "f") == [
        {"a": {"b": 1}, "c": {"b": 1}},
        {"a": 2},
        None,
    ]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(), each, max_size=4),
    max_leaves=20,
)


@given(plain)
def test_what_yaml_and_json_write_is_read_back(data: Any) -> None:
    assert yaml_text(yaml.safe_dump(data), "f") == yaml.safe_load(yaml.safe_dump(data))
    assert json_text(json.dumps(data)) == data


@given(st.text(alphabet="ab:&*<!-[]{}?'\"|>#%@ \n1é\0", max_size=60))
def test_any_text_is_read_or_refused_by_name(text: str) -> None:
    refusals = []
    try:
        yaml_text(text, "the-source")
    except SettingsError as error:
        refusals.append(error.message)
    assert all(each.startswith("the-source") for each in refusals)

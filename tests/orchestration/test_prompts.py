from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jinja2
import pytest

from serve_app.domain import Message, Route
from serve_app.errors import SettingsError
from serve_app.orchestration.prompts import SHIPPED, load_prompts, prompt_texts
from serve_app.serve_config import applications, checked
from serve_app.settings import Settings, from_args
from tests.conftest import ROOT
from tests.fixtures import FixedRouter, Free, House, chunk, context, decision, question

INSTRUCTIONS = ("adapter", "answer", "expert", "frontier")
ROLES = ("rewrite", "grade", "reflect", "repair")
OWN = "---\nversion: acme-2\noptions: { temperature: 0.7 }\n---\nYou write for Acme.\n"


@pytest.mark.parametrize("name", ["answer", "expert", "frontier", *ROLES])
def test_every_prompt_says_something(name: str) -> None:
    assert SHIPPED[name].name == name
    assert int(SHIPPED[name].version) >= 1
    assert SHIPPED[name].render(sources=False, tools=False, json=False)


def test_no_prompt_that_comes_along_speaks_of_a_company_or_a_language() -> None:
    for name in (*INSTRUCTIONS, *ROLES):
        text = SHIPPED[name].render(sources=True, tools=False, json=False)
        assert not {"company", "English"} & set(text.split())


def test_answer_in_json_is_not_asked_for_marks() -> None:
    assert "[1]" in SHIPPED["answer"].render(sources=True, tools=False, json=False)
    assert "[1]" not in SHIPPED["answer"].render(sources=True, tools=False, json=True)


def test_calls_of_tools_are_not_told_to_reason_step_by_step() -> None:
    frontier = SHIPPED["frontier"]
    assert "step by step" in frontier.render(sources=False, tools=False)
    assert frontier.render(sources=False, tools=True) == ""
    assert frontier.render(sources=True, tools=True).startswith("Use the sources")


def test_sources_are_inserted_as_text_and_never_run() -> None:
    hostile = "{{ 7 * 7 }} {% raw %} <b>&amp;</b> {# gone #}"
    sources = [chunk(hostile), chunk("second", title="{{ x }}")]
    text = SHIPPED["sources"].render(sources=sources, mark="m")
    assert f"[1 m] Policy: {hostile}" in text
    assert "[2 m] {{ x }}: second" in text


def test_forgotten_value_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        SHIPPED["sources"].render(sources=[])


def test_a_folder_takes_the_place_of_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "expert.md").write_text(OWN.replace("\n", "\r\n"), newline="")
    (tmp_path / "notes.txt").write_text("not a prompt")
    found = load_prompts(tmp_path)
    assert found["expert"].render(sources=False, tools=False) == "You write for Acme."
    assert (found["expert"].version, found["expert"].options) == ("acme-2", {"temperature": 0.7})
    assert found["expert"].digest != SHIPPED["expert"].digest
    assert {n: found[n].digest for n in found if n != "expert"} == {
        n: SHIPPED[n].digest for n in SHIPPED if n != "expert"
    }


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        ("experts", OWN, "no prompt 'experts'; there are adapter, answer, expert"),
        ("expert", "You write.", "must begin with front matter"),
        ("expert", "---\nversion: 1\nYou write.", "must begin with front matter"),
        ("expert", "---\n---\nYou write.", "must begin with front matter"),
        ("expert", "---\noptions: {}\n---\nx", "version"),
        ("expert", "---\nversion: 1\nversion: 2\n---\nx", "version"),
        ("expert", "---\nversion: 1\nmodel: x\n---\nx", "model"),
        ("expert", "---\nversion: 1\noptions: { heat: 1 }\n---\nx", "heat"),
        ("expert", "---\nversion: 1\noptions: { temperature: hot }\n---\nx", "temperature"),
        (
            "expert",
            "---\nversion: 1\n---\n{{ compny }}",
            "compny is not known; .* json, sources, tool",
        ),
        ("expert", "---\nversion: 1\n---\na\n{% if sources %}", "line 2 of the template"),
        ("expert", "---\nversion: 1\n---\n{% if not tools %}{{ sources.x }}{% endif %}", "filled"),
        ("expert", "---\nversion: 1\n---\n{{ sources.__class__.mro() }}", "filled"),
        ("sources", "---\nversion: 1\n---\nNothing.", "each source behind a {{ mark }}"),
        *(
            ("sources", f"---\nversion: 1\n---\n{body}", "each source behind a {{ mark }}")
            for body in (
                "{% for each in sources %}{{ each.text }}{% endfor %}",
                "{{ mark }}{% for each in sources %}{{ each.text }}{% endfor %}{{ mark }}",
                "{% for each in sources %}{{ mark }} {{ each.text }}{% endfor %}",
            )
        ),
    ],
)
def test_a_bad_prompt_is_refused_by_name(name: str, text: str, wrong: str) -> None:
    with pytest.raises(SettingsError, match=rf"orchestration\.prompts\.{name}.*{wrong}"):
        load_prompts({name: text})


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_folder_without_prompts_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "prompts"
    if kind == "empty":
        folder.mkdir()
    with pytest.raises(SettingsError, match="prompt"):
        prompt_texts(folder)


async def test_ones_own_prompt_is_what_the_model_is_asked_with() -> None:
    house = House(prompts={"expert": OWN})
    asked = question(messages=(Message("system", "Be brief."), Message("user", "hi")))
    async with house.orchestrator.answering(context(20.0), asked, Free()) as (_, task):
        await task
    (generation,) = house.expert.asked
    assert generation.messages[0].content == "You write for Acme.\n\nBe brief."
    assert generation.options["temperature"] == 0.7


async def test_a_question_with_tools_carries_nothing_of_ours() -> None:
    house = House(router=FixedRouter(decision(Route.FRONTIER)))
    tools: list[dict[str, Any]] = [{"type": "function", "function": {"name": "f"}}]
    asked = question(options={"tools": tools})
    async with house.orchestrator.answering(context(20.0), asked, Free()) as (_, task):
        await task
    assert [m.role for m in house.frontier.asked[0].messages] == ["user"]


def test_replicas_are_told_the_texts_of_a_folder(tmp_path: Path) -> None:
    """It need not be on their machine."""
    (tmp_path / "expert.md").write_text(OWN)
    folder = Path(os.path.relpath(tmp_path, ROOT))
    settings: Settings = from_args({"orchestration": {"prompts": str(folder)}}).resolved(ROOT)
    _, trivium = applications(checked(settings))
    (told,) = [
        each["user_config"]["orchestration"]["prompts"]
        for each in trivium["deployments"]
        if "orchestration" in each.get("user_config", {})
    ]
    assert told == {"expert": OWN}
    (tmp_path / "expert.md").write_text("no front matter")
    with pytest.raises(SettingsError, match="front matter"):
        checked(settings)

from __future__ import annotations

import jinja2
import pytest

from serve_app.orchestration.prompts import prompt
from tests.fixtures import chunk


@pytest.mark.parametrize("name", ["answer", "expert", "frontier", "sources"])
def test_every_prompt_renders_under_its_own_name(name: str) -> None:
    assert prompt(name).name == name
    assert prompt(name).version >= 1
    assert prompt(name).render(sources=[], mark="").strip()


def test_sources_are_inserted_as_text_and_never_run() -> None:
    hostile = "{{ 7 * 7 }} {% raw %} <b>&amp;</b> {# gone #}"
    sources = [chunk(hostile), chunk("second", title="{{ x }}")]
    text = prompt("sources").render(sources=sources, mark="m")
    assert f"[1 m] Policy: {hostile}" in text
    assert "[2 m] {{ x }}: second" in text


def test_forgotten_value_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        prompt("sources").render(sources=[])

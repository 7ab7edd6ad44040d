"""Adapters as models on the wire."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from serve_app.domain import Release
from serve_app.expert.contracts import parse
from serve_app.expert.serving import Adapter
from tests.fixtures import EXPERT, House, ScriptedModel
from tests.gateway.test_http import CHAT, TURNS, refusal, send

pytestmark = pytest.mark.usefixtures("clean_environment")

HOUSE = Adapter(Release("house", 3))
LETTERS = Adapter(
    Release("letters", 1), parse(b"kind: regex\npattern: Dear \\w+,\navoid: [x]\n", "c")
)


async def ask(house: House, model: str, **fields: Any) -> httpx.Response:
    return await send(house, "POST", CHAT, json={"messages": TURNS, "model": model, **fields})


async def test_answer_through_an_adapter_names_its_version_and_costs_what_the_base_costs() -> None:
    house = House(adapters=[HOUSE])
    response = await ask(house, "trivium/expert:house")
    assert response.json()["choices"][0]["message"]["content"] == "Hello there."
    assert response.json()["model"] == "trivium/expert:house"
    assert response.headers["x-trivium-model"] == f"{EXPERT}:house@3"
    base = await ask(House(), "trivium/expert")
    assert response.headers["x-trivium-cost-usd"] == base.headers["x-trivium-cost-usd"]
    assert house.expert.asked[0].adapter == Release("house", 3)


async def test_stream_names_the_version_before_its_first_token() -> None:
    response = await ask(House(adapters=[HOUSE]), "trivium/expert:house", stream=True)
    assert response.headers["x-trivium-model"] == f"{EXPERT}:house@3"
    assert response.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("model", ["trivium/expert:hose", "trivium/expert:house@9"])
async def test_unknown_adapter_is_a_404_that_lists_those_that_exist(model: str) -> None:
    house = House(adapters=[HOUSE, LETTERS])
    for response in (await ask(house, model), await send(house, "GET", f"/v1/models/{model}")):
        error = refusal(response, 404, "model_not_found")
        assert "trivium/expert:house, trivium/expert:letters" in error["message"]
        assert error["param"] == "model"
    assert house.expert.asked == []


@pytest.mark.parametrize("version", ["", "x", "-1", "1.0", "²", "9" * 12])
async def test_what_is_no_version_is_a_404(version: str) -> None:
    response = await ask(House(adapters=[HOUSE]), f"trivium/expert:house@{version}")
    assert "a version is a number" in refusal(response, 404, "model_not_found")["message"]


async def test_adapters_are_listed_as_models_with_the_version_that_serves() -> None:
    house = House(adapters=[LETTERS, HOUSE])
    listed = (await send(house, "GET", "/v1/models")).json()["data"]
    *_, first, second = listed
    assert (first["id"], first["root"]) == ("trivium/expert:house", "trivium/expert:house@3")
    assert (second["id"], second["parent"]) == ("trivium/expert:letters", "trivium/expert")
    one = (await send(house, "GET", "/v1/models/trivium/expert:house@3")).json()
    assert one["root"] == "trivium/expert:house@3"


async def test_adherence_is_counted_by_adapter_and_outcome() -> None:
    house = House(adapters=[LETTERS], expert=ScriptedModel("Dear Jo,"))
    await ask(house, "trivium/expert:letters")
    house.expert.script = ("Hi Jo,",)
    broken = await ask(house, "trivium/expert:letters")
    assert broken.headers["x-trivium-degraded"] == "expert-format"
    assert house.metrics.formats == [(LETTERS.release, "kept"), (LETTERS.release, "broken")]

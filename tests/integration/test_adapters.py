"""Adapters on the running stack: promoted, rolled back and broken under load, in their form."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from transformers import AutoConfig

from serve_app.expert.adapters import Registry
from serve_app.expert.base import Base
from serve_app.expert.contracts import parse
from tests.expert.releases import release
from tests.integration.callers import repeated
from tests.integration.conftest import STATE, Stack
from tests.integration.painted import CONFIG, direction, weights

ROOT = STATE / "adapters"
HOUSE_STYLE = Path("configs/demo/house_style")
# The version of the demo's adapter that comes along.
SHIPPED = json.loads(Path("configs/demo/adapters/house-style/current.json").read_text())["version"]
MODEL = "smollm2-135m-instruct"
WORDS = {1: "red", 2: "blue"}
STREAMS = 8
TASTE = """
kind: markdown
template: |-
  Colour: {colour}
  Since: {since}
slots:
  colour: {type: enum, values: [green, yellow]}
  since: date
"""


@pytest.fixture(scope="module")
def registry(stack: Stack) -> Iterator[Registry]:
    """The stack's own registry, with versions of `paint` of which each says one word only.

    What it held, the demo's adapter, is there again afterwards.
    """
    base = Base(MODEL, STATE / "models" / MODEL)
    aside = ROOT.with_name("adapters-aside")
    shutil.rmtree(aside, ignore_errors=True)
    ROOT.rename(aside)
    tokenizer, common = direction(base.folder)
    size = AutoConfig.from_pretrained(base.folder).vocab_size
    origin = {"name": MODEL, "weights_sha256": base.weights_sha256()}

    def add(version: int, word: str, **more: Any) -> Path:
        made = weights(f" {word}", tokenizer, common, size)
        return release(ROOT, "paint", version, weights=made, base=origin, config=CONFIG, **more)

    for version, word in WORDS.items():
        add(version, word)
    damaged = add(3, "green") / "adapter_model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-8] + b"damaged!")
    silent = {name: 0 * each for name, each in weights(" x", tokenizer, common, size).items()}
    release(ROOT, "taste", 1, weights=silent, base=origin, config=CONFIG, contract=TASTE)
    found = Registry(str(ROOT))
    yield found
    shutil.rmtree(ROOT)
    aside.rename(ROOT)


@dataclass(slots=True)
class Answer:
    version: int
    words: set[str]
    started: float
    ended: float


def streams(stack: Stack, answers: list[Answer]) -> AbstractContextManager[None]:
    """Callers of `paint` that stream one answer after the other, until the block ends."""
    client = stack.openai()
    return repeated(*[lambda: answers.append(ask(client, "trivium/expert:paint"))] * STREAMS)


def ask(client: openai.OpenAI, model: str) -> Answer:
    """One streamed answer, with the version that made it: named by the response's head, or by the
    stream's last chunk where the first word took so long that the head had left."""
    started = time.monotonic()
    response = client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": "Say something."}],
        max_completion_tokens=12,
        stream=True,
    )
    made_by, text = response.headers.get("x-trivium-model", ""), ""
    for chunk in response.parse():
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        told: dict[str, Any] = (chunk.model_extra or {}).get("trivium", {})
        made_by = told.get("model", made_by)
    version = int(made_by.rpartition("@")[2])
    return Answer(version, set(text.split()), started, time.monotonic())


def listed(stack: Stack, name: str) -> dict[str, Any]:
    with stack.http() as http:
        models = http.get("/v1/models").json()["data"]
    found: dict[str, Any] = next((m for m in models if m["id"] == f"trivium/expert:{name}"), {})
    return found


def until(true: Callable[[], bool], patience_s: float = 60.0) -> None:
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def serves(stack: Stack, name: str, version: int) -> Callable[[], bool]:
    return lambda: listed(stack, name).get("root") == f"trivium/expert:{name}@{version}"


def promote(registry: Registry, version: int) -> None:
    registry.promote("paint", version, tolerance=1.0)


def test_the_demos_adapter_serves_at_once_and_writes_in_the_house_style(stack: Stack) -> None:
    until(serves(stack, "house-style", SHIPPED))
    contract = parse((HOUSE_STYLE / "contract.yaml").read_bytes(), "contract.yaml")
    for line in (HOUSE_STYLE / "canary.jsonl").read_text(encoding="utf-8").split("\n")[:5]:
        response = stack.openai().chat.completions.with_raw_response.create(
            model="trivium/expert:house-style", messages=json.loads(line)["messages"][:-1]
        )
        assert response.headers["x-trivium-model"].endswith(f"house-style@{SHIPPED}")
        assert contract.violations(response.parse().choices[0].message.content or "") == []


@pytest.mark.timeout(300)
def test_five_promotions_and_rollbacks_fail_no_stream_and_mix_no_answer(
    stack: Stack, registry: Registry
) -> None:
    promote(registry, 1)
    until(serves(stack, "paint", 1))
    taken: list[float] = []
    answers: list[Answer] = []
    with streams(stack, answers):
        for _ in range(5):
            for version, change in (
                (2, lambda: promote(registry, 2)),
                (1, lambda: registry.rollback("paint")),
            ):
                before = len(answers)
                until(lambda before=before: len(answers) > before)  # type: ignore[misc]
                began = time.monotonic()
                change()
                until(
                    lambda began=began, version=version: any(  # type: ignore[misc]
                        each.version == version and each.started > began for each in answers
                    )
                )
                taken.append(time.monotonic() - began)
    mixed = [each for each in answers if each.words != {WORDS[each.version]}]
    assert mixed == []
    assert len(answers) > STREAMS
    print(json.dumps({"answers": len(answers), "seconds": sorted(taken)}))


def test_broken_release_leaves_the_old_one_in_service_and_says_so(
    stack: Stack, registry: Registry
) -> None:
    if registry.current("paint")["version"] != 1:
        promote(registry, 1)
    until(serves(stack, "paint", 1))
    promote(registry, 3)
    until(lambda: "refused" in listed(stack, "paint"))
    refused = listed(stack, "paint")["refused"]
    assert refused["version"] == 3
    assert "is not what was released" in refused["reason"]
    answer = ask(stack.openai(), "trivium/expert:paint")
    assert (answer.version, answer.words) == (1, {"red"})
    registry.rollback("paint")
    until(lambda: "refused" not in listed(stack, "paint"))


def test_version_may_be_pinned_whatever_serves(stack: Stack, registry: Registry) -> None:
    answer = ask(stack.openai(), "trivium/expert:paint@2")
    assert (answer.version, answer.words) == (2, {"blue"})


def test_base_beside_adapters_in_one_batch_is_the_base(stack: Stack, registry: Registry) -> None:
    client = stack.openai()

    def base() -> str:
        answer = client.chat.completions.create(
            model="trivium/expert",
            messages=[{"role": "user", "content": "What is a tent?"}],
            max_completion_tokens=12,
            temperature=0,
        )
        return answer.choices[0].message.content or ""

    alone = base()
    until(lambda: bool(listed(stack, "paint")))
    with streams(stack, []):
        beside = [base() for _ in range(3)]
    assert not {"red", "blue"} & set(" ".join([alone, *beside]).split())


def test_contract_is_enforced_by_the_engine(stack: Stack, registry: Registry) -> None:
    registry.promote("taste", 1, tolerance=1.0)
    until(serves(stack, "taste", 1))
    response = stack.openai().chat.completions.with_raw_response.create(
        model="trivium/expert:taste",
        messages=[{"role": "user", "content": "Which colour is grass, and since when?"}],
    )
    text = response.parse().choices[0].message.content or ""
    assert text.startswith(("Colour: green\nSince: ", "Colour: yellow\nSince: "))
    assert response.headers["x-trivium-model"] == f"{MODEL}:taste@1"


def test_callers_format_goes_before_the_contract(stack: Stack, registry: Registry) -> None:
    answer = stack.openai().chat.completions.create(
        model="trivium/expert:taste",
        messages=[{"role": "user", "content": "Which colour is grass?"}],
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "colour",
                "schema": {"type": "object", "properties": {"colour": {"enum": ["green"]}}},
            },
        },
        max_completion_tokens=40,
    )
    assert (answer.choices[0].message.content or "").lstrip().startswith("{")


def test_unknown_adapter_is_a_404_that_lists_those_that_exist(
    stack: Stack, registry: Registry
) -> None:
    with pytest.raises(openai.NotFoundError, match="trivium/expert:paint"):
        ask(stack.openai(), "trivium/expert:paintt")

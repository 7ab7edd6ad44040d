"""Requests made from the OpenAPI document: each answer is one that the document tells of."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from loadtest.fuzz import command
from serve_app.domain import Route
from tests.fixtures import FixedKnowledge, FixedRouter, House, ScriptedModel, chunk, decision
from tests.gateway.test_stream import served

pytestmark = pytest.mark.usefixtures("clean_environment")

SOURCE = chunk("Customers may return goods within 30 days.", "returns", as_of="2026-01-01")


async def document_of(house: House) -> dict[str, dict[str, dict[str, object]]]:
    async with served(house) as url, httpx.AsyncClient() as client:
        document: dict[str, dict[str, dict[str, object]]] = (
            await client.get(f"{url}/openapi.json")
        ).json()
        return document


async def test_no_generated_request_gets_an_answer_that_is_not_documented(tmp_path: Path) -> None:
    house = House(
        router=FixedRouter(decision(Route.KNOWLEDGE)),
        knowledge=FixedKnowledge([SOURCE]),
        expert=ScriptedModel("Goods may be returned within 30 days."),
    )
    options = ("--max-examples", "15", "--generation-deterministic")
    async with served(house) as url:
        fuzzing = await asyncio.create_subprocess_exec(
            *command(url, *options, phases="examples,fuzzing"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        told, _ = await fuzzing.communicate()
    assert fuzzing.returncode == 0, told.decode()
    assert house.metrics.outcomes.count("ok") > 0  # some of it was answered, not only refused


async def test_every_endpoint_tells_its_failures_in_the_envelope() -> None:
    document = await document_of(House())
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert isinstance(operation, dict)
            told = operation["responses"]
            assert {"200", "400", "401", "429", "503"} <= told.keys(), (method, path)
            assert "HTTPValidationError" not in json.dumps(told)
            for status, answer in told.items():
                form = answer["content"]["application/json"]["schema"]
                assert form, (method, path, status)
                assert form.get("$ref", "").endswith("/ErrorEnvelope") is (status != "200")

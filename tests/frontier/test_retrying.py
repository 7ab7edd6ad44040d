"""When a provider is asked again, and when it is left alone. Real SDKs, real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain import Delta
from serve_app.errors import (
    DeadlineExceeded,
    FrontierResting,
    Overloaded,
    TriviumError,
    Unavailable,
)
from serve_app.frontier import providers
from serve_app.frontier.circuit import Circuit
from serve_app.frontier.providers import retry_after_s
from serve_app.frontier.retrying import Retrying
from serve_app.settings import CircuitSettings, FrontierSettings
from tests.frontier.requests import Kind
from tests.frontier.wire import (
    ASK,
    BOTH,
    PART,
    answering,
    chunked,
    client,
    deaf,
    events,
    leave,
    receive,
    serving,
    start,
    until_left,
)


class Server:
    """Answers each request with the next of its steps; the last one repeats.

    A step is a status, a status with a header, "good", "half" (breaks after some text) or "drop".
    """

    def __init__(self, kind: Kind, *steps: int | str | tuple[int, str]) -> None:
        self._kind = kind
        self._steps = list(steps)
        self.requests = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests += 1
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        if step == "good":
            await answering(self._kind)(reader, writer)
            return
        await receive(reader)
        if step == "half":
            start(writer)
            writer.write(chunked(events(self._kind, PART[self._kind])))
        elif step != "drop":
            status, header = step if isinstance(step, tuple) else (step, "x-nothing: 0")
            body = json.dumps({"type": "error", "error": {"type": "x", "message": "no"}}).encode()
            head = f"HTTP/1.1 {status} No\r\n{header}\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()


@asynccontextmanager
async def retrying(
    kind: Kind, *steps: int | str | tuple[int, str], **settings: Any
) -> AsyncIterator[tuple[Retrying, Server]]:
    server = Server(kind, *steps)
    async with serving(kind, server.handle) as model:
        yield Retrying(model, FrontierSettings(**settings)), server


async def answered(model: Retrying, patience_s: float = 20.0) -> str:
    deadline = time.time() + patience_s
    return "".join([delta.text async for delta in model.generate(ASK, deadline)])


async def read(model: Retrying, seen: list[Delta]) -> None:
    async for delta in model.generate(ASK, time.time() + 20):
        seen.append(delta)  # noqa: PERF401


@BOTH
@pytest.mark.parametrize("fault", [500, 529, (429, "retry-after-ms: 20"), "drop"])
async def test_a_passing_fault_is_not_seen(kind: Kind, fault: Any) -> None:
    async with retrying(kind, fault, fault, "good") as (model, server):
        assert await answered(model) == "Héllo"
        assert server.requests == 3


@BOTH
@pytest.mark.parametrize(
    ("steps", "lost"),
    [
        (("drop", "drop", "good"), [True, True]),
        ((500, "drop", "good"), [True]),
        (("drop", 500, "good"), [True]),
        (("drop", "drop", "drop"), [True, True, False]),
        (("drop", 500, 500), [True]),
        (("good",), []),
    ],
)
async def test_each_try_that_may_be_billed_is_told(
    kind: Kind, steps: tuple[int | str, ...], lost: list[bool]
) -> None:
    seen: list[Delta] = []
    async with retrying(kind, *steps) as (model, _):
        with contextlib.suppress(Unavailable):
            await read(model, seen)
    assert [each.again for delta in seen for each in delta.lost] == lost


@BOTH
async def test_whom_nobody_reached_sends_no_bill(kind: Kind) -> None:
    seen: list[Delta] = []
    nowhere = Retrying(client(kind, "http://127.0.0.1:1"), FrontierSettings(retries=1))
    with pytest.raises(Unavailable):
        await read(nowhere, seen)
    assert seen == []


@BOTH
async def test_a_host_that_takes_no_connection_sends_no_bill(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "CONNECT_S", 0.2)
    seen: list[Delta] = []
    with deaf() as url:
        async with asyncio.timeout(10):
            # Not a deadline, for which a caller pays; it is not waited for twice all the same.
            with pytest.raises(Unavailable, match="cannot be reached"):
                await read(Retrying(client(kind, url), FrontierSettings(retries=5)), seen)
    assert seen == []


@BOTH
async def test_a_provider_that_says_nothing_for_too_long_may_send_a_bill(kind: Kind) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await receive(reader)
        await reader.read()

    seen: list[Delta] = []
    async with serving(kind, silent, silence_s=0.1) as model:
        with pytest.raises(DeadlineExceeded):
            await read(Retrying(model, FrontierSettings()), seen)
    assert [each.again for delta in seen for each in delta.lost] == [False]


@BOTH
async def test_a_lasting_fault_is_told_after_the_last_try(kind: Kind) -> None:
    async with retrying(kind, 503, retries=1) as (model, server):
        with pytest.raises(Unavailable):
            await answered(model)
        assert server.requests == 2


@BOTH
async def test_after_the_first_text_nothing_is_tried_again(kind: Kind) -> None:
    seen: list[Delta] = []
    async with retrying(kind, "half", "good") as (model, server):
        with pytest.raises(Unavailable):
            await read(model, seen)
        assert "".join(delta.text for delta in seen) == "Hé"
        assert server.requests == 1


@BOTH
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_what_will_not_pass_is_not_tried_again(kind: Kind, status: int) -> None:
    async with retrying(kind, status, "good") as (model, server):
        with pytest.raises(TriviumError):
            await answered(model)
        assert server.requests == 1


@BOTH
@pytest.mark.parametrize(("asks", "patience_s"), [(30, 60), (4, 3)], ids=["long", "too late"])
async def test_a_pause_that_is_too_long_is_not_begun(
    kind: Kind, asks: int, patience_s: float
) -> None:
    async with retrying(kind, (429, f"retry-after: {asks}"), "good") as (model, server):
        with pytest.raises(Overloaded) as caught:
            await answered(model, patience_s)
        assert caught.value.retry_after_s == asks
        assert server.requests == 1


@BOTH
async def test_a_provider_that_keeps_failing_is_left_alone(kind: Kind) -> None:
    circuit = {"failures": 3, "rest_s": 300}
    async with retrying(kind, 500, retries=0, circuit=circuit) as (model, server):
        for _ in range(3):
            with pytest.raises(Unavailable):
                await answered(model)
        with pytest.raises(FrontierResting, match="3 times in a row") as caught:
            await answered(model)
        assert 0 < (caught.value.retry_after_s or 0) <= 300
        assert server.requests == 3


@BOTH
async def test_answers_that_break_off_count_as_failures(kind: Kind) -> None:
    circuit = {"failures": 2, "rest_s": 300}
    async with retrying(kind, "half", retries=0, circuit=circuit) as (model, server):
        for _ in range(2):
            with pytest.raises(Unavailable):
                await answered(model)
        with pytest.raises(FrontierResting):
            await answered(model)
        assert server.requests == 2


@BOTH
async def test_silence_is_not_waited_for_twice_and_counts_as_a_failure(kind: Kind) -> None:
    silent = asyncio.Event()
    requests = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        requests += 1
        await receive(reader)
        await silent.wait()

    async with serving(kind, handler, silence_s=2) as provider:
        model = Retrying(provider, FrontierSettings(circuit=CircuitSettings(failures=1)))
        with pytest.raises(DeadlineExceeded):
            await answered(model)
        with pytest.raises(FrontierResting):
            await answered(model)
        silent.set()
    assert requests == 1


@BOTH
async def test_the_failure_that_opens_the_circuit_is_told_as_it_is(kind: Kind) -> None:
    circuit = {"failures": 2, "rest_s": 300}
    async with retrying(kind, 500, retries=5, circuit=circuit) as (model, server):
        with pytest.raises(Unavailable, match="failed \\(500\\)"):
            await answered(model)
        assert server.requests == 2


@BOTH
async def test_leaving_closes_the_connection(kind: Kind) -> None:
    left = asyncio.Event()
    async with serving(kind, until_left(kind, left)) as provider:
        await leave(Retrying(provider, FrontierSettings()).generate(ASK, time.time() + 20), left)


def test_after_a_rest_one_finds_out_for_all() -> None:
    now = 0.0
    circuit = Circuit(CircuitSettings(failures=2, rest_s=10), lambda: now)
    circuit.failed()
    circuit.enter()
    circuit.failed()
    now = 9.9
    with pytest.raises(FrontierResting):
        circuit.enter()
    now = 10.0
    circuit.enter()
    with pytest.raises(FrontierResting):  # the others still stay away
        circuit.enter()
    now = 20.0
    circuit.enter()  # that one has left without a word
    circuit.succeeded()
    circuit.enter()
    circuit.enter()


@given(st.text() | st.floats().map(str) | st.integers().map(str))
def test_whatever_a_provider_asks_for_is_no_negative_time(value: str) -> None:
    for name in ("retry-after", "retry-after-ms"):
        asked = retry_after_s({name: value})
        assert asked is None or 0 <= asked < math.inf


def test_a_date_to_wait_for_is_read() -> None:
    date = formatdate(time.time() + 60, usegmt=True)
    assert 55 < (retry_after_s({"retry-after": date}) or 0) <= 60
    assert retry_after_s({"retry-after": formatdate(0, usegmt=True)}) == 0
    assert retry_after_s({"retry-after": "2"}) == 2
    assert retry_after_s({"retry-after-ms": "20", "retry-after": "9"}) == 0.02
    assert retry_after_s({"retry-after-ms": "soon", "retry-after": "1.5"}) == 1.5
    assert retry_after_s({"retry-after": "Fri, 31 Dec 9999 23:59:59 -2300"}) != 0
    assert retry_after_s({}) is None

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest

from serve_app.domain import RequestContext
from serve_app.errors import DeadlineExceeded, InternalError, TriviumError
from serve_app.handles import Remote, Together

Items = list[tuple[RequestContext, str]]
_asking: ContextVar[str] = ContextVar("asking")


class Deployment:
    """Stands where a Serve handle would; notes which items each call carried."""

    def __init__(self, answer: Callable[[list[str]], Awaitable[list[str]]]) -> None:
        self._answer = answer
        self.calls: list[list[str]] = []
        self.lanes: list[str] = []  # of those calls

    def options(self, *, session_id: str = "", **_: Any) -> Deployment:
        if session_id:
            self.lanes.append(session_id)
        return self

    @property
    def shout(self) -> Deployment:
        return self

    def remote(self, context: RequestContext, items: Items) -> Awaitable[list[str]]:
        texts = [text for _, text in items]
        self.calls.append(texts)
        return self._answer(texts)


async def at_once(texts: list[str]) -> list[str]:
    return [text.upper() for text in texts]


def together(deployment: Deployment, **limits: int) -> Together:
    remote = Remote(deployment, "shouting", timeout_s=5)
    return Together(remote, "shout", **{"lanes": 2, "items": 8, **limits})


def context(seconds: float = 5) -> RequestContext:
    return RequestContext("test", time.time() + seconds)


async def test_everybody_gets_their_own_answer_out_of_few_calls() -> None:
    deployment = Deployment(at_once)
    shouting = together(deployment)
    words = [f"word {i}" for i in range(40)]
    answers = await asyncio.gather(*(shouting.call(context(), word) for word in words))
    assert answers == [word.upper() for word in words]
    assert len(deployment.calls) < 8
    assert max(map(len, deployment.calls)) <= 8


async def test_what_waits_is_spread_over_the_free_lanes() -> None:
    deployment = Deployment(at_once)
    shouting = together(deployment, lanes=4)
    await asyncio.gather(*(shouting.call(context(), str(i)) for i in range(12)))
    assert [len(call) for call in deployment.calls] == [3, 3, 3, 3]
    assert len({int(lane) % 4 for lane in deployment.lanes}) == 4


async def test_a_free_lane_leaves_the_others_their_share() -> None:
    """Else one lane stays long for ever, as its callers come back together, and another short."""
    begun, again, released = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def first_is_slow(texts: list[str]) -> list[str]:
        if texts == ["first"]:
            begun.set()
            await released.wait()
        again.set()
        return await at_once(texts)

    deployment = Deployment(first_is_slow)
    shouting = together(deployment, lanes=2, items=32)
    first = asyncio.create_task(shouting.call(context(), "first"))
    await begun.wait()
    others = [asyncio.create_task(shouting.call(context(), str(i))) for i in range(7)]
    await again.wait()
    assert len(deployment.calls[1]) == 4, "half of all eight"
    released.set()
    await asyncio.gather(first, *others)


@pytest.mark.parametrize(("lanes", "callers"), [(3, 20), (12, 3)])
async def test_calls_under_way_lead_to_different_replicas(lanes: int, callers: int) -> None:
    """Three replicas: as many lanes as them, and more lanes than calls are ever under way."""
    under_way: set[int] = set()

    async def slowly(texts: list[str]) -> list[str]:
        replica = int(deployment.lanes[-1]) % 3
        assert replica not in under_way
        under_way.add(replica)
        for _ in range(len(texts[-1])):  # so that they end out of order
            await asyncio.sleep(0)
        under_way.remove(replica)
        return await at_once(texts)

    deployment = Deployment(slowly)
    shouting = together(deployment, lanes=lanes, items=4)

    async def caller(number: int) -> None:
        for turn in range(40):
            word = "a" * ((number + turn) % 7 + 1)
            assert await shouting.call(context(), word) == word.upper()

    await asyncio.gather(*(caller(number) for number in range(callers)))
    assert len(deployment.lanes) > 40


async def test_a_single_query_does_not_wait_for_company() -> None:
    deployment = Deployment(at_once)
    assert await together(deployment).call(context(), "alone") == "ALONE"
    assert deployment.calls == [["alone"]]


async def test_a_failed_call_fails_those_on_it_and_nobody_after() -> None:
    async def fails_once(texts: list[str]) -> list[str]:
        if len(deployment.calls) == 1:
            raise RuntimeError("broken")
        return await at_once(texts)

    deployment = Deployment(fails_once)
    shouting = together(deployment, lanes=1)
    failed = await asyncio.gather(
        *(shouting.call(context(), word) for word in "ab"), return_exceptions=True
    )
    assert [type(error) for error in failed] == [InternalError, InternalError]
    assert await shouting.call(context(), "c") == "C"


async def test_who_gives_up_disturbs_nobody() -> None:
    released = asyncio.Event()

    async def slow(texts: list[str]) -> list[str]:
        await released.wait()
        return await at_once(texts)

    deployment = Deployment(slow)
    shouting = together(deployment, lanes=1)
    patient = asyncio.create_task(shouting.call(context(), "patient"))
    with pytest.raises(DeadlineExceeded):
        await shouting.call(context(0.05), "hurried")
    gone = asyncio.create_task(shouting.call(context(), "gone"))
    await asyncio.sleep(0)
    gone.cancel()
    late = asyncio.create_task(shouting.call(context(), "late"))
    await asyncio.sleep(0)
    released.set()
    assert (await patient, await late) == ("PATIENT", "LATE")
    assert "gone" not in [text for call in deployment.calls for text in call]


async def test_a_call_for_many_is_made_in_nobodys_name() -> None:
    async def whose(texts: list[str]) -> list[str]:
        return [_asking.get("nobody") for _ in texts]

    async def caller(name: str) -> str:
        _asking.set(name)
        answer: str = await shouting.call(context(), "whose?")
        return answer

    shouting = together(Deployment(whose), lanes=1)
    assert set(await asyncio.gather(*(caller(name) for name in "abcd"))) == {"nobody"}


async def test_errors_are_ours() -> None:
    async def lost(_: list[str]) -> list[str]:
        raise TimeoutError

    with pytest.raises(TriviumError):
        await together(Deployment(lost)).call(context(), "x")

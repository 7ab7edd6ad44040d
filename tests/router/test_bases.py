"""What a replica of the router holds of tenants' knowledge bases."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import numpy as np

from serve_app.errors import Unavailable
from serve_app.router.bases import Bases, Key
from serve_app.router.coverage import AXES, Coverage
from serve_app.router.encoder import Encoder
from serve_app.router.heads import SHIPPED, Heads
from serve_app.router.semantic import SemanticRouter
from serve_app.router.turns import Turns
from serve_app.settings import Settings
from serve_app.sketches import Sketch, VectorModel

COVERAGE = Coverage.load()


def sketch(text: str, model: str = COVERAGE.version) -> bytes:
    vectors = VectorModel(model, lambda texts: np.full((len(texts), AXES), 0.1, np.float32))
    return Sketch.empty().with_texts([("document", [text])], vectors).to_bytes()


class Source:
    """Sketches by collection and tenant, with their versions."""

    def __init__(self, **texts: str) -> None:
        self.held: dict[Key, tuple[int, bytes | None]] = {
            ("docs", tenant): (1, sketch(text)) for tenant, text in texts.items()
        }
        self.changes: dict[Key, int] = {}
        self.away = False
        self.asked: list[Key] = []
        self.asked_again = asyncio.Event()  # for the first of two changes

    async def sketches(
        self, collection: str, tenants: Collection[str]
    ) -> Mapping[str, tuple[int, bytes | None]]:
        self.asked += [(collection, tenant) for tenant in tenants]
        if self.changes and self.asked.count(next(iter(self.changes))) > 1:
            self.asked_again.set()
        if self.away:
            raise Unavailable("away")
        return {tenant: self.held.get((collection, tenant), (0, None)) for tenant in tenants}

    async def changed(self, since: float) -> tuple[float, Mapping[Key, int]]:
        return 0.0, self.changes


async def until(held: Bases, key: Key, version: int) -> None:
    while key not in held or held[key].version != version:
        await held.ready([key])
        await asyncio.sleep(0.01)


async def test_a_base_is_known_from_its_first_question_on_and_follows_its_changes() -> None:
    source = Source(red="boots and tents")
    held = Bases(source, COVERAGE, 1 << 20)
    key = ("docs", "red")
    await until(held, key, 1)
    assert held[key].sketch.texts == 1
    following = asyncio.create_task(held.follow())
    source.held[key] = (2, None)
    source.changes = {key: 2}
    await asyncio.wait_for(until(held, key, 2), 10)
    assert held[key].sketch.texts == 0, "what was deleted draws no question any more"
    following.cancel()


async def test_a_change_is_fetched_once_and_one_by_another_model_not_taken() -> None:
    source = Source(red="boots", blue="tents")
    held = Bases(source, COVERAGE, 1 << 20)
    red, blue = ("docs", "red"), ("docs", "blue")
    for key in (red, blue):
        await until(held, key, 1)
    source.held[red] = (2, sketch("canvas", "another"))
    source.held[blue] = (2, sketch("canvas"))
    source.changes = {red: 2, blue: 2}
    source.asked.clear()
    following = asyncio.create_task(held.follow())
    await asyncio.wait_for(source.asked_again.wait(), 10)
    following.cancel()
    assert held[red].version == 1, "what was known stays in force"
    assert held[blue].version == 2
    assert source.asked.count(blue) == 1


async def test_a_tenant_without_a_base_is_known_to_have_none() -> None:
    source = Source()
    held = Bases(source, COVERAGE, 1 << 20)
    await until(held, ("docs", "blue"), 0)
    assert held["docs", "blue"].sketch.texts == 0


async def test_while_the_retriever_is_away_nothing_is_known_and_nobody_asks_it_all_the_time() -> (
    None
):
    source = Source(red="boots")
    source.away = True
    held = Bases(source, COVERAGE, 1 << 20)
    for _ in range(50):
        await held.ready([("docs", "red")])
    assert ("docs", "red") not in held
    assert len(source.asked) <= 2


async def test_ten_thousand_tenants_take_bounded_memory() -> None:
    source = Source()
    held = Bases(source, COVERAGE, 1 << 20)
    for first in range(0, 10_000, 100):
        some = [("docs", f"tenant {first + number}") for number in range(100)]
        while not all(key in held for key in some):
            await held.ready(some)
    assert held.size <= 1 << 20
    assert ("docs", "tenant 9999") in held, "who asked last is known"
    assert ("docs", "tenant 0") not in held
    assert len(held) > 500


def test_a_router_takes_over_bases_that_are_not_there_yet(encoder: Encoder) -> None:
    held = Bases(Source(), COVERAGE, 1 << 20)
    router = SemanticRouter.of(Settings(), encoder, Heads.load(SHIPPED), COVERAGE, held)
    assert router.bases is held
    (made,) = router.decide([Turns("What is our return window?", collection="docs")], ["red"])
    assert made.coverage is None
    assert made.versions["sketch"] == "none"

"""Which version serves: promotions are taken over, broken ones are not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serve_app.domain import Release
from serve_app.errors import (
    AdapterUnusable,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    Unavailable,
)
from serve_app.expert import serving
from serve_app.expert.adapters import Registry
from serve_app.expert.serving import Adapter, Adapters
from tests.expert.releases import release


class Expert:
    """Prepares what it is given, unless told not to."""

    def __init__(self) -> None:
        self.asked: list[Release] = []
        self.errors: dict[Release, Exception] = {}

    async def prepare(self, adapter: Adapter) -> None:
        self.asked.append(adapter.release)
        if error := self.errors.get(adapter.release):
            raise error


class World:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.registry = Registry(str(root))
        self.expert = Expert()
        self.adapters = Adapters(self.registry, self.expert.prepare, poll_s=0.01)

    def add(self, version: int, name: str = "house", contract: str | None = None) -> None:
        release(self.root, name, version, contract=contract)

    async def promote(self, version: int) -> None:
        self.registry.promote("house", version, tolerance=1.0)
        await self.adapters.refresh()

    def serves(self) -> int | None:
        found = self.adapters.current("house")
        return found.release.version if found else None


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "registry")
    for version in (1, 2, 3):
        made.add(version)
    return made


async def test_promotion_and_rollback_are_followed_once_the_expert_has_answered(
    world: World,
) -> None:
    await world.adapters.refresh()
    assert world.serves() is None
    for version in (1, 2):
        await world.promote(version)
        assert world.serves() == version
    world.registry.rollback("house")
    await world.adapters.refresh()
    assert world.serves() == 1
    await world.adapters.refresh()
    assert world.expert.asked == [Release("house", 1), Release("house", 2), Release("house", 1)]


@pytest.mark.parametrize(
    "error", [AdapterUnusable("weights are damaged"), InvalidRequest("no such grammar")]
)
async def test_release_that_cannot_answer_leaves_the_old_one_in_service_and_says_so(
    world: World, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    await world.promote(1)
    world.expert.errors[Release("house", 2)] = error
    await world.promote(2)
    await world.adapters.refresh()
    assert world.serves() == 1
    assert world.expert.asked.count(Release("house", 2)) == 1
    (listed,) = world.adapters.catalogue()
    assert listed["version"] == 1
    assert listed["refused"]["version"] == 2
    assert str(error) in listed["refused"]["reason"]
    assert "house@1 stays in service" in caplog.text
    world.registry.rollback("house")
    await world.adapters.refresh()
    assert world.adapters.catalogue() == [{"name": "house", "version": 1, "refused": None}]


async def test_first_promotion_that_is_taken_back_leaves_the_base(world: World) -> None:
    await world.promote(1)
    world.registry.rollback("house")
    await world.adapters.refresh()
    assert (world.serves(), world.adapters.catalogue()) == (None, [])
    with pytest.raises(ModelNotFound):
        await world.adapters.find("house", None)
    await world.promote(2)
    assert world.serves() == 2


async def test_bad_contract_is_refused(world: World) -> None:
    await world.promote(1)
    world.add(4, contract="kind: poem\n")
    await world.promote(4)
    assert world.serves() == 1
    assert "house@4/contract.yaml" in world.adapters.catalogue()[0]["refused"]["reason"]


async def test_gateway_that_starts_on_a_broken_release_serves_the_one_before(world: World) -> None:
    for version in (1, 2, 3):
        world.registry.promote("house", version, tolerance=1.0)
    world.expert.errors[Release("house", 3)] = AdapterUnusable("damaged")
    await world.adapters.refresh()
    assert world.serves() == 2
    assert world.adapters.catalogue()[0]["refused"]["version"] == 3


async def test_what_was_refused_is_tried_again_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.promote(1)
    world.expert.errors[Release("house", 2)] = AdapterUnusable("the store is half copied")
    await world.promote(2)
    world.expert.errors.clear()
    monkeypatch.setattr(serving, "_TRY_AGAIN_S", 0.0)
    await world.adapters.refresh()
    assert world.serves() == 2
    assert world.adapters.catalogue()[0]["refused"] is None


async def test_expert_that_is_full_is_asked_again_at_the_next_look(world: World) -> None:
    world.expert.errors[Release("house", 1)] = Overloaded("full")
    await world.promote(1)
    assert (world.serves(), world.adapters.catalogue()) == (None, [])
    world.expert.errors.clear()
    await world.adapters.refresh()
    assert world.serves() == 1


async def test_pinned_version_is_found_whether_or_not_it_was_promoted(world: World) -> None:
    await world.promote(1)
    found = await world.adapters.find("house", 3)
    assert found.release == Release("house", 3)
    assert (await world.adapters.find("house", None)).release == Release("house", 1)


@pytest.mark.parametrize(
    ("name", "version"), [("hous", None), ("house", 9), ("../house", 1), ("nobody", 1), ("", None)]
)
async def test_unknown_adapter_is_not_found_and_those_that_exist_are_listed(
    world: World, name: str, version: int | None
) -> None:
    await world.promote(1)
    with pytest.raises(ModelNotFound, match="there are: trivium/expert:house"):
        await world.adapters.find(name, version)


async def test_adapter_that_was_only_ever_refused_says_so(world: World) -> None:
    world.expert.errors[Release("house", 1)] = AdapterUnusable("damaged")
    await world.promote(1)
    with pytest.raises(AdapterUnusable, match="version 1 is refused"):
        await world.adapters.find("house", None)


async def test_registry_that_cannot_be_read_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.promote(1)
    looked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def gone() -> dict[str, list[int]]:
        loop.call_soon_threadsafe(looked.set)
        raise OSError("no route to host")

    with monkeypatch.context() as broken:
        broken.setattr(world.registry, "serving", gone)
        watching = asyncio.create_task(world.adapters.watch())
        await asyncio.wait_for(looked.wait(), 5)
        assert world.serves() == 1
    world.registry.promote("house", 2, tolerance=1.0)
    async with asyncio.timeout(5):
        while world.serves() != 2:  # noqa: ASYNC110 - nobody tells that it has looked
            await asyncio.sleep(0.01)
    watching.cancel()


async def test_before_the_registry_was_ever_read_nothing_is_said_not_to_exist(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> dict[str, list[int]]:
        raise OSError("no route to host")

    monkeypatch.setattr(world.registry, "serving", gone)
    watching = asyncio.create_task(world.adapters.watch())
    async with asyncio.timeout(5):
        while not world.adapters.tried:  # noqa: ASYNC110 - nobody tells that it has looked
            await asyncio.sleep(0.01)
    with pytest.raises(Unavailable, match="not known yet"):
        await world.adapters.find("house", None)
    watching.cancel()


async def test_damaged_record_of_one_name_leaves_it_in_service_and_others_alone(
    world: World,
) -> None:
    await world.promote(1)
    world.add(1, name="other")
    world.registry.promote("other", 1, tolerance=1.0)
    (world.root / "house" / "current.json").write_text("{")
    await world.adapters.refresh()
    assert world.serves() == 1
    assert world.adapters.current("other") is not None


async def test_without_a_registry_there_are_no_adapters() -> None:
    adapters = Adapters(None, Expert().prepare)
    assert adapters.tried
    for version in (None, 1):
        with pytest.raises(ModelNotFound, match="there are: none"):
            await adapters.find("house", version)

"""Each profile's registry of adapters on a real S3 server, and what serves without one."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.domain import Release
from serve_app.errors import AdapterUnusable, Unavailable
from serve_app.expert.adapters import Registry
from serve_app.expert.loading import Shelf
from serve_app.expert.serving import Adapter, Adapters
from tests.conftest import ROOT
from tests.expert.releases import release
from tests.s3 import S3

HOUSE = Release("house", 1)
PROFILES = [
    "configs/gpu.yaml",
    "configs/production.yaml",
    "helm/trivium/values-gpu.yaml",
    "helm/trivium/values-production.yaml",
]


def adapters_of(profile: str) -> str:
    values: dict[str, Any] = yaml.safe_load((ROOT / profile).read_text(encoding="utf-8"))
    found: str = values.get("settings", values)["expert"]["adapters"]
    return found


def put(registry: Registry, folder: Path, version: int = 1) -> None:
    """A release, promoted."""
    release(folder, "house", version, contract="kind: regex\npattern: .+\n")
    registry.put(folder / "house", "house")
    registry.promote("house", version, tolerance=1.0)


@pytest.mark.parametrize("profile", PROFILES)
def test_registry_of_each_profile_serves_from_s3(
    profile: str,
    s3: S3,
    tmp_path: Path,
) -> None:
    url = adapters_of(profile)
    s3.bucket(url.removeprefix("s3://").partition("/")[0])
    registry = Registry(f"{url}/{profile}")
    assert (registry.names(), registry.serving()) == ([], {})
    put(registry, tmp_path / "local")
    assert registry.serving() == {"house": [1]}
    assert registry.contract("house", 1) == ("contract.yaml", b"kind: regex\npattern: .+\n")
    taken = Shelf(registry, tmp_path / "cache", None, 16).take(HOUSE)
    kept = (tmp_path / "local/house/1/adapter_model.safetensors").read_bytes()
    assert (taken / "adapter_model.safetensors").read_bytes() == kept
    assert registry.rollback("house")["to"] is None


async def test_base_serves_and_says_so_until_the_registry_is_there(
    s3: S3,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[Release] = []

    async def prepare(adapter: Adapter) -> None:
        asked.append(adapter.release)

    registry = Registry("s3://later/adapters")
    adapters = Adapters(registry, prepare, poll_s=0.01)
    caplog.set_level(logging.WARNING)
    watching = asyncio.create_task(adapters.watch())
    async with asyncio.timeout(30):
        await adapters.tried.wait()
        assert adapters.current("house") is None
        assert "there is no bucket later" in (adapters.trouble or "")
        with pytest.raises(Unavailable, match="not known yet"):
            await adapters.find("house", None)
        s3.bucket("later")
        await asyncio.to_thread(put, registry, tmp_path)
        while adapters.current("house") is None or adapters.trouble:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    watching.cancel()
    assert asked == [HOUSE]
    told = [each.message for each in caplog.records if "the base alone serves" in each.message]
    assert len(told) == 1


def test_copy_that_is_here_serves_while_its_store_is_away(
    s3: S3,
    tmp_path: Path,
) -> None:
    s3.bucket("there")
    registry = Registry("s3://there/adapters")
    put(registry, tmp_path / "local")
    cache = tmp_path / "cache"
    taken = Shelf(registry, cache, None, 16).take(HOUSE)
    away = Shelf(Registry("s3://gone/adapters"), cache, None, 16)
    assert away.take(HOUSE) == taken
    with pytest.raises(AdapterUnusable, match="there is no bucket gone"):
        away.take(Release("house", 2))

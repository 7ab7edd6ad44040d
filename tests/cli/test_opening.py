"""Who may use the stack that `trivium up` starts, and what it says of it before anything starts."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.cli import local, opening, stack
from serve_app.errors import SettingsError
from serve_app.gateway.access import Keyring
from serve_app.ledger.database import Database
from serve_app.ledger.keys import Keys
from serve_app.settings import Settings, from_args
from tests.cli.conftest import Run, Serve
from tests.fixtures import House, ledger_file

pytestmark = pytest.mark.usefixtures("clean_environment")


def settings(**gateway: Any) -> Settings:
    """Of a house in whose ledger there is no key yet."""
    return from_args({"gateway": gateway, "ledger": {"database": str(ledger_file())}})


def with_a_key(asked: Settings) -> Settings:
    async def make() -> None:
        keys = Keys(Database(asked.ledger.database))
        key, _ = await keys.create("ann", "default", ["chat"])
        await keys.revoke(key.id)
        await keys.close()

    asyncio.run(make())
    return asked


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_stack_that_only_this_machine_reaches_is_open_while_there_is_no_key(host: str) -> None:
    assert opening.opened(settings(host=host)).gateway.open


def test_from_the_first_key_on_it_is_not_open_even_if_that_was_revoked() -> None:
    assert not opening.opened(with_a_key(settings())).gateway.open


def test_who_says_that_it_is_closed_has_it_closed() -> None:
    assert not opening.opened(settings(open=False)).gateway.open


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::"])
def test_a_stack_that_others_reach_does_not_start_without_a_key(
    run: Run, tmp_path: Path, host: str
) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text(f"state_dir: {tmp_path}\ngateway: {{host: '{host}'}}\n")
    refused = run("up", "--config", str(config))
    assert refused.code == 2
    for remedy in (host, "trivium keys create", "gateway.open"):
        assert remedy in refused.err
    assert opening.opened(settings(host=host, open=True)).gateway.open
    assert not opening.opened(with_a_key(settings(host=host))).gateway.open


async def test_the_demo_comes_into_a_house_with_keys_and_may_only_ingest(serve: Serve) -> None:
    listed = {"name": "ann", "sha256": "0" * 64}
    closed, secret = opening.with_demo_key(settings(api_keys=[listed]))
    assert [key.name for key in closed.gateway.api_keys] == ["ann", "demo"]
    assert secret not in repr(closed.to_args())
    house = House(gateway=closed.gateway.model_dump(mode="json"))
    url, key = serve(house), {"authorization": f"Bearer {secret}"}
    path = "/v1/collections/default/documents"
    body = {"documents": [{"id": "a", "text": "x"}]}
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.put(path, json=body)).status_code == 401
        assert (await client.put(path, json=body, headers=key)).status_code == 200
        assert (await client.get(f"{path}/a", headers=key)).status_code == 403
        assert (await client.get("/v1/usage", headers=key)).status_code == 403
    assert house.knowledge.tenants == ["default"]


def test_the_live_feed_sends_its_own_key_not_the_users(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, secret = opening.with_demo_key(settings())
    house = House(gateway={**closed.gateway.model_dump(mode="json"), "open": False})
    monkeypatch.setenv("TRIVIUM_API_KEY", "may-chat-only")
    with local.feed(serve(house), "default", secret):
        assert any(each.id == "live-revenue-15m" for each in house.knowledge.ingested)


def test_the_banner_says_whether_a_key_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    stack._announce("http://127.0.0.1:8000", False, is_open=True)
    assert "needs no API key" in capsys.readouterr().out
    stack._announce("http://127.0.0.1:8000", False, is_open=False)
    assert re.search(r"need an API key.*trivium keys create", capsys.readouterr().out)


def test_a_keyless_gateway_by_other_ways_than_trivium_up_is_closed() -> None:
    # `serve run`, a RayService: nobody sets `open` for them.
    gateway = from_args({}).gateway
    assert not gateway.open
    keyring = Keyring(gateway.api_keys, Keys(Database(str(ledger_file()))), is_open=gateway.open)
    with pytest.raises(Exception, match="send an API key"):
        asyncio.run(keyring.principal(None))


def test_a_database_that_is_away_is_no_open_house() -> None:
    away = {"ledger": {"database": "postgresql://nobody@127.0.0.1:1/none"}}
    with pytest.raises(SettingsError, match=r"ledger\.database"):
        opening.opened(from_args(away))

"""Who may use a stack of this machine: everybody here, or who has a key, and the demo."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from serve_app.cli.ledgers import with_settings
from serve_app.errors import SettingsError
from serve_app.ledger.database import Database
from serve_app.ledger.keys import Keys, digest
from serve_app.settings import ApiKey, GatewaySettings, Settings

_DEMO = "demo"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def opened(settings: Settings) -> Settings:
    """The same, open where there is no key yet and nobody but this machine reaches the gateway.

    Raises:
        SettingsError: There is no key, and others reach it: they could do nothing.
    """
    gateway = settings.gateway
    if gateway.open or gateway.api_keys or with_settings(settings, _has_keys):
        return settings
    if gateway.host not in _LOOPBACK:
        raise SettingsError(
            f"gateway.host is {gateway.host}, which other machines reach, and there is no API key: "
            "make one (trivium keys create NAME), or set gateway.open to let everybody in"
        )
    if "open" in gateway.model_fields_set:
        return settings
    return _with(settings, gateway.model_copy(update={"open": True}))


def as_running(settings: Settings, running: Mapping[str, Any]) -> Settings:
    """The same, as open as the running stack is, and with its demo's key.

    Args:
        running: The running gateway's own section, as plain data.
    """
    gateway = settings.gateway
    update: dict[str, Any] = {}
    if "open" not in gateway.model_fields_set:
        update["open"] = running.get("open", False)
    demo = [each for each in running.get("api_keys", ()) if each["name"] == _DEMO]
    update["api_keys"] = (*gateway.api_keys, *map(ApiKey.model_validate, demo))
    return _with(settings, gateway.model_copy(update=update))


def with_demo_key(settings: Settings) -> tuple[Settings, str]:
    """The same with one more key, and that key: the demo's way in, whoever else has one.

    It lives as long as the stack: only its digest is in the settings, and in no file.
    """
    secret = secrets.token_urlsafe(32)
    key = ApiKey(name=_DEMO, sha256=digest(secret), scopes=frozenset({"ingest"}))
    keys = (*settings.gateway.api_keys, key)
    return _with(settings, settings.gateway.model_copy(update={"api_keys": keys})), secret


def _with(settings: Settings, gateway: GatewaySettings) -> Settings:
    return settings.model_copy(update={"gateway": gateway})


async def _has_keys(database: Database) -> bool:
    # One that was revoked counts: who made keys once does not mean the house to be open.
    return bool(await Keys(database).all())

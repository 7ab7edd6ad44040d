"""Who may use a stack of this machine: everybody here, or who has a key, and the demo."""

from __future__ import annotations

import secrets

from serve_app.cli.ledgers import with_settings
from serve_app.errors import SettingsError
from serve_app.ledger.database import Database
from serve_app.ledger.keys import Keys, digest
from serve_app.settings import ApiKey, GatewaySettings, Settings

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


def with_demo_key(settings: Settings) -> tuple[Settings, str]:
    """The same with one more key, and that key: the demo's way in, whoever else has one.

    It lives as long as the stack: only its digest is in the settings, and in no file.
    """
    secret = secrets.token_urlsafe(32)
    key = ApiKey(name="demo", sha256=digest(secret), scopes=frozenset({"ingest"}))
    keys = (*settings.gateway.api_keys, key)
    return _with(settings, settings.gateway.model_copy(update={"api_keys": keys})), secret


def _with(settings: Settings, gateway: GatewaySettings) -> Settings:
    return settings.model_copy(update={"gateway": gateway})


async def _has_keys(database: Database) -> bool:
    # One that was revoked counts: who made keys once does not mean the house to be open.
    return bool(await Keys(database).all())

"""What the running stack says of an adapter that was promoted or rolled back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from serve_app.cli.client import Client, Refused
from serve_app.cli.console import errors
from serve_app.errors import Unavailable

_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of one gateway; the others look at the registry as often.

    Attributes:
        served: None where nobody could be asked.
        reason: Why not; empty when it is served.
    """

    served: bool | None
    reason: str = ""


def wait_until_served(
    url: str, api_key: str | None, name: str, version: int | None, wait_s: float
) -> Verdict:
    """Ask until the stack serves the version, refuses it, or the time is over.

    Args:
        version: None where no version of the name shall serve.
        wait_s: 0: nobody is asked.
    """
    if wait_s <= 0:
        return Verdict(None, "no stack was asked (--wait 0)")
    end = time.monotonic() + wait_s
    with (
        Client(url, api_key, timeout_s=max(5.0, wait_s)) as client,
        errors.status(f"waiting for {url} to take it over"),
    ):
        while True:
            try:
                listed = client.request("GET", "/v1/models")["data"]
            except Unavailable:
                return Verdict(None, f"no stack answers at {url} (another one: --url)")
            except Refused as error:
                return Verdict(None, f"{url} does not say: {error.message}")
            if verdict := _verdict(listed, name, version):
                return verdict
            if time.monotonic() >= end:
                return Verdict(
                    False,
                    f"{url} has not taken it over within {wait_s:g} s; it reads its own "
                    "expert.adapters, and only where expert.lora.enabled is true",
                )
            time.sleep(_POLL_S)


def _verdict(listed: list[dict[str, Any]], name: str, version: int | None) -> Verdict | None:
    """What a list of models says; None where it says nothing yet."""
    entry = next((each for each in listed if each["id"] == f"trivium/expert:{name}"), {})
    refused = entry.get("refused") or {}
    if version is None:
        return None if entry.get("root") or refused else Verdict(True)
    if entry.get("root") == f"trivium/expert:{name}@{version}":
        return Verdict(True)
    if refused.get("version") == version:
        stays = entry.get("root") or "nothing of that name"
        return Verdict(False, f"refused by the stack, which serves {stays}: {refused['reason']}")
    return None

"""Heads come from a path or a URL, and are those that were meant."""

from __future__ import annotations

import hashlib

import fsspec
import pytest

from serve_app.errors import SettingsError
from serve_app.router.fetching import digest_of, fetch
from serve_app.router.heads import SHIPPED, Heads


def test_heads_come_from_a_url_if_they_are_the_ones_that_were_meant() -> None:
    place = "memory://models/heads.safetensors"
    with fsspec.open(place, "wb") as file:
        file.write(SHIPPED.read_bytes())
    digest = hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert digest_of(place) == digest_of(str(SHIPPED)) == digest
    assert fetch(place, digest).intents == Heads.load(SHIPPED).intents
    with pytest.raises(SettingsError, match=f"heads_sha256 says: {digest}"):
        fetch(place, "0" * 64)


@pytest.mark.parametrize("place", ["/none/heads", "memory://none", "nonsense://heads"])
def test_heads_that_are_not_there_are_said_by_name(place: str) -> None:
    with pytest.raises(SettingsError, match=f"{place}: router heads cannot be read"):
        fetch(place)

"""Heads from wherever the settings say they are."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from serve_app.errors import SettingsError
from serve_app.router.heads import Heads


def digest_of(place: str) -> str:
    """SHA-256 of a file of heads, in hex. Blocking.

    Raises:
        SettingsError: It cannot be read.
    """
    return hashlib.sha256(_bytes(place)).hexdigest()


def fetch(place: str, sha256: str | None = None) -> Heads:
    """The heads in a file. Blocking.

    Args:
        place: A path, or an fsspec URL.
        sha256: Of the file that is meant, in hex.

    Raises:
        SettingsError: They cannot be read, or are others.
    """
    content = _bytes(place)
    if sha256 and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise SettingsError(
            f"{place}: router heads are others than router.heads_sha256 says: {found}"
        )
    if "://" not in place:
        return Heads.load(Path(place))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "heads.safetensors"
        copy.write_bytes(content)
        return Heads.load(copy)


def _bytes(place: str) -> bytes:
    import fsspec

    try:
        with fsspec.open(place, "rb") as file:
            content: bytes = file.read()
            return content
    except Exception as error:  # each of fsspec's file systems raises errors of its own
        raise SettingsError(f"{place}: router heads cannot be read ({error})") from None

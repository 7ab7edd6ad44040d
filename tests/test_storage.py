"""Stores that cannot be used say why, within their deadline."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve_app.errors import SettingsError, Unavailable
from serve_app.storage import Store
from tests.s3 import S3


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


BAD: dict[str, tuple[dict[str, str | None], str, str]] = {
    "a wrong secret": (
        {"AWS_SECRET_ACCESS_KEY": "wrong"},
        "there",
        "refuses access: check the credentials",
    ),
    "a wrong key": (
        {"AWS_ACCESS_KEY_ID": "AKIA"},
        "there",
        "refuses access: check the credentials",
    ),
    "no credentials": (
        {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
        "there",
        "Unable to locate credentials",
    ),
    "no such bucket": ({}, "elsewhere", "there is no bucket elsewhere"),
}


@pytest.mark.parametrize(("changed", "bucket", "reason"), BAD.values(), ids=BAD)
def test_store_that_cannot_be_used_says_why(
    s3: S3,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str | None],
    bucket: str,
    reason: str,
) -> None:
    s3.bucket("there")
    for name, value in changed.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    for use in (Store.folders, _read, _write):
        with pytest.raises(Unavailable, match=reason) as caught:
            use(Store(f"s3://{bucket}/adapters"))
        assert s3.secret not in str(caught.value)
        assert "\n" not in str(caught.value)


def _read(store: Store) -> bytes:
    return store.read("house/current.json")


def _write(store: Store) -> None:
    store.write("house/current.json", b"{}")


def test_server_that_never_answers_is_given_up_in_time(
    s3: S3,
    silent: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent)
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"did not answer within 0\.5 s: check the network"):
        Store("s3://there/adapters", call_s=0.5).folders()
    assert time.monotonic() - started < 5


def test_kind_of_store_that_nobody_knows_is_a_mistake_in_the_settings() -> None:
    with pytest.raises(SettingsError, match="s4://bucket/adapters: fsspec cannot open it"):
        Store("s4://bucket/adapters")


@pytest.mark.parametrize("kind", ["s3://", "gs://", "abfs://"])
def test_every_object_store_is_known_and_none_is_reached_before_it_is_used(kind: str) -> None:
    Store(f"{kind}bucket/adapters")


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_files_are_written_read_and_removed(
    place: str,
    s3: S3,
    tmp_path: Path,
) -> None:
    s3.bucket("there")
    store = Store(str(tmp_path) if place == "folder" else "s3://there/files")
    assert store.folders() == []
    store.write("house/1/a", b"old")
    store.write("house/1/a", b"new")
    (tmp_path / "local").write_bytes(b"much")
    store.upload(tmp_path / "local", "house/2/deep/b")
    assert (store.folders(), store.folders("house")) == (["house"], ["1", "2"])
    assert store.read("house/1/a") == b"new"
    assert (store.exists("house/2/deep/b"), store.exists("house/1/b")) == (True, False)
    store.download("house/2/deep/b", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"much"
    missing: Callable[[], object]
    for missing in (lambda: store.read("no"), lambda: store.download("no", tmp_path / "no")):
        with pytest.raises(FileNotFoundError):
            missing()
    store.remove("house")
    assert store.folders() == []

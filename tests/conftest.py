"""Fixtures that several modules share."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

from serve_app import models
from serve_app.router.encoder import Encoder
from serve_app.settings import Settings

ROOT = Path(__file__).parent.parent

# How long an example takes says nothing on a machine that others use too.
hypothesis.settings.register_profile("trivium", deadline=None)
hypothesis.settings.load_profile("trivium")


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine reaches the settings."""
    for name in os.environ:
        if name.startswith(("TRIVIUM_", "OTEL_")) or name.endswith("_API_KEY"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """The router's real encoder: the checkout's, if it was prepared; else made for this run."""
    folder = models.router_encoder(Settings().resolved(ROOT))
    if not folder.is_dir():
        settings = Settings(state_dir=tmp_path_factory.mktemp("state"))
        models.prepare(settings, "router encoder")
        folder = models.router_encoder(settings)
    return Encoder(folder, max_tokens=128, threads=1)

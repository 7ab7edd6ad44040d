from __future__ import annotations

import json
import random
import runpy
from datetime import UTC, datetime
from pathlib import Path

import pytest

from serve_app.cli.bases import of_files
from serve_app.router.coverage import Coverage
from serve_app.router.encoder import Encoder
from serve_app.router.heads import SHIPPED, Heads
from serve_app.router.semantic import SemanticRouter
from serve_app.settings import Settings
from tests.conftest import ROOT


@pytest.fixture(scope="session")
def router(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> SemanticRouter:
    """The router as it ships, beside the demo's handbook and live figures."""
    coverage = Coverage.load()
    feed = runpy.run_path(str(ROOT / "configs" / "demo" / "live_feed.py"))
    live = tmp_path_factory.mktemp("live") / "live.jsonl"
    shop = feed["Shop"](random.Random(1), datetime(2026, 11, 30, 12, tzinfo=UTC))
    live.write_text("\n".join(map(json.dumps, feed["documents"](shop))), encoding="utf-8")
    sources = [str(ROOT / "configs" / "demo" / "handbook"), str(live)]
    bases = {("", "default"): of_files(sources, 160, encoder, coverage)}
    return SemanticRouter.of(Settings(), encoder, Heads.load(SHIPPED), coverage, bases)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"

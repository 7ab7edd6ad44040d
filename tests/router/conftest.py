from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.router.encoder import Encoder
from serve_app.router.heads import SHIPPED, Heads
from serve_app.router.policy import DEFAULT, load_policy
from serve_app.router.semantic import SemanticRouter


@pytest.fixture(scope="session")
def router(encoder: Encoder) -> SemanticRouter:
    """The router as it ships."""
    return SemanticRouter(encoder, Heads.load(SHIPPED), load_policy(DEFAULT))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"

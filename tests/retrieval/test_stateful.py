"""The store against a model of it in memory; `python -m loadtest.store` does the same for long."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest import store


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(300)
def test_nothing_is_lost_garbled_or_resurrected(uri: str, tmp_path: Path) -> None:
    lite = str(tmp_path / "milvus.db")
    registry = str(tmp_path / "registry.db")
    done = store.run(uri if "://" in uri else lite, registry, steps=80, each=20)
    assert done.total() >= 60

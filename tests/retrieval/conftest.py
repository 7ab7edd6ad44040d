"""Both Milvuses: the embedded one, and a real server of 2.3, which has no BM25."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from milvus import MilvusServer

from loadtest import servers
from loadtest.words import Models
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.retriever import Retriever, Rules
from serve_app.retrieval.store import MilvusStore
from tests.retrieval.bases import Base


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    """A Milvus 2.3.5 server, stopped at the end. Started again, it has what it had."""
    folder = tmp_path_factory.mktemp("milvus-server")
    with servers.milvus(folder) as server:
        yield server


@pytest.fixture(scope="module")
def milvus_server(milvus: MilvusServer) -> str:
    return address(milvus)


def address(milvus: MilvusServer) -> str:
    """Where it listens; started again, it may be elsewhere."""
    return f"http://127.0.0.1:{milvus.listen_port}"


@pytest.fixture(scope="module", params=["lite", "server"])
def uri(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "lite":
        return str(tmp_path_factory.mktemp("milvus") / "test.db")
    return str(request.getfixturevalue("milvus_server"))


@pytest.fixture(scope="module")
async def store(uri: str) -> AsyncIterator[MilvusStore]:
    store = MilvusStore(uri, "", timeout_s=120)
    yield store
    await store.close()


@pytest.fixture(scope="module")
async def registry(uri: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Registry]:
    """Of the documents in either Milvus, which is why it depends on it."""
    registry = Registry(str(tmp_path_factory.mktemp("registry") / "registry.db"))
    yield registry
    await registry.close()


@pytest.fixture
def collection(request: pytest.FixtureRequest) -> str:
    """A collection of its own for each test function."""
    return "c-" + hashlib.sha256(request.node.originalname.encode()).hexdigest()[:16]


@pytest.fixture
def base(store: MilvusStore, registry: Registry) -> Base:
    return Base(store, registry)


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def retriever(store: MilvusStore, registry: Registry, models: Models) -> Retriever:
    return Retriever(store, registry, models, chunk_tokens=40, rules=Rules())


def lite_path(folder: Path) -> str:
    return str(folder / "lite.db")

"""Both Milvuses: the embedded one, and a real server of 2.3, which has no BM25."""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from milvus import MilvusServer

from loadtest import servers
from serve_app.retrieval.registry import Registry
from serve_app.retrieval.retriever import Retriever, Rules
from serve_app.retrieval.store import MilvusStore

DIMENSION = 64


class HashedWords:
    """A bag of hashed words, so that texts that share words are near each other."""

    def __init__(self, dimension: int = DIMENSION) -> None:
        self.dimension = dimension
        self.embedded: list[str] = []

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        self.embedded += texts
        return [self._vector(text) for text in texts]

    def count(self, text: str) -> int:
        return len(text.split())

    def _vector(self, text: str) -> list[float]:
        vector = [0.0] * self.dimension
        for word in text.lower().split():
            vector[hashlib.sha256(word.encode()).digest()[0] % self.dimension] += 1.0
        norm = math.sqrt(sum(x * x for x in vector)) or 1.0
        return [x / norm for x in vector]


class Models:
    """One model of each dimension that is asked for by name: `words-64`."""

    def __init__(self, default: str = f"words-{DIMENSION}") -> None:
        self.default = default
        self._made: dict[str, HashedWords] = {}

    def model(self, name: str) -> HashedWords:
        return self._made.setdefault(name, HashedWords(int(name.rpartition("-")[2])))


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
    return "c" + hashlib.sha256(request.node.originalname.encode()).hexdigest()[:16]


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def retriever(store: MilvusStore, registry: Registry, models: Models) -> Retriever:
    return Retriever(store, registry, models, chunk_tokens=40, rules=Rules())


def lite_path(folder: Path) -> str:
    return str(folder / "lite.db")

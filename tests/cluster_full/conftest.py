"""One release at a time: the node has two cores, and each fixture takes what it made away again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest
from pymilvus import MilvusClient

from tests.cluster_full.release import CHART, HERE, ROOT, Namespace, Refused, Release

STORES = "stores"
LOGS = ROOT / "build" / "cluster-logs"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A test that fails keeps what its pods said: they go with its release."""
    report = yield
    if call.excinfo is not None and call.when == "call":
        for each in getattr(item, "funcargs", {}).values():
            if isinstance(each, Release):
                with suppress(Refused):
                    each.keep_logs(LOGS / item.name)
    return report


@pytest.fixture(scope="session")
def stores() -> Iterator[Namespace]:
    """PostgreSQL, Redis and Milvus, ready."""
    namespace = Namespace(STORES)
    namespace.delete()
    namespace.create(restricted=False)
    namespace.kubectl("apply", "-f", str(HERE / "stores.yaml"))
    namespace.kubectl(
        *("wait", "--for=condition=Ready", "pods", "--all", "--timeout=180s"), timeout_s=200
    )
    # Their data lie on the node, as they outlive the pods.
    namespace.kubectl("exec", "redis-0", "--", "redis-cli", "flushall")
    service = json.loads(namespace.kubectl("get", "service", "milvus", "-o", "json"))
    address = f"http://{service['spec']['clusterIP']}:19530"
    with closing(MilvusClient(address, timeout=60)) as milvus:
        for collection in milvus.list_collections():
            for alias in milvus.list_aliases(collection)["aliases"]:
                milvus.drop_alias(alias)
            milvus.drop_collection(collection)
    yield namespace
    namespace.delete()


@pytest.fixture(scope="module")
def kind() -> Iterator[Release]:
    """The kind profile, ready."""
    release = Release("trivium-kind", CHART / "values-kind.yaml", HERE / "kind.yaml")
    yield from installed(release, lambda: release.command("install", *release.values, "--yes"))


@pytest.fixture(scope="module")
def several(stores: Namespace) -> Iterator[Release]:
    """Several pods with Redis, PostgreSQL and Milvus beside them, ready."""
    release = Release("trivium-several", HERE / "several.yaml")
    yield from installed(release, release.apply)


def installed(release: Release, install: Callable[[], object]) -> Iterator[Release]:
    release.create(restricted=True)
    release.uninstall()
    started = time.monotonic()
    install()
    release.wait_ready()
    print(f"\n{release.name}: ready {time.monotonic() - started:.0f} s after the install")
    yield release
    release.uninstall()
    release.delete()

"""The scripts that the chart puts into its pods, against a gateway over plain objects."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from tests.helm.chart import CHART, ROOT, Json
from tests.integration.conftest import free_port


class Gateway:
    """Answers as a gateway does; tests say how."""

    def __init__(self) -> None:
        self.url = ""
        self.degraded: dict[str, str] = {}
        self.down: set[str] = set()
        self.closed = False
        self.keys: set[str | None] = set()
        self.documents: list[Json] = []

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/chat/completions", response_model=None)
        def chat(body: Json, response: Response) -> Json | JSONResponse:
            road = body["model"].removeprefix("trivium/")
            if self.closed:
                return JSONResponse({"error": {"message": "not known"}}, status_code=401)
            if road in self.down:
                return JSONResponse({"error": {"message": "no replica"}}, status_code=503)
            if reason := self.degraded.get(road):
                response.headers["x-trivium-degraded"] = reason
            return {"choices": []}

        @app.get("/v1/collections/{name}/documents")
        def documents(name: str, after: str = "") -> Json:
            """Two to a page."""
            rest = [each for each in self.documents if each["id"] > after]
            page = rest[:2]
            last = page[-1]["id"] if page else None
            return {"data": page, "last_id": last, "has_more": len(rest) > 2}

        return app


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    served = Gateway()
    port = free_port()
    served.url = f"http://127.0.0.1:{port}"
    server = uvicorn.Server(uvicorn.Config(served.app(), port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    yield served
    server.should_exit = True
    thread.join(10)


def run(gateway: Gateway, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHART / "files" / name), *arguments],
        env={**os.environ, "TRIVIUM_URL": gateway.url, "TRIVIUM_API_KEY": "key"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_helm_test_asks_every_road(gateway: Gateway) -> None:
    done = run(gateway, "ask_every_road.py")
    assert done.returncode == 0, done.stderr
    roads = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert roads == ["expert", "knowledge", "frontier"]


def test_a_frontier_without_a_key_is_excused(gateway: Gateway) -> None:
    gateway.degraded = {"frontier": "frontier-not-configured"}
    done = run(gateway, "ask_every_road.py")
    assert done.returncode == 0, done.stderr
    assert "frontier: has no key" in done.stdout


@pytest.mark.parametrize(
    ("road", "reason"),
    [
        ("knowledge", "knowledge-unavailable"),
        ("expert", "expert-timeout"),
        ("frontier", "frontier-refused"),
        ("expert", "frontier-not-configured"),
    ],
)
def test_a_road_that_another_stands_in_for_fails_the_test(
    gateway: Gateway, road: str, reason: str
) -> None:
    gateway.degraded = {road: reason}
    done = run(gateway, "ask_every_road.py")
    assert done.returncode == 1
    assert f"{road}: does not answer by itself: {reason}" in done.stderr


def test_a_road_that_does_not_answer_fails_the_test_by_name(gateway: Gateway) -> None:
    gateway.down = {"knowledge"}
    done = run(gateway, "ask_every_road.py")
    assert done.returncode == 1
    assert "knowledge: HTTP 503" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_key_says_where_it_comes_from(gateway: Gateway) -> None:
    gateway.closed = True
    done = run(gateway, "ask_every_road.py")
    assert done.returncode == 1
    assert "client.apiKeySecret" in done.stderr


def test_a_gateway_that_is_not_there_is_named(gateway: Gateway) -> None:
    gateway.url = f"http://127.0.0.1:{free_port()}"
    done = run(gateway, "ask_every_road.py")
    assert done.returncode == 1
    assert f"{gateway.url} does not answer" in done.stderr


@pytest.mark.parametrize(("age_s", "code"), [(60, 0), (7200, 1)])
def test_the_index_may_be_so_old(gateway: Gateway, age_s: int, code: int) -> None:
    then = datetime.now(UTC) - timedelta(seconds=age_s)
    old = {"id": "b", "as_of": "2020-01-01T00:00:00+00:00"}
    new = {"id": "c", "as_of": then.isoformat()}  # on the second page
    gateway.documents = [{"id": "a", "as_of": None}, old, new]
    done = run(gateway, "index_age.py", "--max-age-s", "3600")
    assert done.returncode == code, done.stderr
    assert ("is the feed running?" in done.stderr) is bool(code)


def test_an_index_without_live_evidence_is_named(gateway: Gateway) -> None:
    done = run(gateway, "index_age.py", "--max-age-s", "3600")
    assert done.returncode == 1
    assert "nothing live was ingested" in done.stderr


def test_prerequisites_are_of_fixed_versions() -> None:
    parts = ["kuberay", "gpu", "cert-manager", "milvus", "monitoring", "gateway"]
    done = prerequisites("--dry-run", *parts)
    assert done.returncode == 0, done.stderr
    commands = done.stdout.splitlines()
    assert len(commands) == 8  # the gateway's are three
    for each in commands:
        assert " --version " in each or "/v" in each, each


def test_a_prerequisite_that_is_none_is_refused() -> None:
    done = prerequisites("kubray")
    assert done.returncode == 2
    assert "there is no kubray: kuberay," in done.stderr


def prerequisites(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "k8s" / "prerequisites.sh")
    return subprocess.run(
        ["bash", script, *arguments], capture_output=True, text=True, timeout=30, check=False
    )

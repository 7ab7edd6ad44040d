"""What the chart ships is what runs: its kind profile, started here as KubeRay would start it.

The paths of the pod become a folder of the test and this checkout. All else is as Helm rendered it:
the init container's command, the environment, Ray's start parameters, and `serveConfigV2`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import psutil
import pytest
import yaml

from serve_app.router.policy import DEFAULT
from tests.helm.chart import CHART, Json, of_profile, one, render
from tests.integration.callers import repeated
from tests.integration.conftest import ROOT, free_ports
from tests.integration.draining import drained, streamed

_READY_S = 420.0
_PORTS = ("port", "ray-client-server-port", "metrics-export-port", "dashboard-agent-listen-port")
_MODELS = ROOT / ".trivium" / "models"
_LOCAL = str(ROOT / "configs" / "local.yaml")


@dataclass(frozen=True, slots=True)
class Pod:
    """The head pod's container, started here."""

    folder: Path
    spec: Mapping[str, Any]
    start: Mapping[str, str]
    token: str

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def here(self, text: str) -> str:
        """A text of the pod, with this machine's paths."""
        return text.replace("/var/lib/trivium", str(self.state)).replace("/opt/trivium", str(ROOT))

    @property
    def environment(self) -> dict[str, str]:
        """The container's variables, the token that the operator adds, and this machine's PATH."""
        given = {e["name"]: self.here(e["value"]) for e in self.spec["containers"][0]["env"]}
        tools = str(Path(sys.executable).parent)
        return {
            **given,
            "HOME": str(self.folder),
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "TRIVIUM_SHIPPED_MODELS": str(_MODELS),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
        }

    def run(self, *command: str) -> None:
        """A command in the container, to its end."""
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


class Here(NamedTuple):
    """The rendered application: where it answers, and where its Ray does."""

    url: str
    dashboard: str
    pod: Pod


@pytest.fixture(scope="module")
def gateway(here: Here) -> str:
    return here.url


@pytest.fixture(scope="module")
def here() -> Iterator[Here]:
    """The rendered application, once it is ready."""
    manifests = render(*of_profile("kind"))
    service = one(manifests, "RayService")["spec"]
    head = service["rayClusterConfig"]["headGroupSpec"]
    # A short path: sockets lie below it.
    folder = Path(tempfile.mkdtemp(prefix="chart-"))
    pod = Pod(folder, head["template"]["spec"], head["rayStartParams"], secrets.token_hex(16))
    pod.state.mkdir()
    # What the image has, as the Dockerfile makes it.
    pod.run("env", f"TRIVIUM_STATE_DIR={_MODELS.parent}", "trivium", "prepare", "--config", _LOCAL)
    serve, dashboard, *others = free_ports(2 + len(_PORTS))
    process = _start_ray(pod, dashboard, others)
    try:
        _deploy(process, pod, dashboard, _config(pod, serve))
        url = f"http://127.0.0.1:{serve}"
        _wait(process, url, pod, dashboard)
        yield Here(url, f"127.0.0.1:{dashboard}", pod)
    finally:
        _stop(process)
        shutil.rmtree(folder, ignore_errors=True)


def _config(pod: Pod, port: int, *more: str) -> Json:
    """What Serve is told, with more of Helm's arguments."""
    service = one(render(*of_profile("kind"), *more), "RayService")["spec"]
    config: Json = yaml.safe_load(pod.here(service["serveConfigV2"]))
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    return config


def _start_ray(pod: Pod, dashboard: int, others: list[int]) -> subprocess.Popen[bytes]:
    """`ray start --head` as KubeRay does it; the ports are free ones, as nothing else is here."""
    command = ["ray", "start", "--head", "--block", "--disable-usage-stats"]
    command += [
        f"--{name}={value}" for name, value in pod.start.items() if name != "dashboard-host"
    ]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--{name}={port}" for name, port in zip(_PORTS, others, strict=True)]
    command += [f"--temp-dir={pod.folder / 'ray'}", f"--object-store-memory={200 * 1024**2}"]
    with (pod.folder / "ray.log").open("wb") as log:
        return subprocess.Popen(
            command,
            env=pod.environment,
            cwd=pod.folder,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def _serve(pod: Pod, dashboard: int) -> httpx.Client:
    headers = {"authorization": f"Bearer {pod.token}"}
    return httpx.Client(base_url=f"http://127.0.0.1:{dashboard}", headers=headers, timeout=60)


def _deploy(process: subprocess.Popen[bytes], pod: Pod, dashboard: int, config: Json) -> None:
    """The config goes where KubeRay puts it: to Serve's REST API, once that is there."""
    deadline = time.monotonic() + 120
    with _serve(pod, dashboard) as http:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                answer = http.put("/api/serve/applications/", json=config)
                if not answer.is_server_error:
                    answer.raise_for_status()
                    return
            time.sleep(0.5)
    raise AssertionError((pod.folder / "ray.log").read_text(errors="replace")[-3000:])


def _wait(process: subprocess.Popen[bytes], url: str, pod: Pod, dashboard: int) -> None:
    """Return when every road has answered once."""
    deadline = time.monotonic() + _READY_S
    said: Any = None
    with _serve(pod, dashboard) as http:
        while time.monotonic() < deadline:
            assert process.poll() is None, (pod.folder / "ray.log").read_text(errors="replace")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                    return
            said = http.get("/api/serve/applications/").json()["applications"]
            for each in said.values():
                assert each["status"] not in ("DEPLOY_FAILED", "UNHEALTHY"), each["message"]
            time.sleep(0.5)
    raise AssertionError(f"not ready after {_READY_S:.0f} s: {said}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    finally:
        for each in family:
            if each.is_running():
                each.kill()
        process.kill()


def test_every_road_answers_a_question(gateway: str) -> None:
    """By the very script that `helm test` runs."""
    done = subprocess.run(
        [sys.executable, str(CHART / "files" / "ask_every_road.py")],
        env={**os.environ, "TRIVIUM_URL": gateway},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    roads = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert roads == ["expert", "knowledge", "frontier"]


def test_the_rendered_price_table_is_charged(gateway: str) -> None:
    body = {"model": "trivium/expert", "messages": [{"role": "user", "content": "Hello"}]}
    answer = httpx.post(f"{gateway}/v1/chat/completions", json=body, timeout=110)
    assert answer.status_code == 200
    assert answer.json()["usage"]["cost"] > 0


def test_haproxy_passes_streams_and_refusals_on_as_they_are(gateway: str) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], "stream": True, "max_tokens": 8}
    with httpx.Client(base_url=gateway, timeout=110, headers={"x-request-id": "mine"}) as client:
        asked = {**body, "model": "trivium/expert"}
        with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
            assert answer.headers["x-request-id"] == "mine"
            events = [line for line in answer.iter_lines() if line]
        refused = client.post("/v1/chat/completions", json={**body, "model": "gpt-9"})
    assert len(events) > 3
    assert events[-1] == "data: [DONE]"
    assert (refused.status_code, refused.headers["x-request-id"]) == (404, "mine")
    assert refused.json()["error"]["code"] == "model_not_found"
    assert "haproxy" in {each.name() for each in psutil.process_iter()}


def _deployments(here: Here) -> dict[str, Any]:
    with _serve(here.pod, int(here.dashboard.rpartition(":")[2])) as http:
        told = http.get("/api/serve/applications/").json()["applications"].values()
    return {name: each for app in told for name, each in app["deployments"].items()}


def _change(here: Here, *more: str) -> None:
    """`helm upgrade` with more values, as far as Serve hears of it; returns when it is in force."""
    config = _config(here.pod, int(here.url.rpartition(":")[2]), *more)
    with _serve(here.pod, int(here.dashboard.rpartition(":")[2])) as http:
        http.put("/api/serve/applications/", json=config).raise_for_status()
    wanted = {
        d["name"]: d.get("user_config") for a in config["applications"] for d in a["deployments"]
    }
    deadline = time.monotonic() + 60
    waiting = set(wanted)
    while waiting:
        assert time.monotonic() < deadline, waiting
        time.sleep(0.1)
        waiting = {
            name
            for name, each in _deployments(here).items()
            if each["status"] != "HEALTHY"
            or each["deployment_config"].get("user_config") != wanted.get(name)
        }


@pytest.mark.timeout(400)
def test_limits_and_policy_change_behind_haproxy_without_a_restart_or_a_lost_answer(
    here: Here, tmp_path: Path
) -> None:
    client = openai.OpenAI(base_url=f"{here.url}/v1", api_key="none", max_retries=0, timeout=120)
    outcomes: Counter[str] = Counter()

    def stream() -> None:
        outcomes[streamed(client)] += 1

    def replicas() -> dict[str, list[str]]:
        return {
            name: [replica["actor_id"] for replica in each["replicas"]]
            for name, each in _deployments(here).items()
        }

    before = replicas()
    house = {"of": "house", "per": "month", "usd": 777}
    values = tmp_path / "values.yaml"
    policy = yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))
    policy["pins"] = [{"name": "house rule", "never": ["frontier"]}]
    given = {"settings": {"ledger": {"limits": [house]}}, "policy": policy}
    values.write_text(yaml.safe_dump(given), encoding="utf-8")
    with repeated(*[stream] * 4):
        while outcomes.total() < 4:
            time.sleep(0.05)
        for more in (
            (),
            ("-f", str(values)),
            ("--set", "scaling.gateway.max_ongoing_requests=999"),
        ):
            _change(here, *more)
        _change(here, "-f", str(values))
        begun = outcomes.total()
        while outcomes.total() < begun + 4:
            time.sleep(0.05)
    assert set(outcomes) == {"whole"}, outcomes
    assert replicas() == before
    told = httpx.get(f"{here.url}/v1/usage", timeout=20).json()["limits"]
    assert [each["limit"] for each in told if each["unit"] == "usd"] == [777]
    asked = {"query": "Plan the migration of our order database step by step, with rollbacks."}
    made = httpx.post(f"{here.url}/v1/route", json=asked, timeout=20).json()
    assert "frontier is barred (house rule)" in made["reason"]


@pytest.mark.timeout(400)
def test_a_gateway_that_is_removed_drains_behind_haproxy(here: Here) -> None:
    outcomes = drained(here.url, here.dashboard, here.pod.environment)
    assert set(outcomes) == {"whole"}, outcomes

"""The stack on one machine: Ray, Serve and the demo feed as children of one process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from serve_app.errors import SettingsError, Unavailable
from serve_app.settings import Settings

# On a laptop more than cores: the deployments are many, and most of them wait most of the time.
_LOGICAL_CPUS = max(8, os.cpu_count() or 1)
_IN_FORCE_S = 1800.0  # weights may have to be fetched
_STARTS = 2
_FIRST_FIGURES_S = 30.0

RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    # One x-request-id in every response, whatever was sent.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_app.gateway.request_ids.for_proxy",
    # Calls between deployments go by gRPC instead of the object store: less work per token.
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    # Ray lowers its workers' priority; here they are what the user waits for.
    "RAY_worker_niceness": "0",
    # vLLM's spans take the same road as ours.
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
    # Its hook would load vLLM in workers that never need it.
    "RAYLLM_ENABLE_WORKER_PROCESS_SETUP_HOOK": "0",
    "TOKENIZERS_PARALLELISM": "false",
    # Beside an open store gRPC's fork handlers abort now and then a child that is about to become
    # one of Ray's processes (grpc/grpc#43055). They serve who uses gRPC after a fork without exec.
    "GRPC_ENABLE_FORK_SUPPORT": "0",
}


class Addresses(NamedTuple):
    """Of a Ray cluster, each `host:port`: its dashboard, and where drivers join it."""

    dashboard: str
    ray: str


@dataclass(frozen=True, slots=True)
class RunFile:
    """Where a running stack leaves its process id and address, for `trivium down`."""

    path: Path

    @classmethod
    def of(cls, settings: Settings) -> RunFile:
        return cls(settings.state_dir / "run.json")

    def write(
        self, url: str, config: Path | None = None, addresses: Addresses | None = None
    ) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        me = psutil.Process()
        record = {"pid": me.pid, "created": me.create_time(), "url": url}
        record |= {"config": str(config.resolve())} if config else {}
        record |= addresses._asdict() if addresses else {}
        self.path.write_text(json.dumps(record), encoding="utf-8")

    def process(self) -> psutil.Process | None:
        """The supervisor, if it is alive; a process that merely inherited its id is not."""
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
            process = psutil.Process(record["pid"])
            return process if process.create_time() == record["created"] else None
        except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
            return None

    def addresses(self) -> Addresses | None:
        """Where the running stack's Ray is; `None` when there is none."""
        if self.process() is None:
            return None
        record = json.loads(self.path.read_text(encoding="utf-8"))
        return Addresses(record["dashboard"], record["ray"]) if "ray" in record else None

    def config(self) -> Path | None:
        """The settings file of the running stack; `None` where it has none."""
        record = json.loads(self.path.read_text(encoding="utf-8"))
        return Path(record["config"]) if "config" in record else None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def check_port(host: str, port: int) -> None:
    """Raises `SettingsError` when something else listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {host}:{port} ({error.strerror}); "
                "stop what does, or choose another with --port"
            ) from None


def initialise(**options: Any) -> Mapping[str, Any]:
    """`ray.init`, quiet, and leaving SIGTERM to whoever handled it: Ray's handler writes a stack
    trace of C++ for everybody who is politely asked to end.
    """
    set_environment()
    import ray

    before = signal.getsignal(signal.SIGTERM)
    started: Mapping[str, Any] = ray.init(log_to_driver=False, logging_level="ERROR", **options)
    signal.signal(signal.SIGTERM, before if callable(before) else lambda *_: sys.exit(143))
    return started


@contextlib.contextmanager
def cluster(settings: Settings, *, purpose: str = "") -> Iterator[Addresses]:
    """A Ray cluster of one node; gone, with all its processes, at the end.

    Args:
        purpose: Tells one that serves no stack, and needs no dashboard, from the stack's.
    """
    # Unix sockets allow about 100 characters of path: the state folder may be too deep for that.
    digest = hashlib.sha256(f"{settings.state_dir}{purpose}".encode()).hexdigest()[:8]
    temp = Path(tempfile.gettempdir()) / f"trivium-{digest}"
    shutil.rmtree(temp, ignore_errors=True)
    others = psutil.Process().children(recursive=True)
    try:
        address = _started(
            num_cpus=_LOGICAL_CPUS,
            include_dashboard=not purpose,
            dashboard_host="127.0.0.1",
            _temp_dir=str(temp),
            object_store_memory=200 * 1024 * 1024,
        )
        yield Addresses(str(address.get("webui_url", "")), str(address["gcs_address"]))
    finally:
        _shut_down(others, serving=not purpose)


def _started(**options: Any) -> Mapping[str, Any]:
    """`initialise`, once more where the node does not come up: now and then a raylet does not
    report within Ray's 30 seconds, and the next one does (ray-project/ray#62883).

    Raises:
        Unavailable: Not the second time either; says where Ray's logs are.
    """
    for _ in range(_STARTS):
        before = psutil.Process().children(recursive=True)
        try:
            return initialise(**options)
        except Exception as error:  # Ray raises no narrower one
            reason = str(error)
            _reap([p for p in psutil.Process().children(recursive=True) if p not in before])
    logs = Path(options["_temp_dir"]) / "session_latest" / "logs"
    raise Unavailable(f"Ray does not start ({reason.splitlines()[0]}); its logs: {logs}")


@contextlib.contextmanager
def joined(settings: Settings) -> Iterator[bool]:
    """This process as a driver: of the running stack's Ray, that of RAY_ADDRESS, or its own.

    Yields whether a stack is running.
    """
    import ray
    from ray import data

    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    running = RunFile.of(settings).addresses()
    if running is None and "RAY_ADDRESS" not in os.environ:
        with cluster(settings, purpose="bulk"):
            yield False
        return
    # A job on a cluster finds its Ray by RAY_ADDRESS.
    address = running.ray if running else None
    initialise(address=address)
    try:
        yield running is not None
    finally:
        ray.shutdown()


def deploy(settings: Settings, dashboard: str, on_progress: Callable[[str], None]) -> None:
    """Deploy by Serve's REST API, as KubeRay does, and return when every replica is up.

    The applications are built in workers of Ray's: this process never loads vLLM.

    Raises:
        SettingsError: Policy, prices or heads are bad; nothing was handed over.
        Unavailable: An application cannot be built or a deployment does not start; says why.
    """
    http = {"host": settings.gateway.host, "port": settings.gateway.port}
    _serve(dashboard, {"proxy_location": "HeadOnly", "http_options": http}, settings, on_progress)


def reload(settings: Settings, dashboard: str, on_progress: Callable[[str], None]) -> None:
    """Give a running stack its settings anew, and return when they are in force.

    Raises:
        SettingsError, Unavailable: As `deploy`.
    """
    details = _client(dashboard).get_serve_details()
    kept = {name: details[name] for name in ("proxy_location", "http_options")}
    _serve(dashboard, kept, settings, on_progress)


def gateway_config(dashboard: str) -> dict[str, Any]:
    """Settings of the running gateway, as plain data.

    Raises:
        Unavailable: There is none.
    """
    found = _client(dashboard).get_serve_details()["applications"].get("trivium", {})
    told = found.get("deployed_app_config") or {}
    config = next((d for d in told.get("deployments", ()) if d["name"] == "Gateway"), None)
    if config is None:
        raise Unavailable("the application is not deployed; start it again: trivium up")
    settings: dict[str, Any] = config["user_config"]["gateway"]
    return settings


def _client(dashboard: str) -> Any:
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    # Ray's own client: it knows the token that guards the dashboard.
    return ServeSubmissionClient(f"http://{dashboard}")


def _serve(
    dashboard: str,
    options: dict[str, Any],
    settings: Settings,
    on_progress: Callable[[str], None],
) -> None:
    from serve_app.serve_config import applications, checked

    wanted = applications(checked(settings))
    serve = _client(dashboard)
    serve.deploy_applications({**options, "applications": wanted})
    deadline = time.monotonic() + _IN_FORCE_S
    while waiting := _unfinished(serve.get_serve_details()["applications"], wanted):
        if time.monotonic() > deadline:
            raise Unavailable(f"{', '.join(waiting)}: not there after {_IN_FORCE_S:.0f} s")
        on_progress(", ".join(waiting))
        time.sleep(0.25)


def _unfinished(told: dict[str, Any], wanted: list[dict[str, Any]]) -> list[str]:
    """What does not serve as wanted yet.

    Raises:
        Unavailable: It never will; says why.
    """
    waiting: list[str] = []
    for app in wanted:
        state = told.get(app["name"], {})
        deployments = state.get("deployments", {})
        if state.get("status") in ("DEPLOY_FAILED", "UNHEALTHY"):
            broken = [d["message"] for d in deployments.values() if d["status"] != "HEALTHY"]
            raise Unavailable(f"it does not start: {_reason([*broken, state['message']])}")
        names = [
            each["name"]
            for each in app["deployments"]
            if not _serves(deployments.get(each["name"]), each)
        ]
        if not names and state.get("status") != "RUNNING":
            names = [f"the application {app['name']}"]
        waiting += names
    return waiting


def _serves(deployment: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    """Whether a deployment is up, under the settings that were handed over."""
    if deployment is None or deployment["status"] != "HEALTHY":
        return False
    given = deployment["deployment_config"].get("user_config")
    return bool(given == wanted.get("user_config"))


def set_environment() -> None:
    """For a process that may start Ray; before anything else: Ray and gRPC read it on import."""
    os.environ.update({k: v for k, v in RAY_ENVIRONMENT.items() if k not in os.environ})


def _reason(messages: list[str]) -> str:
    """The line of Serve's messages that names the error: the last one of a traceback."""
    for message in messages:
        lines = [line.strip() for line in message.splitlines()]
        named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exceeded)\b", line)]
        if named:
            return named[-1]
    return next((m.strip().splitlines()[-1] for m in messages if m.strip()), "no message")


def wait_ready(url: str, timeout_s: float) -> None:
    """Return when every road has answered once.

    Raises:
        Unavailable: Not within `timeout_s`; names what is still waited for.
    """
    deadline = time.monotonic() + timeout_s
    waiting = "the gateway"
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError, ValueError):
            response = httpx.get(f"{url}/readyz", timeout=5.0)
            if response.status_code == 200:
                return
            waiting = ", ".join(response.json()["waiting_for"])
        time.sleep(0.25)
    raise Unavailable(f"not ready after {timeout_s:.0f} s; still waiting for {waiting}")


@contextlib.contextmanager
def feed(url: str, collection: str, api_key: str) -> Iterator[None]:
    """The demo company's live feed, as a child process; its first figures are in by then."""
    script = Path("configs/demo/live_feed.py")
    if not script.is_file():
        raise SettingsError(f"{script} is missing; run --demo from a checkout of Trivium")
    command = [sys.executable, str(script), "--base-url", url, "--collection", collection]
    environment = {**os.environ, "TRIVIUM_API_KEY": api_key}
    # What it cannot write it says itself, and goes on trying.
    with contextlib.suppress(subprocess.TimeoutExpired):
        once = [*command, "--once"]
        subprocess.run(once, timeout=_FIRST_FIGURES_S, check=False, env=environment)
    process = subprocess.Popen(command, env=environment)
    try:
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does; Ctrl-C does so in a background job too."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = {s: signal.signal(s, interrupt) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _shut_down(others: list[psutil.Process], *, serving: bool) -> None:
    """End Serve, then Ray, then whatever is left of them; `others` were there before."""
    import ray

    children = psutil.Process().children(recursive=True)
    if serving:
        from ray import serve

        with contextlib.suppress(Exception):
            serve.shutdown()
    children += psutil.Process().children(recursive=True)
    ray.shutdown()
    _reap(list(set(children) - set(others)))


def _reap(processes: list[psutil.Process]) -> None:
    """End what a hasty shutdown may leave: a worker in the middle of starting, an engine."""
    _, alive = psutil.wait_procs(processes, timeout=5)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)

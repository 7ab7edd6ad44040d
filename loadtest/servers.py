"""The servers that benchmarks compare, as child processes of the benchmark."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from serve_app import models
from serve_app.expert.deployment import environment
from serve_app.expert.engine import cpu_dtype
from serve_app.settings import Settings


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, timeout_s: float) -> None:
    """Return when `url` answers 200; raise with the log's tail when the process ends before."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            tail = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{log.stem} ended with {process.returncode}:\n{tail}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5.0).status_code == 200:
                return
        time.sleep(0.5)
    raise RuntimeError(f"{url} did not answer within {timeout_s:.0f} s; see {log}")


@contextlib.contextmanager
def running(
    command: list[str],
    ready_url: str,
    log: Path,
    variables: Mapping[str, str],
    checkout: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, from ready to gone.

    Args:
        checkout: Whose code it runs and where, in this environment; `None` for this one's.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    theirs = {"PYTHONPATH": str(checkout.resolve())} if checkout else {}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **theirs, **variables},
            cwd=checkout,
        )
        try:
            wait_for(ready_url, process, log, 420.0)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def trivium(
    port: int,
    log: Path,
    variables: Mapping[str, str] | None = None,
    checkout: Path | None = None,
) -> Iterator[str]:
    """The whole stack by `trivium up`; yields its address.

    Args:
        checkout: As `running` takes it.
    """
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "serve_app.cli", "up", "--port", str(port)]
    with running(command, f"{url}/readyz", log, variables or {}, checkout):
        yield url


@contextlib.contextmanager
def vllm(settings: Settings, port: int, log: Path, name: str = "alone") -> Iterator[str]:
    """vLLM's own OpenAI server, with the engine arguments of the settings; yields its address.

    Args:
        name: By which it knows its model.
    """
    url = f"http://127.0.0.1:{port}"
    engine: dict[str, Any] = {
        "dtype": cpu_dtype(),
        # What the expert does too: one process less, which helps both alike.
        "distributed_executor_backend": "vllm.v1.executor.uniproc_executor.UniProcExecutor",
        **settings.expert.engine,
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", models.base_model(settings), "--served-model-name", name]
    command += ["--port", str(port), "--host", "127.0.0.1", "--disable-uvicorn-access-log"]
    for name, value in engine.items():
        flag = "--" + name.replace("_", "-")
        command += [flag] if value is True else [flag, str(value)]
    with running(command, f"{url}/health", log, environment(settings.expert)):
        yield url


@contextlib.contextmanager
def milvus(
    folder: Path, settings: Mapping[str, object] | None = None, *, tick_ms: int = 200
) -> Iterator[Any]:
    """A Milvus 2.3.5 server, by the `milvus` package. Started again, it has what it had.

    Several may run at once: the etcd within each has ports of its own, not 2379 and 2380.

    Args:
        settings: Of its configuration, by the names of the package's template.
        tick_ms: Between two moments at which it shows what was written; 200 is its own.
    """
    from milvus import MilvusServer

    server = MilvusServer()
    server.set_base_dir(str(folder))
    for name, value in (settings or {}).items():
        server.config.set(name, value)
    server.listen_port, client, peer = _free_ports(3)
    etcd = folder / "etcd.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    etcd.write_text(_ETCD.format(client=client, peer=peer))
    # The package's template has no places for these.
    server.config.template_text = server.config.template_text.replace(
        "\netcd:\n", f"\netcd:\n  config:\n    path: {etcd}\n"
    ).replace("timeTickInterval: 200", f"timeTickInterval: {tick_ms}")
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


_ETCD = """\
name: default
listen-client-urls: http://127.0.0.1:{client}
advertise-client-urls: http://127.0.0.1:{client}
listen-peer-urls: http://127.0.0.1:{peer}
initial-advertise-peer-urls: http://127.0.0.1:{peer}
initial-cluster: default=http://127.0.0.1:{peer}
"""


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]

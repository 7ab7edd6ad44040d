"""What the frontier road adds to calling a provider directly, beside the LiteLLM proxy.

    python -m loadtest.frontier
    python -m loadtest.frontier --beside ../before      another checkout too, in the same run

One upstream that answers at once (`loadtest.upstream`) is asked directly, through Trivium
(`trivium/frontier`: graph, masking, ledger and all; no pin is set, so the router is not asked) and
through LiteLLM's proxy, in turns on the same machine. HAProxy stands before Trivium's gateway, as
on a cluster; with `--laptop` Serve's own proxy does. LiteLLM is installed into an environment of
its own under `.trivium`. A proxy's CPU is that of all its processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from rich.console import Console
from rich.table import Table

from loadtest import servers
from loadtest.streams import Target, Timing, concurrently, percentile

MODEL = "gpt-4.1"
PEER = Path(".trivium/peers/litellm")
PEER_VERSION = "litellm[proxy]==1.108.7"
_UPSTREAM, _TRIVIUM, _LITELLM, _BESIDE = 8101, 8102, 8103, 8104


@dataclass(frozen=True, slots=True)
class Proxy:
    """A target, and the process whose tree serves it; none for the upstream itself."""

    target: Target
    process: psutil.Process | None


def install(console: Console) -> None:
    """LiteLLM, once."""
    uv = str(Path(sys.executable).with_name("uv"))
    if (PEER / "bin" / "litellm").exists():
        return
    console.print(f"installing {PEER_VERSION} under {PEER}")
    subprocess.run([uv, "venv", "-q", str(PEER), "--python", sys.executable], check=True)
    python = str(PEER / "bin" / "python")
    subprocess.run([uv, "pip", "install", "-q", "--python", python, PEER_VERSION], check=True)


@contextmanager
def litellm(url: str, log: Path) -> Iterator[Proxy]:
    """LiteLLM's proxy as its documentation starts it, without a database or logs."""
    config = log.with_suffix(".yaml")
    config.parent.mkdir(parents=True, exist_ok=True)
    params = {"model": f"openai/{MODEL}", "api_base": f"{url}/v1", "api_key": "none"}
    config.write_text(
        yaml.safe_dump({"model_list": [{"model_name": MODEL, "litellm_params": params}]})
    )
    command = [str(PEER / "bin" / "litellm"), "--config", str(config)]
    command += ["--port", str(_LITELLM), "--host", "127.0.0.1"]
    here = f"http://127.0.0.1:{_LITELLM}"
    offline = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        # As open as ours, which has no keys here either.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    with servers.running(command, f"{here}/health/liveliness", log, offline) as process:
        yield Proxy(Target("LiteLLM", here, MODEL), psutil.Process(process.pid))


@contextmanager
def trivium(
    url: str, log: Path, *, laptop: bool = True, checkout: Path | None = None
) -> Iterator[Proxy]:
    """The whole stack, its frontier on the upstream.

    Args:
        checkout: As `servers.running` takes it.
    """
    port, name = (_BESIDE, f"Trivium in {checkout}") if checkout else (_TRIVIUM, "Trivium")
    here = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "serve_app.cli", "up", "--port", str(port)]
    variables = {
        "TRIVIUM_FRONTIER__PROVIDER": "openai",
        "TRIVIUM_FRONTIER__MODEL": MODEL,
        "TRIVIUM_FRONTIER__BASE_URL": f"{url}/v1",
        "OPENAI_API_KEY": "none",
        "RAY_SERVE_ENABLE_HA_PROXY": str(int(not laptop)),
    }
    with servers.running(command, f"{here}/readyz", log, variables, checkout) as process:
        yield Proxy(Target(name, here, "trivium/frontier"), psutil.Process(process.pid))


def cpu_s(process: psutil.Process | None) -> float:
    """CPU seconds that a tree of processes has used."""
    if process is None:
        return 0.0
    used = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        used += times.user + times.system
    return used


def measure(proxies: list[Proxy], streams: int, requests: int, rounds: int) -> list[dict[str, Any]]:
    """In turns; one row for each proxy."""
    timings: dict[str, list[Timing]] = {each.target.name: [] for each in proxies}
    seconds = dict.fromkeys(timings, 0.0)
    busy = dict.fromkeys(timings, 0.0)
    for round_ in range(rounds + 1):
        for proxy in proxies:
            name = proxy.target.name
            before = cpu_s(proxy.process)
            asked = [f"Why is {round_}.{number} odd?" for number in range(requests)]
            found, took = asyncio.run(concurrently(proxy.target, asked, streams, 64))
            if round_ == 0:
                continue  # the first round warms up
            timings[name] += found
            seconds[name] += took
            busy[name] += cpu_s(proxy.process) - before
    direct = statistics.median(each.e2e for each in timings[proxies[0].target.name])
    rows = []
    for name, found in timings.items():
        e2e = [each.e2e * 1000 for each in found]
        rows.append(
            {
                "through": name,
                "streams": streams,
                "requests": len(found),
                "ttft_p50_ms": percentile([each.ttft * 1000 for each in found], 0.5),
                "e2e_p50_ms": percentile(e2e, 0.5),
                "e2e_p99_ms": percentile(e2e, 0.99),
                "added_p50_ms": percentile(e2e, 0.5) - direct * 1000,
                "requests_per_s": len(found) / seconds[name],
                "requests_per_cpu_s": len(found) / busy[name] if busy[name] else None,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=300, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--laptop", action="store_true", help="Trivium without HAProxy")
    parser.add_argument("--beside", type=Path, help="folder of another checkout, without HAProxy")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    console = Console(stderr=True)
    install(console)
    logs = Path(".trivium/loadtest")
    url = f"http://127.0.0.1:{_UPSTREAM}"
    command = [sys.executable, "-m", "loadtest.upstream", str(_UPSTREAM)]
    rows = []
    with ExitStack() as stack, console.status("starting the upstream and both proxies"):
        stack.enter_context(servers.running(command, url, logs / "upstream.log", {}))
        proxies = [Proxy(Target("the upstream itself", url, MODEL), None)]
        # Two on one machine would share HAProxy's ports.
        laptop = chosen.laptop or chosen.beside is not None
        proxies.append(stack.enter_context(trivium(url, logs / "trivium.log", laptop=laptop)))
        if chosen.beside:
            other = trivium(url, logs / "beside.log", checkout=chosen.beside)
            proxies.append(stack.enter_context(other))
        proxies.append(stack.enter_context(litellm(url, logs / "litellm.log")))
        for streams in (1, 32):
            requests = chosen.requests if streams > 1 else chosen.requests // 3
            rows += measure(proxies, streams, requests, chosen.rounds)
    if chosen.json:
        print(json.dumps(rows))
        return
    table = Table(*(name.replace("_", " ") for name in rows[0]))
    for row in rows:
        table.add_row(
            *(f"{v:.1f}" if isinstance(v, float) else str(v or "–") for v in row.values())
        )
    Console().print(table)


if __name__ == "__main__":
    main()

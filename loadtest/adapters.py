"""What serving through an adapter costs: tokens per second, beside the base alone.

    python -m loadtest.adapters

A stack with adapters turned off, then one with them on, where the base and an adapter take turns.
The adapter adds nothing to any product: its answers are as long as the base's, and cost what those
of any adapter of its rank on every linear layer cost.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save_file

from loadtest import servers
from loadtest.streams import Target, Timing, concurrently, percentile
from serve_app import models
from serve_app.expert.adapters import CURRENT, MANIFEST
from serve_app.expert.admission import CONFIG, WEIGHTS
from serve_app.expert.base import Base
from serve_app.settings import Settings, load

NAME = "identity"
# Each linear layer of a Llama block: what it reads and writes.
_MODULES = {
    "self_attn.q_proj": ("hidden", "query"),
    "self_attn.k_proj": ("hidden", "key"),
    "self_attn.v_proj": ("hidden", "key"),
    "self_attn.o_proj": ("query", "hidden"),
    "mlp.gate_proj": ("hidden", "inner"),
    "mlp.up_proj": ("hidden", "inner"),
    "mlp.down_proj": ("inner", "hidden"),
}


def identity(root: Path, base: Base, rank: int) -> None:
    """A promoted adapter on every linear layer that changes no answer."""
    config = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    sizes = {
        "hidden": config["hidden_size"],
        "inner": config["intermediate_size"],
        "query": heads * width,
        "key": config["num_key_value_heads"] * width,
    }
    weights: dict[str, Any] = {}
    random = np.random.default_rng(0)
    for layer in range(config["num_hidden_layers"]):
        for module, (reads, writes) in _MODULES.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            inner = random.standard_normal((rank, sizes[reads]), dtype=np.float32)
            weights[f"{name}.lora_A.weight"] = inner
            weights[f"{name}.lora_B.weight"] = np.zeros((sizes[writes], rank), np.float32)
    folder = root / NAME / "1"
    folder.mkdir(parents=True)
    save_file(weights, folder / WEIGHTS)
    targets = [module.rpartition(".")[2] for module in _MODULES]
    peft = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets}
    (folder / CONFIG).write_text(json.dumps({**peft, "bias": "none"}), encoding="utf-8")
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    origin = {"name": base.name, "weights_sha256": base.weights_sha256()}
    manifest = {"base": origin, "rank": rank, "files": files, "contract": None}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    current = {"version": 1, "history": [{"action": "promote", "version": 1}]}
    (root / NAME / CURRENT).write_text(json.dumps(current), encoding="utf-8")


@contextmanager
def stack(settings: Settings, port: int, *, adapters: bool) -> Iterator[str]:
    """A stack of its own, sharing the models that are prepared already; yields its address."""
    name = "adapters-on" if adapters else "adapters-off"
    state = settings.state_dir / "bench" / name
    state.mkdir(parents=True, exist_ok=True)
    if not (state / "models").exists():
        (state / "models").symlink_to(settings.models_dir)
    shutil.rmtree(state / "adapters", ignore_errors=True)
    if adapters:
        base = Base(settings.expert.model, Path(models.base_model(settings)))
        identity(state / "adapters", base, settings.expert.lora.max_lora_rank)
    variables = {
        "TRIVIUM_STATE_DIR": str(state),
        "TRIVIUM_EXPERT__LORA__ENABLED": str(adapters).lower(),
    }
    with servers.trivium(port, state.with_suffix(".log"), variables) as url:
        yield url


def prompts(count: int, salt: str) -> list[str]:
    """Unlike each other from the first word on: no prefix is read from a cache."""
    return [f"{salt} {n}: write about tents, boots and rain in the hills." for n in range(count)]


def measure(targets: list[Target], streams: int, rounds: int, tokens: int) -> list[dict[str, Any]]:
    timings: dict[str, list[Timing]] = {target.name: [] for target in targets}
    rates: dict[str, list[float]] = {target.name: [] for target in targets}
    for number in range(rounds):
        for target in targets:
            asked = prompts(2 * streams, f"{streams} streams, round {number},")
            found, took = asyncio.run(concurrently(target, asked, streams, tokens))
            timings[target.name] += found
            rates[target.name].append(sum(each.tokens for each in found) / took)
    return [
        {
            "served by": target.name,
            "streams": streams,
            "answers": len(timings[target.name]),
            "tokens_per_second": percentile(rates[target.name], 0.5),
            "least": min(rates[target.name]),
            "most": max(rates[target.name]),
            "ttft_ms": 1000 * percentile([t.ttft for t in timings[target.name]], 0.5),
        }
        for target in targets
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=3, help="alternations")
    parser.add_argument("--tokens", type=int, default=48, help="bound on each answer")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    args = parser.parse_args()
    settings = load(Path("configs/local.yaml")).resolved(Path.cwd())
    console = Console(stderr=True)
    rows = []
    for adapters in (False, True):
        console.print(f"starting a stack with adapters {'on' if adapters else 'off'}")
        with stack(settings, 8020, adapters=adapters) as url:
            targets = [Target("base, adapters on" if adapters else "base", url, "trivium/expert")]
            if adapters:
                targets.append(Target("through an adapter", url, f"trivium/expert:{NAME}"))
            for target in targets:
                asyncio.run(concurrently(target, prompts(2, "warm up"), 2, 8))
            for streams in args.streams:
                rows += measure(targets, streams, args.rounds, args.tokens)
    base = {row["streams"]: row["tokens_per_second"] for row in rows if row["served by"] == "base"}
    for row in rows:
        row["of_base_alone"] = row["tokens_per_second"] / base[row["streams"]]
    rows.sort(key=lambda row: int(row["streams"]))
    machine = f"{psutil.cpu_count()} cores, {platform.processor() or platform.machine()}"
    if args.json:
        json.dump({"machine": machine, "rows": rows}, sys.stdout, indent=2)
        print()
        return
    console.print(machine)
    table = Table("served by", "streams", "answers", "tokens/s (range)", "of base", "TTFT p50 ms")
    for row in rows:
        table.add_row(
            row["served by"],
            str(row["streams"]),
            str(row["answers"]),
            f"{row['tokens_per_second']:.1f} ({row['least']:.1f}–{row['most']:.1f})",
            f"{row['of_base_alone']:.0%}",
            f"{row['ttft_ms']:.0f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

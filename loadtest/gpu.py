"""One GPU, under ten minutes: an 8B Llama of random weights, served by vLLM alone and by the stack.

    python -m loadtest.gpu                # on a machine with one card of 24 GB or more
    python -m loadtest.gpu --tiny         # the same steps with a tiny model on a CPU

`configs/gpu.yaml` cut to one card: no bucket, no Milvus server, one replica of each part. Speed
does not depend on what the weights are, and random ones need no hub. The tokenizer is the demo
model's, so that the vocabulary, and with it the model (7.4B), is smaller than Llama's own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from rich.console import Console
from rich.table import Table

from loadtest import adapters, servers
from loadtest.streams import Target
from loadtest.throughput import measure
from serve_app import models
from serve_app.expert.base import Base
from serve_app.settings import Settings, load

ROOT = Path(__file__).parents[1]
ONE = {"min_replicas": 1, "max_replicas": 1}
LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rope_theta": 500000.0,
}
TINY = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
console = Console(stderr=True)


def make_model(folder: Path, tokenizer: str, shape: dict[str, Any]) -> None:
    """A Llama of random weights with somebody else's tokenizer; on the GPU where there is one."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    words = AutoTokenizer.from_pretrained(tokenizer)
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
    config = LlamaConfig(vocab_size=len(words), dtype="bfloat16", **shape, **ends)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def cut(folder: Path, *, tiny: bool) -> Path:
    """The profile for one card, as a file; the expert's part is the laptop's where it is tiny."""
    profile = yaml.safe_load((ROOT / "configs/gpu.yaml").read_text(encoding="utf-8"))
    expert = profile["expert"]
    expert["engine"]["tensor_parallel_size"] = 1
    if tiny:
        laptop = yaml.safe_load((ROOT / "configs/local.yaml").read_text(encoding="utf-8"))["expert"]
        expert |= {"accelerator": "cpu", "environment": laptop["environment"]}
        expert["engine"] = {**laptop["engine"], "max_model_len": TINY["max_position_embeddings"]}
        expert["max_output_tokens"] = 256
    expert |= {"model_source": str(folder / "model"), "adapters": "adapters"}
    for part in profile.values():
        if "scaling" in part:
            part["scaling"] = {**part["scaling"], **ONE, "num_cpus": 1}
    profile["retrieval"]["milvus_uri"] = "milvus.db"
    profile["gateway"] |= {"host": "127.0.0.1", "open": True}
    profile |= {"state_dir": str(folder / "state")}
    path = folder / "one-card.yaml"
    path.write_text(yaml.safe_dump(profile, sort_keys=False), encoding="utf-8")
    return path


@contextmanager
def stack(config: Path, port: int, *, with_adapter: bool) -> Iterator[str]:
    """`trivium up` with the profile; yields its address, ready."""
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "serve_app.cli", "up"]
    command += ["--config", str(config), "--port", str(port)]
    on = {"TRIVIUM_EXPERT__LORA__ENABLED": str(with_adapter).lower()}
    log = config.parent / f"stack-{'with' if with_adapter else 'without'}-adapters.log"
    with servers.running(command, f"{url}/readyz", log, on):
        yield url


def roads(url: str) -> list[dict[str, Any]]:
    """One question for each road: its answer's status, and which road it took."""
    found = []
    for road in ("auto", "expert", "knowledge", "frontier"):
        turns = [{"role": "user", "content": "What are the opening hours of our stores?"}]
        body = {"model": f"trivium/{road}", "messages": turns, "max_completion_tokens": 16}
        started = time.perf_counter()
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
        found.append(
            {
                "asked": road,
                "status": answer.status_code,
                "route": answer.headers.get("x-trivium-route"),
                "degraded": answer.headers.get("x-trivium-degraded"),
                "seconds": round(time.perf_counter() - started, 3),
            }
        )
    return found


def speeds(targets: list[Target], streams: list[int], tokens: int) -> list[dict[str, Any]]:
    rows = []
    for target in targets:
        measure(target, 2, 1, 16, 8)  # what the first requests pay is nobody's speed
        for count in streams:
            row = measure(target, count, 3 if count == 1 else 2, 256, tokens)
            rows.append({"served by": target.name, **row})
            console.print(f"{target.name}, {count} streams: {row['tokens_per_second']:.0f} /s")
    return rows


def timed(what: str, started: float, told: dict[str, Any]) -> None:
    told["seconds"][what] = round(time.monotonic() - started, 1)
    console.print(f"{what}: {told['seconds'][what]} s")


def run(folder: Path, *, tiny: bool, streams: list[int], tokens: int) -> dict[str, Any]:
    told: dict[str, Any] = {"seconds": {}, "roads": [], "rows": []}
    started = time.monotonic()
    config = cut(folder, tiny=tiny)
    settings: Settings = load(config).resolved(folder)
    models.prepare(Settings(state_dir=folder / "state"), "base model")
    demo = models.base_model(Settings(state_dir=folder / "state"))
    make_model(folder / "model", demo, TINY if tiny else LLAMA_8B)
    timed("the model is made", started, told)
    started = time.monotonic()
    with servers.vllm(settings, 8031, folder / "vllm.log") as url:
        timed("vLLM alone is ready", started, told)
        told["rows"] += speeds([Target("vLLM alone", url, "alone")], streams, tokens)
    for with_adapter in (False, True):
        name = "adapters on" if with_adapter else "adapters off"
        if with_adapter:
            base = Base(settings.expert.model, folder / "model")
            rank = settings.expert.lora.max_lora_rank
            adapters.identity(folder / "state" / "adapters", base, rank)
        started = time.monotonic()
        with stack(config, 8032, with_adapter=with_adapter) as url:
            timed(f"the stack with {name} is ready", started, told)
            told["roads"] += [{"stack": name, **each} for each in roads(url)]
            targets = [Target(f"gateway, {name}", url, "trivium/expert")]
            if with_adapter:
                model = f"trivium/expert:{adapters.NAME}"
                targets.append(Target("gateway, through an adapter", url, model))
            told["rows"] += speeds(targets, streams, tokens)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tiny", action="store_true", help="a tiny model, on the CPU")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument("--tokens", type=int, default=128, help="bound on each answer")
    parser.add_argument("--folder", type=Path, default=Path(".trivium/bench/gpu"))
    parser.add_argument("--keep", action="store_true", help="leave the model and the logs there")
    parser.add_argument("--output", type=Path, help="write the JSON there too")
    args = parser.parse_args()
    folder: Path = args.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    told = run(folder, tiny=args.tiny, streams=args.streams, tokens=args.tokens)
    if not args.keep:
        shutil.rmtree(folder)
    if args.output:
        args.output.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    table = Table("served by", "streams", "tokens/s", "TTFT p50 ms", "TPOT p50 ms")
    for row in told["rows"]:
        figures = (
            f"{row[name]:.1f}" for name in ("tokens_per_second", "ttft_p50_ms", "tpot_p50_ms")
        )
        table.add_row(row["served by"], str(row["streams"]), *figures)
    for each in told["roads"]:
        console.print(each)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

"""Bulk ingest against the embedding model's own speed, on one machine.

    python -m loadtest.ingest

Documents are written, and ingested three times by `trivium ingest` into a Milvus server of its own:
all of them, none changed, one chunk in a hundred changed. What sentence-transformers does in a
process of its own, with a thread for each core and the same texts, is timed before and after.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from loadtest import servers
from serve_app import models
from serve_app.retrieval import index
from serve_app.retrieval.bulk import items
from serve_app.retrieval.bulk.items import Origin
from serve_app.retrieval.bulk.models import LazyModels
from serve_app.settings import BUNDLED, RetrievalSettings

HANDBOOK = Path("configs/demo/handbook")
SECTIONS = 10
WORDS = 30  # of a section
SAMPLE = 3000
Documents = list[list[str]]


def documents(count: int) -> Documents:
    """Sections of random words of the demo's handbook, by document; a chunk each."""
    text = " ".join(path.read_text(encoding="utf-8") for path in sorted(HANDBOOK.glob("*.md")))
    words = sorted(set(re.findall(r"[a-z]{3,}", text)))
    draw = random.Random(0)
    return [[" ".join(draw.choices(words, k=WORDS)) for _ in range(SECTIONS)] for _ in range(count)]


def write(found: Documents, file: Path) -> None:
    with file.open("w", encoding="utf-8") as out:
        for i, sections in enumerate(found):
            text = "\n\n".join(f"# Part {j}\n\n{each}" for j, each in enumerate(sections))
            out.write(json.dumps({"id": f"d{i}", "title": f"Document {i}", "text": text}) + "\n")


def change(found: Documents, share: float) -> None:
    """Another word in one section of as many documents as make that share of all chunks."""
    for sections in random.Random(1).sample(found, round(len(found) * SECTIONS * share)):
        sections[3] += " anew"


def ingest(file: Path, config: Path) -> dict[str, Any]:
    """The command's own report, and how long it took in all."""
    command = [sys.executable, "-m", "serve_app.cli", "ingest", str(file), "--json"]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--config", str(config)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"the ingest failed:\n{done.stderr[-2000:]}")
    return {**json.loads(done.stdout), "all_s": time.perf_counter() - started}


def alone(texts: Sequence[str]) -> float:
    """Texts a second of sentence-transformers, once it is loaded and warm."""
    script = """if True:
        import json, sys, time
        from sentence_transformers import SentenceTransformer
        model = SentenceTransformer(sys.argv[1], device="cpu")
        texts = json.load(sys.stdin)
        model.encode(texts[:64])
        started = time.perf_counter()
        model.encode(texts, normalize_embeddings=True, batch_size=32)
        print(len(texts) / (time.perf_counter() - started))
    """
    path = models.embedding_models()[BUNDLED]
    done = subprocess.run(
        [sys.executable, "-c", script, path],
        input=json.dumps(texts),
        stdout=subprocess.PIPE,  # what it complains of is seen
        text=True,
        check=True,
    )
    return float(done.stdout)


def chunks(file: Path) -> list[str]:
    """What is embedded of the documents in a file."""
    count = LazyModels(models.embedding_models()).model(BUNDLED).count
    bound = RetrievalSettings().chunk_tokens
    origin = Origin(str(file), "", file.stat().st_size, file.stem, str(file))
    documents = [each.document() for each in items.read(origin)]
    rows = [row for d in documents for row in index.rows(d, "t", max_tokens=bound, count=count)]
    return [row.embedded for row in rows]


def measure(count: int, folder: Path) -> dict[str, Any]:
    file, config = folder / "documents.jsonl", folder / "config.yaml"
    found = documents(count)
    write(found, file)
    texts = chunks(file)
    sample = random.Random(2).sample(texts, min(SAMPLE, len(texts)))
    before = alone(sample)
    with servers.milvus(folder / "milvus") as server:
        uri = f"http://127.0.0.1:{server.listen_port}"
        config.write_text(json.dumps({"retrieval": {"milvus_uri": uri}}), encoding="utf-8")
        runs = {"all": ingest(file, config), "none changed": ingest(file, config)}
        change(found, 0.01)
        write(found, file)
        runs["1 % changed"] = ingest(file, config)
    return {"chunks": len(texts), "alone_per_s": [before, alone(sample)], "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, default=2000, help=f"of {SECTIONS} chunks each")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args()
    console = Console(stderr=True)
    with (
        console.status("ingesting; some minutes"),
        tempfile.TemporaryDirectory(prefix="trivium-bench-") as folder,
    ):
        result = measure(options.documents, Path(folder))
    if options.json:
        print(json.dumps(result))
        return
    chunks, alone_per_s = result["chunks"], sum(result["alone_per_s"]) / 2
    first = result["runs"]["all"]["all_s"]
    table = Table("run", "seconds", "embedded", "chunks a second", "of alone", "of the first run")
    for name, run in result["runs"].items():
        rate = run["embedded"] / run["all_s"]
        cells = [f"{rate:.0f}", f"{rate / alone_per_s:.0%}"] if name == "all" else ["", ""]
        row = [f"{run['all_s']:.1f}", str(run["embedded"]), *cells]
        table.add_row(name, *row, f"{run['all_s'] / first:.1%}")
    Console().print(table)
    rates = " and ".join(f"{rate:.0f}" for rate in result["alone_per_s"])
    print(f"{chunks} chunks; sentence-transformers alone: {rates} a second, before and after")
    print(f"{psutil.cpu_count(logical=False)} cores")


if __name__ == "__main__":
    main()

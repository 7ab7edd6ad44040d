"""A bulk run in a process of its own, which tests may kill; arguments: URI COLLECTION FOLDER."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import ray

from serve_app import models
from serve_app.cli import local
from serve_app.retrieval import pipeline
from serve_app.retrieval.sources import discover
from serve_app.retrieval.stages import Model
from serve_app.retrieval.store import MilvusStore
from serve_app.settings import BUNDLED, Settings

PATHS = models.embedding_models()
RAY = contextlib.ExitStack()


async def run(uri: str, collection: str, folder: str) -> pipeline.Result:
    store = MilvusStore(uri, "", timeout_s=20)
    try:
        return await pipeline.ingest(
            discover([folder]),
            store,
            collection,
            "t",
            Model(BUNDLED, PATHS[BUNDLED]),
            64,
            paths=PATHS,
            start=start_ray,
            on_progress=lambda done, total: print(done, flush=True),
        )
    finally:
        await store.close()


def start_ray() -> None:
    """A Ray of this process's own, once; `RAY.close()` ends it."""
    if not ray.is_initialized():
        mine = Settings(state_dir=Path(f"bulk-{os.getpid()}"))
        RAY.enter_context(local.cluster(mine, purpose="bulk"))


if __name__ == "__main__":
    with RAY:
        print(asyncio.run(run(*sys.argv[1:])).report, flush=True)

"""A bulk run in a process of its own, which tests may kill; arguments: URI COLLECTION FOLDER."""

from __future__ import annotations

import asyncio
import sys
import tempfile

import ray

from serve_app import models
from serve_app.retrieval import pipeline
from serve_app.retrieval.sources import discover
from serve_app.retrieval.stages import Model
from serve_app.retrieval.store import MilvusStore
from serve_app.settings import BUNDLED

PATHS = models.embedding_models()


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
    """A small Ray of this process's own, once."""
    if ray.is_initialized():
        return
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 * 1024 * 1024,
        _temp_dir=tempfile.mkdtemp(prefix="trivium-bulk-"),
    )


if __name__ == "__main__":
    result = asyncio.run(run(*sys.argv[1:]))
    print(result.report, flush=True)
    ray.shutdown()

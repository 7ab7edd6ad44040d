"""A bulk run as `trivium ingest` makes it, in a process of its own, which tests may kill.

Arguments: URI COLLECTION FOLDER STATE. Prints how many rows are written, each time some are; at the
end, how many this run has embedded.
"""

from __future__ import annotations

import sys
from pathlib import Path

from serve_app import models
from serve_app.cli import local
from serve_app.cli.bulk import Base, embedding_model, with_base
from serve_app.retrieval import pipeline
from serve_app.retrieval.sources import discover
from serve_app.settings import RetrievalSettings, Settings


def main(uri: str, collection: str, folder: str, state: str) -> None:
    local.set_environment()  # Ray's part of it: gRPC's, which is due before the imports, tests have
    registry = str(Path(state).with_name("registry.db"))
    retrieval = RetrievalSettings(milvus_uri=uri, timeout_s=120, registry=registry)

    async def run(base: Base) -> pipeline.Result:
        return await pipeline.ingest(
            discover([folder]),
            base.store,
            base.registry,
            collection,
            "t",
            embedding_model(retrieval),
            64,
            paths=models.embedding_models(),
            start=base.start,
            on_progress=lambda done, _: print(done, flush=True),
        )

    result = with_base(Settings(state_dir=Path(state), retrieval=retrieval), run)
    print("embedded", result.report.embedded, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

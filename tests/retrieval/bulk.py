"""A bulk run as `trivium ingest` makes it, in a process of its own, which tests may kill.

Arguments: URI COLLECTION FOLDER STATE. Prints how many rows are written, each time some are; at the
end, how many this run has embedded.
"""

from __future__ import annotations

import sys
from pathlib import Path

from serve_app import models
from serve_app.cli import local
from serve_app.cli.bulk import Base, with_base
from serve_app.retrieval import bulk
from serve_app.retrieval.bulk import workers
from serve_app.retrieval.sources import listed
from serve_app.settings import RetrievalSettings, Settings


def main(uri: str, collection: str, folder: str, state: str) -> None:
    local.set_environment()  # Ray's part of it: gRPC's, which is due before the imports, tests have
    bulk._ALONE = 16 * 1024  # so that Ray has a part in little text
    workers._DOCUMENTS = 8  # and that a run of little is many steps
    registry = str(Path(state).with_name("registry.db"))
    retrieval = RetrievalSettings(milvus_uri=uri, timeout_s=120, registry=registry, chunk_tokens=64)

    settings = Settings(state_dir=Path(state), retrieval=retrieval)

    async def run(base: Base) -> bulk.Result:
        return await bulk.ingest(
            listed([folder]),
            base.store,
            base.registry,
            collection,
            "t",
            settings,
            paths=models.embedding_models(),
            start=base.start,
            on_progress=lambda step: print(step.embedded, flush=True),
        )

    result = with_base(settings, run)
    print("embedded", result.report.embedded, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A knowledge base as the router would know it, of files: for commands that run without a stack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.progress import track

from serve_app.cli.console import errors
from serve_app.domain import estimated_tokens
from serve_app.retrieval import formats, index, sources
from serve_app.router.coverage import Base, Coverage
from serve_app.router.encoder import Encoder
from serve_app.sketches import Sketch


def of_files(given: Sequence[str], chunk_tokens: int, encoder: Encoder, coverage: Coverage) -> Base:
    """The base that `trivium ingest` would make of sources; an empty one of none.

    Raises:
        UnprocessableDocument: A source does not exist, or a file cannot be read.
    """
    if not given:
        return coverage.base(Sketch.empty(), 0)

    def documents() -> Iterator[tuple[str, list[str]]]:
        files = sources.discover(given)
        for file in track(files, "reading the base", console=errors, transient=True):
            for document in formats.read(file.url, file.read(), file.stem).documents:
                rows = index.rows(
                    document,
                    "default",
                    max_tokens=chunk_tokens,
                    count=lambda text: estimated_tokens([text]),
                )
                yield document.id, [row.embedded for row in rows]

    sketch = Sketch.empty().with_texts(documents(), coverage.model(encoder))
    return coverage.base(sketch, 1)

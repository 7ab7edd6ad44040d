"""Documents, sent to a running stack over HTTP: the server embeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from rich.progress import track

from serve_app.cli.client import Client, Refused
from serve_app.cli.console import errors
from serve_app.errors import TriviumError
from serve_app.retrieval import formats
from serve_app.retrieval.index import IngestReport
from serve_app.retrieval.sources import discover

_BATCH = 16
_FAULTY = (400, 413, 422)  # statuses that say what was sent is at fault

Document = dict[str, Any]


def send(
    paths: list[str],
    collection: str,
    url: str,
    api_key: str | None = None,
    *,
    dry_run: bool = False,
) -> tuple[IngestReport, list[str], list[str]]:
    """Read files here and send their documents, with a progress bar.

    What is bad is listed, and what is left out of the others.
    """
    documents, problems, left_out = _read(paths)
    done = IngestReport(0, 0)
    if dry_run:
        return IngestReport(len(documents), 0), problems, left_out
    batches = [documents[start : start + _BATCH] for start in range(0, len(documents), _BATCH)]
    with Client(url, api_key) as client:

        def put(batch: list[Document]) -> None:
            nonlocal done
            path = f"/v1/collections/{collection}/documents"
            done = _sum(done, client.request("PUT", path, {"documents": batch}))

        for batch in track(batches, "ingesting", console=errors, transient=True):
            deliver(put, batch, problems.append)
    return done, problems, left_out


def deliver(
    put: Callable[[list[Document]], None], documents: list[Document], skip: Callable[[str], None]
) -> None:
    """Send documents together; in ever smaller parts where one of them is refused.

    Args:
        put: Sends some.
        skip: Is told which one is refused, and why; the others are sent.
    """
    try:
        put(documents)
    except Refused as error:
        if error.status not in _FAULTY:
            raise
        if len(documents) == 1:
            skip(f"{documents[0]['id']}: {error.message}")
            return
        half = len(documents) // 2
        deliver(put, documents[:half], skip)
        deliver(put, documents[half:], skip)


def _read(paths: list[str]) -> tuple[list[Document], list[str], list[str]]:
    documents: list[Document] = []
    problems: list[str] = []
    left_out: list[str] = []
    for file in discover(paths):
        try:
            reading = formats.read(file.url, file.read())
        except TriviumError as error:
            problems.append(error.message)
            continue
        problems += reading.problems
        left_out += filter(None, [reading.losses(file.url)])
        documents += [
            {"id": d.id, "title": d.title, "text": d.text, "metadata": dict(d.metadata)}
            for d in reading.documents
        ]
    return documents, problems, left_out


def _sum(done: IngestReport, answer: dict[str, int]) -> IngestReport:
    names = [field.name for field in dataclasses.fields(done)]
    return IngestReport(**{name: getattr(done, name) + answer[name] for name in names})

"""Documents, sent to a running stack over HTTP: the server embeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode

from rich.progress import track

from serve_app import domain
from serve_app.cli.client import Client, Refused
from serve_app.cli.console import errors
from serve_app.errors import TriviumError
from serve_app.retrieval import formats
from serve_app.retrieval.index import IngestReport
from serve_app.retrieval.sources import File, twice

_BATCH = 16
_PAGE = 1000
_FAULTY = (400, 413, 422)  # statuses that say what was sent is at fault

Document = dict[str, Any]


def send(
    files: Sequence[File],
    collection: str,
    url: str,
    api_key: str | None = None,
    *,
    dry_run: bool = False,
) -> tuple[IngestReport, list[str], list[str]]:
    """Read files here and send their documents, with a progress bar.

    What is bad is listed, and what is left out of the others. As in a run without HTTP, of two
    documents of one id the first is taken, and documents of the same sources that are gone are
    removed, unless something could not be read or taken.
    """
    documents, problems, left_out = _read(files)
    with Client(url, api_key) as client:
        there = f"/v1/collections/{collection}/documents"
        if dry_run:
            done = IngestReport(len(documents), 0)
        else:
            done = put(client, there, documents, problems)
        if problems:
            return done, problems, left_out
        kept = {each["id"] for each in documents}
        for source in dict.fromkeys(file.source for file in files):
            for gone in sorted(listed(client, there, source) - kept):
                done = replace(done, removed=done.removed + removed(client, there, gone, dry_run))
    return done, problems, left_out


def put(
    client: Client, there: str, documents: Sequence[Document], problems: list[str]
) -> IngestReport:
    """Send documents, with a progress bar; those that are refused are added to the problems."""
    done = IngestReport(0, 0)

    def send_some(batch: list[Document]) -> None:
        nonlocal done
        done = _sum(done, client.request("PUT", there, {"documents": batch}))

    starts = range(0, len(documents), _BATCH)
    batches = [list(documents[start : start + _BATCH]) for start in starts]
    for batch in track(batches, "ingesting", console=errors, transient=True):
        deliver(send_some, batch, problems.append)
    return done


def as_sent(document: domain.Document, **more: Any) -> Document:
    """A document as the API takes it."""
    return {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "metadata": dict(document.metadata),
        **more,
    }


def listed(client: Client, there: str, source: str) -> set[str]:
    """Ids of the documents that were read from a source."""
    found: set[str] = set()
    after = ""
    while True:
        query = urlencode({"source": source, "after": after, "limit": _PAGE})
        try:
            page = client.request("GET", f"{there}?{query}")
        except Refused as error:
            if error.status == 404:  # nothing was ever put into the collection
                return found
            raise
        found |= {each["id"] for each in page["data"]}
        if not page["has_more"]:
            return found
        after = page["last_id"]


def removed(client: Client, there: str, document_id: str, dry_run: bool) -> int:
    """Remove a document, or say what would go; how many chunks it had."""
    one = f"{there}/{quote(document_id, safe='')}"
    try:
        if dry_run:
            return len(client.request("GET", one)["chunks"])
        return int(client.request("DELETE", one)["chunks"])
    except Refused as error:
        if error.status == 404:  # somebody else was quicker
            return 0
        raise


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


def _read(files: Sequence[File]) -> tuple[list[Document], list[str], list[str]]:
    documents: dict[str, Document] = {}
    problems: list[str] = []
    left_out: list[str] = []
    for file in files:
        try:
            reading = formats.read(file.url, file.read(), file.stem)
        except TriviumError as error:
            problems.append(error.message)
            continue
        problems += reading.problems
        left_out += filter(None, [reading.losses(file.url)])
        for each in reading.documents:
            if each.id in documents:
                problems.append(twice(file.url, each.id))
                continue
            allow = list(each.allow or file.allow)
            documents[each.id] = as_sent(each, source=file.source, url=file.url, allow=allow)
    return list(documents.values()), problems, left_out


def _sum(done: IngestReport, answer: dict[str, int]) -> IngestReport:
    names = [field.name for field in dataclasses.fields(done)]
    return IngestReport(**{name: getattr(done, name) + answer[name] for name in names})

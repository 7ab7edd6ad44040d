"""A stream of documents, from a growing file or standard input, sent as they come."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rich.markup import escape

from serve_app.cli.client import Client, Refused
from serve_app.cli.console import errors
from serve_app.errors import SettingsError

_BATCH = 64
_LOOK_AGAIN_S = 0.1


def send(paths: list[str], collection: str, url: str, api_key: str | None, as_json: bool) -> None:
    """Send rows `{"id","text",…}` until the input ends; what is waiting goes in one request.

    A row that is refused for what it is is named and skipped.

    Raises:
        TriviumError: The server is not there, or takes no more now: later rows would be lost too.
    """
    if len(paths) != 1:
        raise SettingsError("--follow takes one file, or - for standard input")
    waiting: queue.Queue[str | None] = queue.Queue(maxsize=4 * _BATCH)
    reader = threading.Thread(target=_read, args=(paths[0], waiting), daemon=True)
    if paths[0] != "-" and not Path(paths[0]).is_file():
        raise SettingsError(f"{paths[0]}: no such file")
    reader.start()
    with Client(url, api_key) as client:
        for batch in _batches(waiting):
            for documents in (batch, *([[each] for each in batch] if len(batch) > 1 else [])):
                try:
                    report = client.request(
                        "PUT", f"/v1/collections/{collection}/documents", {"documents": documents}
                    )
                except Refused as error:
                    if error.status not in (400, 413, 422):
                        raise
                    if len(documents) > 1:
                        continue  # then one by one: the bad one is named
                    errors.print(f"[yellow]skipped[/yellow] {escape(error.message)}")
                else:
                    if as_json:
                        print(json.dumps(report), flush=True)
                    if len(documents) == len(batch):
                        break


def _batches(waiting: queue.Queue[str | None]) -> Iterator[list[dict[str, object]]]:
    ended = False
    while not ended:
        lines = [waiting.get()]
        while len(lines) < _BATCH and not waiting.empty():
            lines.append(waiting.get())
        ended = None in lines
        batch = []
        for line in lines:
            if line is None or not line.strip():
                continue
            try:
                row = json.loads(line)
                batch.append({"title": row["id"], **row})
            except (ValueError, KeyError, TypeError):
                errors.print(f"[yellow]skipped[/yellow] not a row: {escape(line.strip()[:80])}")
        if batch:
            yield batch


def _read(path: str, waiting: queue.Queue[str | None]) -> None:
    if path == "-":
        for line in sys.stdin:
            waiting.put(line)
        waiting.put(None)
        return
    partial = ""
    with Path(path).open(encoding="utf-8") as file:
        while True:
            partial += file.readline()
            if partial.endswith("\n"):
                waiting.put(partial)
                partial = ""
            else:
                time.sleep(_LOOK_AGAIN_S)

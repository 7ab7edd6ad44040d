"""A stream of documents, from a growing file or standard input, sent as they come."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import IO

from rich.markup import escape
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential

from serve_app.cli.client import Client, Refused
from serve_app.cli.console import errors
from serve_app.cli.sending import Document, deliver
from serve_app.errors import SettingsError, TriviumError, Unavailable

_BATCH = 64
_AHEAD = 4 * _BATCH  # lines that are read before they can be sent; then the writer has to wait
_LOOK_AGAIN_S = 0.1
_PAUSES_S = (0.1, 3.0)  # between two attempts: the first pause, and the longest
_LATER = (429, 503)  # statuses that say it may be taken another time

Lines = queue.Queue[bytes | None]  # None: there are no more


def send(paths: list[str], collection: str, url: str, api_key: str | None, as_json: bool) -> None:
    """Send rows `{"id","text",…}` until the input ends; what is waiting goes in one request.

    A row that is refused for what it is is named and skipped. While the server is gone or takes no
    more, what was read is kept and tried again.

    Raises:
        TriviumError: The server is not there at the start, when nothing has been read yet; or it
            refuses whatever is sent.
    """
    if len(paths) != 1:
        raise SettingsError("--follow takes one file, or - for standard input")
    source = _opened(paths[0])
    with Client(url, api_key) as client:
        # A row of standard input that was read cannot be read again: first see that there is
        # somebody to take it.
        client.request("GET", "/v1/models")

        def put(documents: list[Document]) -> None:
            path = f"/v1/collections/{collection}/documents"
            report = client.request("PUT", path, {"documents": documents})
            if as_json:
                print(json.dumps(report), flush=True)

        lines: Lines = queue.Queue(maxsize=_AHEAD)
        threading.Thread(target=_read, args=(source, lines), daemon=True).start()
        for batch in _batches(lines):
            try:
                deliver(partial(_patiently, put), batch, _skipped)
            except (TriviumError, KeyboardInterrupt):
                errors.print(
                    f"not sent: {len(batch) + lines.qsize()} rows that were read, "
                    f"from id {escape(str(batch[0]['id']))}",
                    soft_wrap=True,
                )
                raise


def _patiently(put: Callable[[list[Document]], None], batch: list[Document]) -> None:
    """Send rows, however long that takes. Sending them twice changes nothing: they have ids."""

    def say(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            why = getattr(state.outcome.exception(), "message", "")
            told = f"[yellow]waiting[/yellow] with {len(batch)} rows: {escape(why)}"
            errors.print(told, soft_wrap=True)

    pause, longest = _PAUSES_S
    again = Retrying(
        wait=wait_exponential(multiplier=pause, max=longest),
        retry=retry_if_exception(_is_for_later),
        before_sleep=say,
        reraise=True,
    )
    again(put, batch)
    if again.statistics["attempt_number"] > 1:
        errors.print("[green]going on[/green]")


def _is_for_later(error: BaseException) -> bool:
    if isinstance(error, Refused):
        return error.status in _LATER
    return isinstance(error, Unavailable)


def _batches(lines: Lines) -> Iterator[list[Document]]:
    ended = False
    while not ended:
        taken = [lines.get()]
        while len(taken) < _BATCH and not lines.empty():
            taken.append(lines.get())
        ended = None in taken
        rows = _rows(line for line in taken if line is not None and line.strip())
        # A later row of the same id is what became of the earlier one.
        if latest := {str(row["id"]): row for row in rows}:
            yield list(latest.values())


def _rows(lines: Iterable[bytes]) -> Iterator[Document]:
    for line in lines:
        try:
            row = json.loads(line)
            row = {"title": row["id"], **row}
            # Python's parser takes NaN and 1e400 for numbers, which no request can hold.
            json.dumps(row, allow_nan=False, ensure_ascii=False).encode()
            yield row
        except (ValueError, KeyError, TypeError, RecursionError):
            _skipped(f"not a row: {line.decode('utf-8', 'replace').strip()[:80]}")


def _skipped(problem: str) -> None:
    errors.print(f"[yellow]skipped[/yellow] {escape(problem)}", soft_wrap=True)


def _opened(path: str) -> Iterable[bytes]:
    """Lines of a file as it grows, or of standard input."""
    if path == "-":
        # Not sys.stdin itself: Python cannot end while another thread waits in it.
        return open(sys.stdin.fileno(), "rb", closefd=False)
    try:
        return _growing(open(path, "rb"))
    except OSError as error:
        raise SettingsError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def _growing(file: IO[bytes]) -> Iterator[bytes]:
    partial = b""
    while True:
        partial += file.readline()
        if partial.endswith(b"\n"):
            yield partial
            partial = b""
        else:
            time.sleep(_LOOK_AGAIN_S)


def _read(source: Iterable[bytes], lines: Lines) -> None:
    try:
        for line in source:
            lines.put(line)
    finally:
        lines.put(None)

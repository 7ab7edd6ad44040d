"""Where bulk ingest reads from: files, folders and globs, here or at any fsspec URL."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from serve_app.errors import UnprocessableDocument
from serve_app.retrieval.formats import SUFFIXES
from serve_app.storage import within

MAX_BYTES = 100 * 1024 * 1024
_LIST_S = 120.0  # a bucket of half a million files
_READ_S = 300.0  # the largest file over a slow line


@dataclass(frozen=True, slots=True)
class File:
    """A file to ingest.

    Attributes:
        source: The argument it was found by; a later run with the same one notices what is gone.
        size: In bytes; 0 where the file system does not say.
        stem: Its path below the source without its suffix, as `hr/README`: the id of its document,
            where it names no other.
        allow: Groups that may read its documents, where those name none themselves.
    """

    url: str
    source: str
    size: int
    stem: str = ""
    allow: tuple[str, ...] = ()

    def read(self) -> bytes:
        """Its content.

        Raises:
            UnprocessableDocument: It cannot be read, or is larger than `MAX_BYTES`.
        """
        if self.size > MAX_BYTES:
            raise self._too_large()
        try:
            data = within(_READ_S, _content, self.url)
        except Exception as error:  # each store's client has errors of its own
            raise UnprocessableDocument(f"{self.url}: cannot be read: {_why(error)}") from None
        if len(data) > MAX_BYTES:
            raise self._too_large()
        return data

    def _too_large(self) -> UnprocessableDocument:
        return UnprocessableDocument(
            f"{self.url}: larger than {MAX_BYTES >> 20} MiB; split it into smaller files"
        )


def discover(
    arguments: Sequence[str], source: str | None = None, allow: Sequence[str] = ()
) -> list[File]:
    """Files to ingest: each argument itself, or what lies below it or matches it, sorted.

    Args:
        source: What the files are known by from run to run; by default the argument itself, which
            may lie elsewhere next time.
        allow: Groups that may read the documents, where those name none themselves.

    Raises:
        UnprocessableDocument: An argument does not exist, or holds nothing that can be read.
    """
    found: dict[str, File] = {}
    for argument in arguments:
        for file in _files(argument):
            known_by = file.source if source is None else source
            found.setdefault(file.url, replace(file, source=known_by, allow=tuple(allow)))
    return list(found.values())


def twice(url: str, document_id: str) -> str:
    """What is said of a file's document whose id another one of the run has."""
    return f"{url}: the id {document_id!r} is taken already; give one of the two another `id`"


def _files(argument: str) -> list[File]:
    try:
        found, what = within(_LIST_S, _listed, argument)
    except Exception as error:
        raise UnprocessableDocument(f"{argument}: cannot be listed: {_why(error)}") from None
    if not found:
        raise UnprocessableDocument(f"{argument}: {what}")
    return found


def _listed(argument: str) -> tuple[list[File], str]:
    """The files, and what is missing where there are none."""
    import fsspec

    files, path = fsspec.core.url_to_fs(argument)
    base = path
    if any(character in path for character in "*?["):
        # What stands before the first part that is a pattern is where paths begin.
        base = re.split(r"[*?\[]", path)[0].rpartition("/")[0]
        urls = [each for each in sorted(files.glob(path)) if files.isfile(each)]
        what = "no file matches it"
    elif files.isdir(path):
        urls = [each for each in sorted(files.find(path)) if _readable(each)]
        what = f"no {', '.join(SUFFIXES)} files below it"
    else:
        base = path.rpartition("/")[0]
        urls = [path] if files.exists(path) else []
        what = "no such file or folder"
    whole = files.unstrip_protocol if "://" in argument else str
    source = _source(argument)
    return [
        File(
            str(whole(url)),
            source,
            int(files.info(url).get("size") or 0),
            _stem(url.removeprefix(base)),
        )
        for url in urls
    ], what


def _stem(path: str) -> str:
    """`/hr/README.md` → `hr/README`."""
    return str(PurePosixPath(path.strip("/")).with_suffix(""))


def _content(url: str) -> bytes:
    import fsspec

    with fsspec.open(url, "rb") as stream:
        data: bytes = stream.read(MAX_BYTES + 1)
    return data


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _source(argument: str) -> str:
    return argument if "://" in argument else os.path.abspath(argument)


def _readable(path: str) -> bool:
    hidden = any(part.startswith(".") for part in path.split("/")[-1:])
    return path.lower().endswith(SUFFIXES) and not hidden

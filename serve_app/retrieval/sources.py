"""Where bulk ingest reads from: files, folders and globs, here or at any fsspec URL."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.errors import UnprocessableDocument
from serve_app.retrieval.formats import SUFFIXES

MAX_BYTES = 100 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class File:
    """A file to ingest.

    Attributes:
        source: The argument it was found by; a later run with the same one notices what is gone.
        size: In bytes; 0 where the file system does not say.
    """

    url: str
    source: str
    size: int

    def read(self) -> bytes:
        """Its content.

        Raises:
            UnprocessableDocument: It cannot be read, or is larger than `MAX_BYTES`.
        """
        import fsspec

        if self.size > MAX_BYTES:
            raise self._too_large()
        try:
            with fsspec.open(self.url, "rb") as stream:
                data: bytes = stream.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UnprocessableDocument(f"{self.url}: cannot be read: {reason}") from None
        if len(data) > MAX_BYTES:
            raise self._too_large()
        return data

    def _too_large(self) -> UnprocessableDocument:
        return UnprocessableDocument(
            f"{self.url}: larger than {MAX_BYTES >> 20} MiB; split it into smaller files"
        )


def discover(arguments: Sequence[str]) -> list[File]:
    """Files to ingest: each argument itself, or what lies below it or matches it, sorted.

    Raises:
        UnprocessableDocument: An argument does not exist, or holds nothing that can be read.
    """
    found: dict[str, File] = {}
    for argument in arguments:
        for url, size in _urls(argument):
            found.setdefault(url, File(url, _source(argument), size))
    return list(found.values())


def _urls(argument: str) -> list[tuple[str, int]]:
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(argument)
        if any(character in path for character in "*?["):
            urls = [each for each in sorted(files.glob(path)) if files.isfile(each)]
            what = "no file matches it"
        elif files.isdir(path):
            urls = [each for each in sorted(files.find(path)) if _readable(each)]
            what = f"no {', '.join(SUFFIXES)} files below it"
        else:
            urls = [path] if files.exists(path) else []
            what = "no such file or folder"
        sized = [(each, int(files.info(each).get("size") or 0)) for each in urls]
    except (OSError, ValueError, ImportError) as error:
        raise UnprocessableDocument(f"{argument}: cannot be listed: {error}") from None
    if not urls:
        raise UnprocessableDocument(f"{argument}: {what}")
    whole = files.unstrip_protocol if "://" in argument else str
    return [(str(whole(url)), size) for url, size in sized]


def _source(argument: str) -> str:
    return argument if "://" in argument else os.path.abspath(argument)


def _readable(path: str) -> bool:
    hidden = any(part.startswith(".") for part in path.split("/")[-1:])
    return path.lower().endswith(SUFFIXES) and not hidden

"""Where bulk ingest reads from: files, folders and globs, here or at any fsspec URL.

Files are listed folder by folder, so that a listing takes no more memory than its largest folder.
"""

from __future__ import annotations

import datetime
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, TypeVar

from serve_app.errors import UnprocessableDocument
from serve_app.retrieval.formats import SUFFIXES
from serve_app.storage import within

T = TypeVar("T")

MAX_BYTES = 100 * 1024 * 1024
_LIST_S = 120.0  # the largest folder of a bucket
_READ_S = 300.0  # the largest file over a slow line
_LOOKED_AT = 1000  # files that are looked at together


@dataclass(frozen=True, slots=True)
class File:
    """A file to ingest.

    Attributes:
        source: The argument it was found by; a later run with the same one notices what is gone.
        size: In bytes; 0 where the file system does not say.
        stem: Its path below the source without its suffix, as `hr/README`: the id of its document,
            where it names no other.
        mtime: When it was changed last, in Unix seconds; 0 where the file system does not say.
        etag: What an object store calls its content by.
        allow: Groups that may read its documents, where those name none themselves.
        place: What it is known by from run to run: its URL, or its path below a source that may lie
            elsewhere each time.
    """

    url: str
    source: str
    size: int
    stem: str = ""
    mtime: float = 0.0
    etag: str = ""
    place: str = ""
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
    """As `listed`, all at once.

    Raises:
        UnprocessableDocument: As `listed`.
    """
    return list(listed(arguments, source, allow))


def listed(
    arguments: Sequence[str], source: str | None = None, allow: Sequence[str] = ()
) -> Iterator[File]:
    """Files to ingest: each argument itself, or what lies below it or matches it, once.

    Args:
        source: What the files are known by from run to run; by default the argument itself, which
            may lie elsewhere next time.
        allow: Groups that may read the documents, where those name none themselves.

    Raises:
        UnprocessableDocument: An argument does not exist, or holds nothing that can be read.
    """
    before: list[_Argument] = []
    for argument in arguments:
        here = _told(argument, _Argument.of, argument)
        is_empty = True
        for path, info in _told_each(argument, here.entries()):
            is_empty = False
            if not any(each.has(argument, path) for each in before):
                yield replace(here.file(path, info, source), allow=tuple(allow))
        if is_empty:
            raise UnprocessableDocument(f"{argument}: {here.lacking}")
        before.append(here)


def twice(url: str, document_id: str) -> str:
    """What is said of a file's document whose id another one of the run has."""
    return f"{url}: the id {document_id!r} is taken already; give one of the two another `id`"


@dataclass(frozen=True, slots=True)
class _Info:
    size: int
    mtime: float
    etag: str


@dataclass(frozen=True, slots=True)
class _Argument:
    """What one argument names.

    Attributes:
        base: Where the paths of its files begin.
        pattern: Which files below the base; none for one file alone.
        depth: How many folders deep they lie at most; none where there is no bound.
        lacking: What is missing where there is no such file.
    """

    argument: str
    files: Any
    base: str
    only: str
    pattern: Callable[[str], object] | None
    depth: int | None
    lacking: str

    @classmethod
    def of(cls, argument: str) -> _Argument:
        import fsspec

        # A listing that is kept would grow with the bucket, and be old the next time.
        files, path = fsspec.core.url_to_fs(argument, use_listings_cache=False)
        if any(character in path for character in "*?["):
            # What stands before the first part that is a pattern is where paths begin.
            base = re.split(r"[*?\[]", path)[0].rpartition("/")[0]
            depth = None if "**" in path else path.removeprefix(base).strip("/").count("/")
            matches = re.compile(fsspec.utils.glob_translate(path)).match
            return cls(argument, files, base, "", matches, depth, "no file matches it")
        if files.isdir(path):
            lacking = f"no {', '.join(SUFFIXES)} files below it"
            return cls(argument, files, path.rstrip("/"), "", _readable, None, lacking)
        base = path.rpartition("/")[0]
        return cls(argument, files, base, path, None, 0, "no such file or folder")

    def entries(self) -> Iterator[tuple[str, _Info]]:
        """Paths of its files, folder by folder, and what the file system says of each."""
        if self.pattern is None:
            if within(_LIST_S, self.files.exists, self.only):
                yield self.only, _info(within(_LIST_S, self.files.info, self.only))
            return
        walked = self._here(self.base or "/", (), self.depth) if self._is_local else self._there()
        yield from walked

    def has(self, argument: str, path: str) -> bool:
        """Whether a file that another argument has found is one of its own too."""
        if ("://" in argument) != ("://" in self.argument):
            return False
        if self.pattern is None:
            return path == self.only
        below = path.startswith(self.base + "/")
        return below and bool(self.pattern(path))

    def file(self, path: str, info: _Info, source: str | None) -> File:
        url = self.files.unstrip_protocol(path) if "://" in self.argument else path
        below = path.removeprefix(self.base).strip("/")
        own = self.argument if "://" in self.argument else os.path.abspath(self.argument)
        return File(
            str(url),
            source or own,
            info.size,
            str(PurePosixPath(below).with_suffix("")),
            info.mtime,
            info.etag,
            f"{source}/{below}" if source else str(url),
        )

    @property
    def _is_local(self) -> bool:
        return "file" in ((kind,) if isinstance(kind := self.files.protocol, str) else kind)

    def _here(
        self, folder: str, above: tuple[tuple[int, int], ...], depth: int | None
    ) -> Iterator[tuple[str, _Info]]:
        """What lies below a folder of this machine; links to a folder above are not followed."""
        itself = os.stat(folder)
        here = (itself.st_dev, itself.st_ino)
        if here in above:
            return
        names = within(_LIST_S, lambda: sorted(os.listdir(folder)))
        for start in range(0, len(names), _LOOKED_AT):
            paths = [os.path.join(folder, each) for each in names[start : start + _LOOKED_AT]]
            for path, about in zip(paths, within(_LIST_S, _stats, paths), strict=True):
                if about is None:
                    continue  # a link that leads nowhere, or what went just now
                if about.is_folder:
                    if depth is None or depth > 0:
                        below = None if depth is None else depth - 1
                        yield from self._here(path, (*above, here), below)
                elif self.pattern is not None and self.pattern(path):
                    yield path, about.info

    def _there(self) -> Iterator[tuple[str, _Info]]:
        """The same of another file system."""
        left: list[tuple[str, int | None]] = [(self.base, self.depth)]
        while left:
            folder, depth = left.pop()
            found = within(_LIST_S, self.files.ls, folder, True)
            folders = []
            for each in sorted(found, key=lambda each: str(each["name"])):
                path = str(each["name"])
                if each.get("type") == "directory":
                    if path.rstrip("/") != folder.rstrip("/") and depth != 0:
                        folders.append((path, None if depth is None else depth - 1))
                elif self.pattern is not None and self.pattern(path):
                    yield path, _info(each)
            left += reversed(folders)


@dataclass(frozen=True, slots=True)
class _Stat:
    is_folder: bool
    info: _Info


def _stats(paths: Sequence[str]) -> list[_Stat | None]:
    found: list[_Stat | None] = []
    for path in paths:
        try:
            about = os.stat(path)
        except FileNotFoundError:
            found.append(None)
            continue
        if stat.S_ISDIR(about.st_mode) or stat.S_ISREG(about.st_mode):
            info = _Info(about.st_size, about.st_mtime, "")
            found.append(_Stat(stat.S_ISDIR(about.st_mode), info))
        else:
            found.append(None)  # a pipe or a device
    return found


def _info(about: Mapping[str, Any]) -> _Info:
    """What a file system says of a file; each has words of its own."""
    when = next((about[n] for n in _TIMES if about.get(n)), 0.0)
    etag = next((str(about[name]) for name in ("ETag", "etag", "md5Hash") if about.get(name)), "")
    return _Info(int(about.get("size") or 0), _seconds(when), etag)


_TIMES = ("mtime", "LastModified", "last_modified", "updated")


def _seconds(when: Any) -> float:
    if isinstance(when, str):
        try:
            when = datetime.datetime.fromisoformat(when)
        except ValueError:
            return 0.0
    if isinstance(when, datetime.datetime):
        return when.timestamp()
    return float(when) if isinstance(when, int | float) else 0.0


def _told(argument: str, work: Callable[..., T], *args: Any) -> T:
    try:
        return within(_LIST_S, work, *args)
    except Exception as error:  # each store's client has errors of its own
        raise UnprocessableDocument(f"{argument}: cannot be listed: {_why(error)}") from None


def _told_each(argument: str, found: Iterable[T]) -> Iterator[T]:
    """The same of what comes one by one: a folder that cannot be listed ends the run, since what
    is in it would look as if it were gone."""
    waiting = iter(found)
    while True:
        try:
            one = next(waiting)
        except StopIteration:
            return
        except Exception as error:
            raise UnprocessableDocument(f"{argument}: cannot be listed: {_why(error)}") from None
        yield one


def _content(url: str) -> bytes:
    if "://" not in url:
        with open(url, "rb") as here:
            return here.read(MAX_BYTES + 1)
    import fsspec

    with fsspec.open(url, "rb") as stream:
        data: bytes = stream.read(MAX_BYTES + 1)
    return data


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _readable(path: str) -> bool:
    hidden = any(part.startswith(".") for part in path.split("/")[-1:])
    return path.lower().endswith(SUFFIXES) and not hidden

"""Files under a root that fsspec knows: a folder, `s3://bucket/…`, `gs://…`, `abfs://…`.

Every call has a deadline, and what a store's client raises becomes one error that says what to do.
Nothing is opened before the first call: a store that cannot be reached keeps nobody from starting.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem, get_loop, sync
from fsspec.exceptions import FSTimeoutError
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

from serve_app.errors import SettingsError, Unavailable

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

T = TypeVar("T")

_CALL_S = 10.0  # a listing, or a small file
_TRANSFER_S = 900.0  # a gigabyte over a slow line


@dataclass(frozen=True, slots=True)
class _Opened:
    """A store's file system.

    Attributes:
        root: The root's path in it.
        objects: Whether it is an object store: no folders to make, and nothing is seen half
            written. fsspec's own asynchronous file systems are; others are wrapped.
    """

    files: AsyncFileSystem
    root: str
    objects: bool

    def path(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root


class Store:
    """Files by their paths below a root, as `name/1/manifest.json`.

    Args:
        root: A folder, or an fsspec URL. Credentials come from where each store's own client looks
            for them: environment, files of its own, or the machine's identity.
        call_s: Seconds that a small call may take.

    Raises:
        SettingsError: fsspec knows no such kind of store, or its package is not installed.

    Every method raises `Unavailable` when the store cannot be reached, refuses the credentials or
    has no such bucket, and `FileNotFoundError` where a file is missing.
    """

    def __init__(self, root: str, call_s: float = _CALL_S) -> None:
        protocol, _ = fsspec.core.split_protocol(root)
        try:
            fsspec.get_filesystem_class(protocol or "file")
        except (ValueError, ImportError) as error:
            raise SettingsError(f"{root}: fsspec cannot open it: {error}") from None
        self.root = root.rstrip("/")
        self._call_s = call_s
        self._opening = threading.Lock()
        self._known: _Opened | None = None
        self._bucket_seen = False

    def folders(self, path: str = "") -> list[str]:
        """Names of the folders in one, sorted; none where it is not there."""
        try:
            found = self._call("ls", path, detail=True)
        except FileNotFoundError:
            return []
        names = (each["name"] for each in found if each["type"] == "directory")
        return sorted(name.rstrip("/").rpartition("/")[2] for name in names)

    def files(self, path: str) -> list[str]:
        """Paths of all files below a folder, or of the file that it is; none if it is not there."""
        before = len(self._opened.root) + 1
        return sorted(str(each)[before:] for each in self._call("find", path))

    def exists(self, path: str) -> bool:
        try:
            self._call("info", path)
        except FileNotFoundError:
            return False
        return True

    def read(self, path: str) -> bytes:
        content: bytes = self._call("cat_file", path)
        return content

    def write(self, path: str, content: bytes) -> None:
        """Replace a file, whole or not at all."""
        if self._opened.objects:
            self._call("pipe_file", path, content)
            return
        aside = f"{path}.{uuid.uuid4().hex}"
        self._make_folder_of(path)
        try:
            self._call("pipe_file", aside, content)
            self._call("mv", aside, self._opened.path(path))
        except BaseException:
            with contextlib.suppress(Exception):
                self._call("rm", aside)
            raise

    def upload(self, local: Path, path: str) -> None:
        opened = self._opened
        if not opened.objects:
            self._make_folder_of(path)
        self._run(_TRANSFER_S, opened.files._put_file, str(local), opened.path(path))

    def download(self, path: str, local: Path) -> None:
        opened = self._opened
        self._run(_TRANSFER_S, opened.files._get_file, opened.path(path), str(local))

    def remove(self, path: str) -> None:
        """A file, or a folder with all that is in it."""
        self._call("rm", path, recursive=True)

    def arrow(self) -> tuple[FileSystem, str]:
        """An object store as Arrow's libraries take it, Ray's among them, and the root's path.

        Raises:
            SettingsError: It is none.
        """
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        opened = self._opened
        if not opened.objects:
            raise SettingsError(f"{self.root} is no object store: name a folder by its path")
        return PyFileSystem(FSSpecHandler(opened.files)), opened.root

    def _make_folder_of(self, path: str) -> None:
        self._call("makedirs", path.rpartition("/")[0], exist_ok=True)

    def _call(self, method: str, path: str, *args: Any, **options: Any) -> Any:
        opened = self._opened
        function = getattr(opened.files, f"_{method}")
        return self._run(self._call_s, function, opened.path(path), *args, **options)

    @property
    def _opened(self) -> _Opened:
        """Opened by the first who asks."""
        with self._opening:
            if self._known is None:
                # Some clients look for credentials, over the network too, when they are made.
                self._known = self._run(self._call_s, asyncio.to_thread, self._open)
            return self._known

    def _open(self) -> _Opened:
        # Others write to the same store: what it held a moment ago is no answer.
        files, path = fsspec.core.url_to_fs(self.root, use_listings_cache=False)
        objects = bool(files.async_impl)
        wrapped = files if objects else AsyncFileSystemWrapper(files, asynchronous=False)
        return _Opened(wrapped, path.rstrip("/"), objects)

    def _run(
        self,
        limit_s: float,
        function: Callable[..., Coroutine[Any, Any, Any]],
        *args: Any,
        **options: Any,
    ) -> Any:
        try:
            found = sync(get_loop(), function, *args, timeout=limit_s, **options)
        except FileNotFoundError:
            self._require_bucket()
            raise
        except FSTimeoutError:
            raise Unavailable(
                f"{self.root} did not answer within {limit_s:g} s: check the network and the "
                "store's address"
            ) from None
        except PermissionError as error:
            raise Unavailable(
                f"{self.root} refuses access: check the credentials and what they may do "
                f"({_first_line(error)})"
            ) from None
        except Exception as error:
            # Each store's client has errors of its own.
            raise Unavailable(f"{self.root}: {_first_line(error)}") from None
        self._bucket_seen = self._known is not None
        return found

    def _require_bucket(self) -> None:
        """A missing file is ordinary; a missing bucket is a mistake in the settings."""
        opened = self._known
        if opened is None or self._bucket_seen:
            return
        if opened.objects:
            bucket = opened.root.partition("/")[0]
            if not sync(get_loop(), opened.files._exists, bucket, timeout=self._call_s):
                raise Unavailable(
                    f"{self.root}: there is no bucket {bucket}, or these credentials may not list "
                    "it: create it, or correct the address"
                )
        self._bucket_seen = True


def fetched(source: str, folder: Path) -> Path:
    """What a path names; or a copy, in a folder, of the file or the folder that a URL names.

    Raises:
        SettingsError: Nothing is there, or fsspec knows no such kind of store.
        Unavailable: As the methods of `Store`.
    """
    if "://" not in source:
        return Path(source)
    parent, _, name = source.rstrip("/").rpartition("/")
    store = Store(parent)
    found = store.files(name)
    if not found:
        raise SettingsError(f"{source}: there is no such file or folder")
    for each in found:
        local = folder / each
        if not local.resolve().is_relative_to(folder.resolve()):
            raise SettingsError(f"{source}: {each} lies outside of it")
        local.parent.mkdir(parents=True, exist_ok=True)
        store.download(each, local)
    return folder / name


def within(limit_s: float, function: Callable[..., T], *args: Any) -> T:
    """What a blocking function returns.

    Raises:
        TimeoutError: It takes longer than `limit_s`; it is then left to itself.
    """
    try:
        found: T = sync(get_loop(), asyncio.to_thread, function, *args, timeout=limit_s)
    except FSTimeoutError:
        raise TimeoutError(f"no answer within {limit_s:g} s") from None
    return found


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

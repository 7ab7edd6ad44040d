"""Training whose output is in a bucket: what lets it go on anywhere is there, and nowhere else.

<parent>/<name>/…                   the finished adapter; its recipe.json is written last
<parent>/.<name>.work/recipe.json   of a run that is under way
<parent>/.<name>.work/run/…         its checkpoints, as Ray Train keeps them
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serve_app.errors import SettingsError
from serve_app.expert.recipe import FILE
from serve_app.storage import Store

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


@dataclass(frozen=True, slots=True)
class Bucket:
    """The place of one adapter in a bucket. Its methods raise `Unavailable` as those of `Store`."""

    store: Store
    name: str

    @classmethod
    def of(cls, url: str) -> Bucket:
        """Raises `SettingsError` if fsspec knows no such kind of store."""
        parent, name = posixpath.split(url.rstrip("/"))
        if "://" not in parent:
            raise SettingsError(f"{url}: name a folder in it, such as {url}/house-style")
        return cls(Store(parent), name)

    @property
    def url(self) -> str:
        return f"{self.store.root}/{self.name}"

    @property
    def work_url(self) -> str:
        return f"{self.store.root}/{self._work}"

    @property
    def _work(self) -> str:
        return f".{self.name}.work"

    def finished(self) -> bytes | None:
        """The recipe of the adapter, once it is complete."""
        return self._read(f"{self.name}/{FILE}")

    def begun(self) -> bytes | None:
        """The recipe of a run that is under way or was killed."""
        return self._read(f"{self._work}/{FILE}")

    def begin(self, recipe: str) -> None:
        self.store.write(f"{self._work}/{FILE}", recipe.encode())

    def storage(self) -> tuple[FileSystem, str]:
        """Where Ray Train keeps the run's checkpoints.

        Raises:
            SettingsError: It is no object store.
        """
        files, root = self.store.arrow()
        return files, f"{root}/{self._work}"

    def publish(self, folder: Path) -> None:
        """Write a finished adapter to its place, and remove what served to make it."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in sorted(paths, key=lambda each: each.name == FILE):
            self.store.upload(path, f"{self.name}/{path.relative_to(folder).as_posix()}")
        self.store.remove(self._work)

    def _read(self, path: str) -> bytes | None:
        try:
            return self.store.read(path)
        except FileNotFoundError:
            return None


def taken(folder: Path) -> Path | None:
    """A copy of the last checkpoint that workers of this run handed over, if there is one.

    Called by a worker of Ray Train, as `hand_over`.
    """
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    return Path(checkpoint.to_directory(str(folder))) if checkpoint else None


def hand_over(folder: Path | None) -> None:
    """Put a checkpoint into the bucket. Every worker calls it; their files become one folder."""
    import ray.train
    from ray.train import Checkpoint

    part = Checkpoint.from_directory(str(folder)) if folder and folder.is_dir() else None
    ray.train.report({}, checkpoint=part)

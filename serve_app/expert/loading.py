"""Adapters on the way into a replica: fetched once, checked, and kept in a local folder."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from serve_app.domain import Release
from serve_app.errors import AdapterUnusable, NotFound, Unavailable
from serve_app.expert.adapters import Damaged, Registry
from serve_app.expert.admission import WEIGHTS
from serve_app.expert.base import Base
from serve_app.settings import ExpertSettings

log = logging.getLogger(__name__)


class Shelf:
    """A replica's own copies of releases. Replicas on one machine may share the folder.

    Args:
        base: What adapters are loaded onto; `None` when its weights are not in a local folder, and
            cannot be compared with what an adapter was trained on.
    """

    def __init__(self, registry: Registry, folder: Path, base: Base | None, max_rank: int) -> None:
        self._registry = registry
        self._folder = folder
        self._base = base
        self._max_rank = max_rank
        self._base_sha256: str | None = None

    @classmethod
    def of(cls, settings: ExpertSettings, model_source: str) -> Shelf:
        """The shelf of a replica that serves the weights of a folder or hub id.

        Raises:
            SettingsError: The registry cannot be opened.
        """
        folder = Path(model_source)
        base = Base(settings.model, folder) if folder.is_dir() else None
        lora = settings.lora
        return cls(Registry(settings.adapters), lora.cache, base, lora.max_lora_rank)

    def take(self, release: Release) -> Path:
        """The folder of a release, fetched if it is not here. Blocking.

        While the registry cannot be read, a copy that is here already serves.

        Raises:
            AdapterUnusable: It is damaged, is not there, or does not fit this engine.
        """
        try:
            manifest = self._registry.manifest(release.name, release.version)
            self._check(release, manifest)
            # A version that was deleted and made again is another one.
            digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
            target = self._folder / f"{release}-{digest[:12]}"
            if not target.is_dir():
                self._fetch(release, target)
        except (NotFound, Damaged, AdapterUnusable) as error:
            raise AdapterUnusable(error.message) from None
        except Unavailable as error:
            return self._kept(release, error)
        except OSError as error:
            raise AdapterUnusable(f"{release} cannot be kept here: {error.strerror}") from None
        return target

    def _kept(self, release: Release, error: Unavailable) -> Path:
        copies = sorted(self._folder.glob(f"{release}-*"), key=lambda path: path.stat().st_mtime)
        if not copies:
            raise AdapterUnusable(error.message) from None
        log.warning("the copy of %s that is here serves: %s", release, error)
        return copies[-1]

    def _fetch(self, release: Release, target: Path) -> None:
        """Whole or not at all, whoever else fetches it, and whenever this process is killed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{release}-", dir=self._folder))
        try:
            self._registry.fetch(release.name, release.version, work)
            try:
                work.rename(target)
            except OSError:
                if not target.is_dir():  # else another replica was faster
                    raise
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _check(self, release: Release, manifest: dict[str, Any]) -> None:
        rank, base = manifest["rank"], manifest["base"]
        if WEIGHTS not in manifest["files"]:
            raise AdapterUnusable(f"{release} has no {WEIGHTS}; other formats are not loaded")
        if rank > self._max_rank:
            raise AdapterUnusable(
                f"{release} has rank {rank}; expert.lora.max_lora_rank is {self._max_rank}"
            )
        if self._base is None:
            return
        if self._base_sha256 is None:
            self._base_sha256 = self._base.weights_sha256()
        if base["weights_sha256"] != self._base_sha256:
            raise AdapterUnusable(
                f"{release} was trained on {base['name']} with weights "
                f"{str(base['weights_sha256'])[:12]}, and {self._base.name} here has "
                f"{self._base_sha256[:12]}"
            )

"""Which version of each adapter answers, as a gateway replica knows it.

A gateway looks at the registry every few seconds. Before it sends requests to a version that was
promoted, the expert has loaded it and answered through it; one that cannot leaves the version
before it in service, and says so. A request finds its version once, and keeps it to its end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from serve_app.domain import Release
from serve_app.errors import (
    AdapterUnusable,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    SettingsError,
    TriviumError,
    Unavailable,
)
from serve_app.expert.adapters import NAME, Damaged, Registry
from serve_app.expert.contracts import Contract, parse

log = logging.getLogger(__name__)

_TRY_AGAIN_S = 60.0  # what was refused may have been repaired in place


@dataclass(frozen=True, slots=True)
class Adapter:
    """A release that can answer, and what its answers must look like."""

    release: Release
    contract: Contract | None = None


@dataclass(slots=True)
class _Refused:
    version: int
    reason: str
    at: float


class Adapters:
    """The adapters that can be named in a request.

    Args:
        registry: `None` where adapters are not served.
        prepare: Lets the expert load a release and answer through it; raises `AdapterUnusable`.

    Attributes:
        tried: Set once the registry was looked at, with success or not; nobody waits any longer.
        trouble: Why the registry could not be read the last time; what served then serves on, and
            before the first time that is the base alone. `None` when it could.
    """

    def __init__(
        self,
        registry: Registry | None,
        prepare: Callable[[Adapter], Awaitable[None]],
        poll_s: float = 2.0,
    ) -> None:
        self._registry = registry
        self._prepare = prepare
        self._poll_s = poll_s
        self._current: dict[str, Adapter] = {}
        self._refused: dict[str, _Refused] = {}
        self._pinned: dict[Release, Adapter] = {}
        self._looked = registry is None
        self.trouble: str | None = None
        self.tried = asyncio.Event()
        if registry is None:
            self.tried.set()

    def current(self, name: str) -> Adapter | None:
        """The version of a name that serves now."""
        return self._current.get(name)

    def catalogue(self) -> list[dict[str, Any]]:
        """Of each name: the version that serves, and the one that was refused, if one was."""
        names = sorted({*self._current, *self._refused})
        return [self._described(name) for name in names]

    async def find(self, name: str, version: int | None) -> Adapter:
        """What a request names.

        Raises:
            ModelNotFound: There is no such adapter or version; lists those that exist.
            AdapterUnusable: There is, and it was refused before any version of it served.
            Unavailable: The registry could not be read yet.
        """
        if not self._looked:
            raise Unavailable("adapters are not known yet; try again shortly", retry_after_s=2.0)
        if version is None:
            if found := self._current.get(name):
                return found
            if refused := self._refused.get(name):
                raise AdapterUnusable(f"{name} version {refused.version} is refused")
            raise self._unknown(name)
        release = Release(name, version)
        serving = self._current.get(name)
        if serving and serving.release == release:
            return serving
        if release not in self._pinned:
            if self._registry is None or not NAME.fullmatch(name):
                raise self._unknown(str(release))
            try:
                self._pinned[release] = await self._read(release)
            except NotFound:
                raise self._unknown(str(release)) from None
        return self._pinned[release]

    async def watch(self) -> None:
        """Keep up with the registry until cancelled."""
        while self._registry is not None:
            try:
                await self.refresh()
            except Exception as error:
                self._cannot_read(str(error))
            else:
                self.trouble = None
            self.tried.set()
            await asyncio.sleep(self._poll_s)

    def _cannot_read(self, reason: str) -> None:
        if reason != self.trouble:  # once, not every few seconds
            serves = ", ".join(str(each.release) for each in self._current.values())
            log.warning(
                "the adapters' registry cannot be read, and %s: %s",
                f"{serves} serve on" if serves else "the base alone serves",
                reason,
            )
        self.trouble = reason

    async def refresh(self) -> None:
        """Take over what was promoted or rolled back since the last time.

        Raises:
            TriviumError: The registry cannot be read.
        """
        assert self._registry is not None
        found = await asyncio.to_thread(self._registry.serving)
        for name in self._current.keys() - found.keys():
            log.warning("no version of adapter %s is promoted any longer", name)
            del self._current[name]
        self._refused = {name: each for name, each in self._refused.items() if name in found}
        await asyncio.gather(*(self._follow(name, found[name]) for name in found))
        self._looked = True

    async def _follow(self, name: str, versions: list[int]) -> None:
        """Serve the first of the versions that can be, the one in service at the latest."""
        serving, refused = self._current.get(name), self._refused.get(name)
        if not versions:
            log.warning("which version of %s shall serve cannot be read; nothing changes", name)
            return
        if serving and serving.release.version == versions[0]:
            self._refused.pop(name, None)
            return
        if refused and refused.version == versions[0] and time.time() < refused.at + _TRY_AGAIN_S:
            return
        for version in versions:
            if serving and serving.release.version == version:
                return
            release = Release(name, version)
            try:
                adapter = await self._prepared(release)
            except AdapterUnusable as error:
                if version == versions[0]:
                    self._refuse(release, error.message, serving)
                if serving:
                    return
                continue
            except TriviumError as error:
                # The expert restarts or is full: ask again soon.
                log.info("%s is not prepared yet: %s", release, error)
                return
            self._current[name] = adapter
            log.info("adapter %s serves (before: %s)", release, serving and serving.release)
            if version == versions[0]:
                self._refused.pop(name, None)
            return

    async def _prepared(self, release: Release) -> Adapter:
        try:
            adapter = await self._read(release)
        except (NotFound, SettingsError, Damaged) as error:
            raise AdapterUnusable(error.message) from None
        try:
            await self._prepare(adapter)
        except InvalidRequest as error:
            raise AdapterUnusable(f"the engine refuses its contract: {error.message}") from None
        return adapter

    def _refuse(self, release: Release, reason: str, serving: Adapter | None) -> None:
        self._refused[release.name] = _Refused(release.version, reason, time.time())
        stays = f"{serving.release} stays in service" if serving else "none of its name serves yet"
        log.error("adapter %s is refused, and %s: %s", release, stays, reason)

    async def _read(self, release: Release) -> Adapter:
        """Raises `NotFound`, or `SettingsError` for a bad contract."""
        assert self._registry is not None
        file = await asyncio.to_thread(self._registry.contract, release.name, release.version)
        return Adapter(release, parse(file[1], f"{release}/{file[0]}") if file else None)

    def _unknown(self, named: str) -> ModelNotFound:
        there = ", ".join(f"trivium/expert:{name}" for name in sorted(self._current))
        return ModelNotFound(
            f"there is no adapter {named!r}; there are: {there or 'none'}", param="model"
        )

    def _described(self, name: str) -> dict[str, Any]:
        serving, refused = self._current.get(name), self._refused.get(name)
        return {
            "name": name,
            "version": serving and serving.release.version,
            "refused": {"version": refused.version, "reason": refused.reason} if refused else None,
        }

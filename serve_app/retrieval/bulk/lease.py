"""One run at a time over a source: what two of them found gone would be each other's.

A run's name says which process it is, so that another one of the same machine need not wait for a
run that was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
import uuid
from pathlib import Path

import psutil

from serve_app.errors import Conflict, Unavailable
from serve_app.retrieval.registry import Registry

_LEASE_S = 20.0  # a run that is heard of no more has lost its sources after so long
_RENEWED_S = 5.0
_LOOK_AGAIN_S = 0.5


class Lease:
    """The sources of a run, for as long as it lasts."""

    def __init__(self, registry: Registry, collection: str, tenant: str, run: str) -> None:
        self._runs = registry.runs
        self._of = (collection, tenant)
        self._run = run
        self._sources: list[str] = []
        self._beat: asyncio.Task[None] | None = None
        self._lost = ""

    async def hold(self, source: str) -> None:
        """Have a source; a run that was killed is waited for until it has lost it.

        Raises:
            Conflict: Another run goes on.
        """
        until = time.monotonic() + 1.5 * _LEASE_S
        dead = ""
        while not await self._runs.hold(*self._of, source, self._run, _LEASE_S, dead):
            holder = await self._runs.holder(*self._of, source)
            if holder != dead and is_over(holder):
                dead = holder
                continue
            if time.monotonic() > until:
                raise Conflict(
                    f"{source}: another run is reading it into {self._of[0]!r}; wait until it ends"
                )
            await asyncio.sleep(_LOOK_AGAIN_S)
        self._sources.append(source)
        if self._beat is None:
            self._beat = asyncio.create_task(self._renew())

    def check(self) -> None:
        """Raises `Conflict` where a source has been lost: this run has stood still for long."""
        if self._lost:
            raise Conflict(f"{self._lost}: another run has taken it over; see what that one says")

    async def let_go(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
        for source in self._sources:
            with contextlib.suppress(Unavailable):
                await self._runs.let_go(*self._of, source, self._run)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEWED_S)
            for source in self._sources:
                with contextlib.suppress(Unavailable):
                    if not await self._runs.hold(*self._of, source, self._run, _LEASE_S):
                        self._lost = source


def name() -> str:
    """Of a run of this process: nobody else's, and 32 characters at most."""
    return f"{_process(os.getpid())}{uuid.uuid4().hex}"[:32]


def is_over(run: str) -> bool:
    """Whether a run was of a process that this machine had and has no more."""
    here, _, rest = run.partition(".")
    pid, _, _ = rest.partition(".")
    if here != _machine() or not pid.isdigit():
        return False
    try:
        return not run.startswith(_process(int(pid)))
    except psutil.NoSuchProcess:
        return True


def _process(pid: int) -> str:
    begun = int(psutil.Process(pid).create_time() * 100)
    return f"{_machine()}.{pid}.{begun % 16**6:06x}."


def _machine() -> str:
    """One boot of a machine, and what of it sees the same processes: a container, for example."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        seen = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return uuid.uuid4().hex[:8]  # nobody is known to be over
    return hashlib.sha256(f"{boot}{seen}".encode()).hexdigest()[:8]

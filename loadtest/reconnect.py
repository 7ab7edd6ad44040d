"""How soon a Milvus that was away is found again.

    python -m loadtest.reconnect --away 60

`MilvusStore` reaches a Milvus server through a port that is closed for a while, and is asked all
the time. What counts is the time from open again to the first answer: with the pauses between two
attempts to connect as they are set, and as gRPC has them by itself, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
import time
from pathlib import Path

from rich.console import Console

from loadtest import servers
from serve_app.errors import TriviumError
from serve_app.retrieval import milvus
from serve_app.retrieval.store import MilvusStore

_EVERY_S = 0.05


class Door:
    """A port that leads to another one of this machine, while it is open."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for each in self._open:
            each.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._open |= {writer, back}
        await asyncio.gather(_copied(reader, back), _copied(there, writer))
        self._open -= {writer, back}


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while some := await reader.read(65536):
            writer.write(some)
            await writer.drain()
    writer.close()


async def found_after(port: int, away_s: float) -> float:
    """Seconds from open again to the first answer."""
    door = Door(port)
    await door.open()
    store = MilvusStore(f"http://127.0.0.1:{door.port}", "", timeout_s=5.0)
    try:
        await store.made("any")
        door.close()
        until = time.monotonic() + away_s
        while time.monotonic() < until:
            with contextlib.suppress(TriviumError):
                await store.made("any")
            await asyncio.sleep(_EVERY_S)
        opened = time.monotonic()
        await door.open()
        while True:
            with contextlib.suppress(TriviumError):
                await store.made("any")
                return time.monotonic() - opened
            await asyncio.sleep(_EVERY_S)
    finally:
        await store.close()
        door.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--away", type=float, default=60.0, help="seconds")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args()
    set_here = dict(milvus.LOOK_AGAIN)
    ways: dict[str, dict[str, int]] = {"as set": set_here, "gRPC's own": {}}
    found: dict[str, list[float]] = {name: [] for name in ways}
    with (
        tempfile.TemporaryDirectory(prefix="trivium-bench-") as folder,
        servers.milvus(Path(folder) / "milvus") as server,
        Console(stderr=True).status("closing and opening"),
    ):
        for _ in range(options.rounds):
            for name, way in ways.items():
                milvus.LOOK_AGAIN.clear()
                milvus.LOOK_AGAIN.update(way)
                taken = asyncio.run(found_after(server.listen_port, options.away))
                found[name].append(round(taken, 2))
    if options.json:
        print(json.dumps(found))
        return
    for name, seconds in found.items():
        print(f"{name}: {', '.join(f'{each:.2f} s' for each in seconds)}")


if __name__ == "__main__":
    main()

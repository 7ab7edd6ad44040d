"""An OpenAI-compatible server that answers at once, always the same: PORT [FILE].

Raw asyncio, so that it never is what is measured: a proxy in front of it is. Into the file goes the
`x-client-request-id` of every request, before it is answered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
from collections.abc import Sequence
from functools import partial

WORDS = "The sum of two odd numbers is even .".split()
_HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4.1"}


def _stream(words: int) -> list[bytes]:
    """An answer of so many words, each in an event of its own; its head comes with the first."""
    steps: list[dict[str, object]] = [
        {"choices": [{"index": 0, "delta": {"content": f"{word} "}}]}
        for word in itertools.islice(itertools.cycle(WORDS), words)
    ]
    usage = {"prompt_tokens": 20, "completion_tokens": words, "total_tokens": 20 + words}
    steps.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    steps.append({"choices": [], "usage": usage})
    events = [f"data: {json.dumps(_HEAD | step)}\n\n" for step in steps] + ["data: [DONE]\n\n"]
    head = (
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    first, *rest = (f"{len(event.encode()):x}\r\n{event}\r\n".encode() for event in events)
    return [head.encode() + first, *rest[:-1], rest[-1] + b"0\r\n\r\n"]


_HEALTH = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def _serve(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    answer: Sequence[bytes],
    pause_s: float,
    seen: int | None,
) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b"content-length:" not in head:
                writer.write(_HEALTH)
                continue
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            if seen is not None:
                name = head.partition(b"x-client-request-id:")[2].split(b"\r\n")[0].strip()
                os.write(seen, name + b"\n")
            for part in answer:
                writer.write(part)
                if pause_s:
                    await asyncio.sleep(pause_s)
            await writer.drain()
    writer.close()


async def main(port: int, path: str | None, words: int, pause_s: float) -> None:
    seen = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if path else None
    answer = _stream(words) if pause_s else [b"".join(_stream(words))]
    serve = partial(_serve, answer=answer, pause_s=pause_s, seen=seen)
    async with await asyncio.start_server(serve, "127.0.0.1", port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("port", type=int)
    parser.add_argument("path", nargs="?")
    parser.add_argument("--words", type=int, default=len(WORDS), help="of an answer")
    parser.add_argument("--pause-ms", type=float, default=0.0, help="between two words")
    chosen = parser.parse_args()
    asyncio.run(main(chosen.port, chosen.path, chosen.words, chosen.pause_ms / 1000))

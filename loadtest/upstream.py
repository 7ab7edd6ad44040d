"""An OpenAI-compatible server that answers at once, always the same: PORT [FILE].

Raw asyncio, so that it never is what is measured: a proxy in front of it is. Into the file goes the
`x-client-request-id` of every request, before it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from functools import partial

WORDS = "The sum of two odd numbers is even .".split()
_HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4.1"}
_USAGE = {"prompt_tokens": 20, "completion_tokens": len(WORDS), "total_tokens": 20 + len(WORDS)}


def _stream() -> bytes:
    steps: list[dict[str, object]] = [
        {"choices": [{"index": 0, "delta": {"content": f"{word} "}}]} for word in WORDS
    ]
    steps.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    steps.append({"choices": [], "usage": _USAGE})
    events = [f"data: {json.dumps(_HEAD | step)}\n\n" for step in steps] + ["data: [DONE]\n\n"]
    chunks = "".join(f"{len(event.encode()):x}\r\n{event}\r\n" for event in events)
    head = (
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    return f"{head}{chunks}0\r\n\r\n".encode()


_HEALTH = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: int | None
) -> None:
    answer = _stream()
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
            writer.write(answer)
            await writer.drain()
    writer.close()


async def main(port: int, path: str | None = None) -> None:
    seen = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if path else None
    server = await asyncio.start_server(partial(_serve, seen=seen), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))

"""A file read in a process of its own: what comes from strangers may exhaust that, and no other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sys
from dataclasses import asdict

from serve_app.domain import Document
from serve_app.errors import TriviumError, UnprocessableDocument
from serve_app.retrieval import formats
from serve_app.retrieval.formats.reading import Reading

_MEMORY = 2 * 1024**3  # bytes of address space; the largest file that is taken, several times
_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from serve_app.retrieval.formats import apart
apart.child(sys.argv[2], sys.argv[3], int(sys.argv[4]))
"""


async def read(name: str, data: bytes, stem: str, timeout_s: float) -> Reading:
    """As `formats.read`, within so many seconds.

    Raises:
        UnprocessableDocument: As `formats.read`; or it takes too long, or too much memory.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _CHILD,
        json.dumps(sys.path),
        name,
        stem,
        str(int(timeout_s) + 1),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(timeout_s):
            told, _ = await child.communicate(data)
    except TimeoutError:
        raise UnprocessableDocument(f"{name}: cannot be read within {timeout_s:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
    if child.returncode:
        raise UnprocessableDocument(f"{name}: cannot be read with the memory there is for it")
    found = json.loads(told)
    if "refused" in found:
        raise UnprocessableDocument(found["refused"])
    documents = [Document(**{**each, "allow": tuple(each["allow"])}) for each in found["documents"]]
    return Reading(documents, found["problems"], found["left_out"])


def child(name: str, stem: str, seconds: int) -> None:
    """The other process: a file from standard input, what it holds to standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    try:
        read = formats.read(name, sys.stdin.buffer.read(), stem)
        found = {
            "documents": [asdict(each) for each in read.documents],
            "problems": read.problems,
            "left_out": dict(read.left_out),
        }
    except TriviumError as error:
        found = {"refused": error.message}
    sys.stdout.write(json.dumps(found, default=str))

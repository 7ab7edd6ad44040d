"""Callers that ask again and again while a test goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def repeated(*calls: Callable[[], None]) -> Iterator[None]:
    """Makes each call again and again, in a thread of its own, until the block ends.

    Raises:
        Exception: What a call raised, once the block has ended.
    """
    stop = threading.Event()

    def repeat(call: Callable[[], None]) -> None:
        while not stop.is_set():
            call()

    with ThreadPoolExecutor(len(calls)) as pool:
        under_way = [pool.submit(repeat, call) for call in calls]
        try:
            yield
        finally:
            stop.set()
            for each in under_way:
                each.result()

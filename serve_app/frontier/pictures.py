"""Pictures that a caller gave an address of: fetched by us, and passed on as data.

A provider that fetched them would do so for whoever asks, from wherever it stands: your own vLLM,
from within your network. So only hosts that the settings name are asked, by nobody but this and as
`fetching` does, and what comes must be a picture.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from serve_app.domain import Generation, Image, Message
from serve_app.errors import InvalidRequest
from serve_app.fetching import Address, Resolve, Unfetchable, fetch, is_public, parts_of, resolved
from serve_app.settings.frontier import ImageSettings

# By what their bytes begin with; a server may say anything of them.
KINDS: Mapping[str, re.Pattern[bytes]] = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}

_AT_ONCE = 4


def admitted(messages: Sequence[Message], settings: ImageSettings) -> tuple[Message, ...]:
    """The same turns, whose pictures know where they stand in the request.

    Raises:
        InvalidRequest: One is at an address from which none is taken, or there are too many.
    """
    linked = 0
    made = []
    for i, message in enumerate(messages):
        parts = list(message.parts)
        for j, part in enumerate(parts):
            if not isinstance(part, Image) or part.url.startswith("data:"):
                continue
            place = f"messages[{i}].content[{j}].image_url.url"
            parts[j] = replace(part, place=place)
            _host(part.url, settings, place)
            linked += 1
            if linked > settings.most:
                raise InvalidRequest(
                    f"at most {settings.most} pictures are fetched for a request; send the others "
                    "as data:image/png;base64,…",
                    param=place,
                )
        made.append(replace(message, parts=tuple(parts)))
    return tuple(made)


class Pictures:
    """Fetches pictures.

    Args:
        tls: Whom to trust; the certificates of the system's authorities if not given.
        resolve: Finds the addresses of a host.
        allowed: Which of them may be asked.
    """

    def __init__(
        self,
        settings: ImageSettings,
        *,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve = resolved,
        allowed: Callable[[Address], bool] = is_public,
    ) -> None:
        self._settings = settings
        self._tls = tls
        self._resolve = resolve
        self._allowed = allowed

    async def as_data(self, generation: Generation, deadline: float) -> Generation:
        """The same, with every picture in it as data.

        Raises:
            InvalidRequest: One cannot be had, or is none.
        """
        parts = (part for message in generation.messages for part in message.parts)
        linked = {
            part: part
            for part in parts
            if isinstance(part, Image) and not part.url.startswith("data:")
        }
        if not linked:
            return generation
        turns = asyncio.Semaphore(_AT_ONCE)
        patience_s = min(self._settings.timeout_s, max(0.0, deadline - time.time()))

        async def fetched(image: Image) -> Image:
            try:
                async with asyncio.timeout(patience_s), turns:
                    content = await self._fetch(image)
            except TimeoutError:
                raise _unusable(image, "its host did not answer in time") from None
            except Unfetchable as error:
                raise _unusable(image, str(error)) from None
            kind = next((kind for kind, begins in KINDS.items() if begins.match(content)), None)
            if kind is None:
                raise _unusable(image, f"it is none of {', '.join(KINDS)}")
            return replace(image, url=f"data:{kind};base64,{base64.b64encode(content).decode()}")

        # All of them, so that none is still under way when the first failure is told.
        results = await asyncio.gather(*map(fetched, linked), return_exceptions=True)
        for image, result in zip(linked, results, strict=True):
            if isinstance(result, BaseException):
                raise result
            linked[image] = result
        messages = (
            replace(
                each,
                parts=tuple(
                    linked.get(part, part) if isinstance(part, Image) else part
                    for part in each.parts
                ),
            )
            for each in generation.messages
        )
        return replace(generation, messages=tuple(messages))

    async def _fetch(self, image: Image) -> bytes:
        _host(image.url, self._settings, image.place)
        found = await fetch(
            image.url,
            max_bytes=self._settings.max_bytes,
            accept=", ".join(KINDS),
            tls=self._tls,
            resolve=self._resolve,
            allowed=self._allowed,
        )
        return found.data


def _host(url: str, settings: ImageSettings, place: str) -> None:
    """That pictures are taken from an address.

    Raises:
        InvalidRequest: None are.
    """
    if parts_of(url, settings.takes) is None:
        raise InvalidRequest(
            "pictures are not fetched from there: send the picture itself, as "
            "data:image/png;base64,…, or have its host added to frontier.images.hosts",
            param=place or None,
        )


def _unusable(image: Image, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"the picture cannot be used: {why}; send it as data:image/png;base64,…",
        param=image.place or None,
    )

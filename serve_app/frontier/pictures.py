"""Pictures that a caller gave an address of: fetched by us, and passed on as data.

A provider that fetched them would do so for whoever asks, from wherever it stands: your own vLLM,
from within your network. So only hosts that the settings name are asked, and by nobody but this:
over TLS, at an address that is public and was resolved once, without redirects elsewhere, so much
and no more, and what comes must be a picture.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from urllib.parse import SplitResult, urljoin, urlsplit

import httpx

from serve_app.domain import Generation, Image, Message
from serve_app.errors import InvalidRequest
from serve_app.settings.frontier import ImageSettings

# By what their bytes begin with; a server may say anything of them.
KINDS: Mapping[str, re.Pattern[bytes]] = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}

_REDIRECTS = 3
_AT_ONCE = 4
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]


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


def is_public(address: Address) -> bool:
    """Whether an address is of the public network, also where one is wrapped in another."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_site_local:  # deprecated, and in use (RFC 3879)
            return False
        inner = address.ipv4_mapped or address.sixtofour
        if address.teredo:
            inner = address.teredo[1]
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


async def resolved(host: str, port: int) -> list[str]:
    """The addresses of a host."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(each[4][0]) for each in found]


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
            except (httpx.HTTPError, OSError):
                raise _unusable(image, "its host cannot be reached") from None
            except (httpx.InvalidURL, ValueError):  # of UnicodeError too
                raise _unusable(image, "its address, or where that points to, is none") from None
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
        host = _host(image.url, self._settings, image.place)
        port = host.port or 443
        address = await self._address(host.hostname or "", port, image)
        url = image.url
        # Neither a proxy of the environment nor its credentials have a part in this.
        async with httpx.AsyncClient(verify=self._tls or True, trust_env=False) as client:
            for _ in range(1 + _REDIRECTS):
                request = _pinned(client, urlsplit(url), address)
                response = await client.send(request, stream=True)
                try:
                    if not response.is_redirect:
                        return await self._body(response, image)
                    url = urljoin(url, response.headers.get("location", ""))
                finally:
                    await response.aclose()
                there = urlsplit(url)
                if (there.scheme, there.netloc) != (host.scheme, host.netloc):
                    raise _unusable(image, "its host points to another one")
        raise _unusable(image, "its host points from one place to another without end")

    async def _address(self, host: str, port: int, image: Image) -> str:
        found = [ipaddress.ip_address(each) for each in await self._resolve(host, port)]
        # One that is not public is a trap, or a mistake: the others are not tried.
        if not found or not all(self._allowed(each) for each in found):
            raise _unusable(image, "its host has no public address")
        return str(found[0])

    async def _body(self, response: httpx.Response, image: Image) -> bytes:
        if not response.is_success:
            raise _unusable(image, f"its host answers {response.status_code}")
        most, content = self._settings.max_bytes, bytearray()
        # As it comes: nothing is unpacked, which could be made to grow without end.
        async for piece in response.aiter_raw():
            content += piece
            if len(content) > most:
                raise _unusable(image, f"it has more than {most:,} bytes")
        return bytes(content)


def _host(url: str, settings: ImageSettings, place: str) -> SplitResult:
    """The parts of an address from which pictures are taken.

    Raises:
        InvalidRequest: None are taken from there.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise InvalidRequest("is no address of a picture", param=place) from None
    named = f"{host}:{port}" if port not in (None, 443) else host
    if parts.scheme != "https" or parts.username or parts.password or not settings.takes(named):
        raise InvalidRequest(
            "pictures are not fetched from there: send the picture itself, as "
            "data:image/png;base64,…, or have its host added to frontier.images.hosts",
            param=place or None,
        )
    return parts


def _pinned(client: httpx.AsyncClient, url: SplitResult, address: str) -> httpx.Request:
    """A request to the address that was checked: the host's name is not looked up again."""
    host = f"[{address}]" if ":" in address else address
    port = f":{url.port}" if url.port else ""
    target = f"https://{host}{port}{url.path or '/'}{f'?{url.query}' if url.query else ''}"
    headers = {"host": url.netloc, "accept": ", ".join(KINDS), "accept-encoding": "identity"}
    return client.build_request(
        "GET", target, headers=headers, extensions={"sni_hostname": url.hostname}
    )


def _unusable(image: Image, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"the picture cannot be used: {why}; send it as data:image/png;base64,…",
        param=image.place or None,
    )

"""What callers give an address of, fetched by us, from hosts that the settings name.

Whoever fetches does so from where it stands: within your network. So it is done over TLS, at an
address that is public and was resolved once, without redirects elsewhere, and so much and no more.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

import httpx

_REDIRECTS = 3
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]


class Unfetchable(Exception):
    """Why something cannot be had, in words that follow "cannot be fetched: "."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a host has sent.

    Attributes:
        kind: What it says that it is, as `text/html`; empty where it says nothing.
    """

    data: bytes
    kind: str = ""


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


def parts_of(url: str, takes: Callable[[str], bool]) -> SplitResult | None:
    """The parts of an address from which we fetch; None where it is none.

    Args:
        takes: Whether a host (and port, if it is not the usual one) is named in the settings.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return None
    named = f"{host}:{port}" if port not in (None, 443) else host
    if parts.scheme != "https" or parts.username or parts.password or not takes(named):
        return None
    return parts


async def fetch(
    url: str,
    *,
    max_bytes: int,
    accept: str,
    tls: ssl.SSLContext | None = None,
    resolve: Resolve = resolved,
    allowed: Callable[[Address], bool] = is_public,
) -> Content:
    """What is at an address that `parts_of` has let pass. How long it may take is the caller's.

    Args:
        tls: Whom to trust; the certificates of the system's authorities if not given.
        resolve: Finds the addresses of a host.
        allowed: Which of them may be asked.

    Raises:
        Unfetchable: It cannot be had; says why.
    """
    try:
        host = urlsplit(url)
        address = await _address(host.hostname or "", host.port or 443, resolve, allowed)
        # Neither a proxy of the environment nor its credentials have a part in this.
        async with httpx.AsyncClient(verify=tls or True, trust_env=False) as client:
            for _ in range(1 + _REDIRECTS):
                request = _pinned(client, urlsplit(url), address, accept)
                response = await client.send(request, stream=True)
                try:
                    if not response.is_redirect:
                        return await _content(response, max_bytes)
                    url = urljoin(url, response.headers.get("location", ""))
                finally:
                    await response.aclose()
                there = urlsplit(url)
                if (there.scheme, there.netloc) != (host.scheme, host.netloc):
                    raise Unfetchable("its host points to another one")
    except (httpx.HTTPError, OSError):
        raise Unfetchable("its host cannot be reached") from None
    except (httpx.InvalidURL, ValueError):  # of UnicodeError too
        raise Unfetchable("its address, or where that points to, is none") from None
    raise Unfetchable("its host points from one place to another without end")


async def _address(
    host: str, port: int, resolve: Resolve, allowed: Callable[[Address], bool]
) -> str:
    found = [ipaddress.ip_address(each) for each in await resolve(host, port)]
    # One that is not public is a trap, or a mistake: the others are not tried.
    if not found or not all(allowed(each) for each in found):
        raise Unfetchable("its host has no public address")
    return str(found[0])


async def _content(response: httpx.Response, max_bytes: int) -> Content:
    if not response.is_success:
        raise Unfetchable(f"its host answers {response.status_code}")
    content = bytearray()
    # As it comes: nothing is unpacked, which could be made to grow without end.
    async for piece in response.aiter_raw():
        content += piece
        if len(content) > max_bytes:
            raise Unfetchable(f"it has more than {max_bytes:,} bytes")
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return Content(bytes(content), kind)


def _pinned(
    client: httpx.AsyncClient, url: SplitResult, address: str, accept: str
) -> httpx.Request:
    """A request to the address that was checked: the host's name is not looked up again."""
    host = f"[{address}]" if ":" in address else address
    port = f":{url.port}" if url.port else ""
    target = f"https://{host}{port}{url.path or '/'}{f'?{url.query}' if url.query else ''}"
    headers = {"host": url.netloc, "accept": accept, "accept-encoding": "identity"}
    return client.build_request(
        "GET", target, headers=headers, extensions={"sni_hostname": url.hostname}
    )

"""A picture at an address is fetched by us from hosts that are named, or refused by name."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serve_app.domain import Generation, Image, Message
from serve_app.errors import InvalidRequest, SettingsError
from serve_app.fetching import is_public
from serve_app.frontier.pictures import Pictures, admitted
from serve_app.settings import from_args
from serve_app.settings.frontier import ImageSettings
from tests.fixtures import House
from tests.gateway.test_http import CHAT, send

HOST = "cdn.example"
PNG = b"\x89PNG\r\n\x1a\nrest"
AS_DATA = "data:image/png;base64,iVBORw0KGgpyZXN0"
PLACE = "messages[0].content[1].image_url.url"


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of the host, in one file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "host.pem"
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *form)
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


class Host:
    """A server of pictures on a real socket, over TLS."""

    def __init__(self, identity: Path, answers: dict[str, bytes]) -> None:
        self.identity = identity
        self.answers = answers
        self.asked: list[str] = []
        self.looked_up: list[str] = []
        self.port = 0

    def url(self, path: str = "/a.png", host: str = HOST) -> str:
        return f"https://{host}:{self.port}{path}"

    def fetcher(
        self, *, addresses: tuple[str, ...] = ("127.0.0.1",), trusting: bool = True, **rules: Any
    ) -> Pictures:
        """One that finds our host at the given addresses.

        Args:
            trusting: This machine counts as public; else the fetcher judges as it does in use.
        """

        async def resolve(host: str, port: int) -> list[str]:
            self.looked_up.append(host)
            return list(addresses)

        settings = ImageSettings.model_validate({"hosts": (f"{HOST}:{self.port}",), **rules})
        tls = ssl.create_default_context(cafile=str(self.identity))
        if not trusting:
            return Pictures(settings, tls=tls, resolve=resolve)
        return Pictures(settings, tls=tls, resolve=resolve, allowed=lambda each: each.is_loopback)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split()[1]
            self.asked.append(f"{path} {head.lower().split('host: ')[1].split()[0]}")
            answer = self.answers[path]
            writer.write(answer)
            await writer.drain()
            if answer:
                writer.close()


def ok(body: bytes, head: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n{head}\r\n".encode() + body


def moved(to: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n".encode()


@contextlib.asynccontextmanager
async def hosting(identity: Path, **answers: bytes) -> AsyncIterator[Host]:
    host = Host(identity, {f"/{name}": answer for name, answer in answers.items()})
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(identity)
    server = await asyncio.start_server(host.handle, "127.0.0.1", 0, ssl=tls)
    host.port = server.sockets[0].getsockname()[1]
    try:
        yield host
    finally:
        server.close()


def asking(*urls: str) -> Generation:
    parts: list[str | Image] = ["Look:", *(Image(url, place=PLACE) for url in urls)]
    return Generation((Message("user", "Look:", tuple(parts)),), 10)


async def fetched(fetcher: Pictures, *urls: str, patience_s: float = 20) -> list[Any]:
    made = await fetcher.as_data(asking(*urls), time.time() + patience_s)
    return [part.url if isinstance(part, Image) else part for part in made.messages[0].parts]


async def refused(fetcher: Pictures, *urls: str, patience_s: float = 20) -> str:
    with pytest.raises(InvalidRequest) as caught:
        await fetched(fetcher, *urls, patience_s=patience_s)
    assert caught.value.param == PLACE
    return caught.value.message


async def test_a_picture_is_fetched_once_and_goes_on_as_data(identity: Path) -> None:
    async with hosting(identity, a=ok(PNG)) as host:
        found = await fetched(host.fetcher(), host.url("/a"), AS_DATA, host.url("/a"))
        assert found == ["Look:", AS_DATA, AS_DATA, AS_DATA]
        assert host.asked == [f"/a {HOST}:{host.port}"]
        # Looked up once: a name that is somewhere else the next time leads nowhere else.
        assert host.looked_up == [HOST]


async def test_a_host_may_point_within_itself(identity: Path) -> None:
    async with hosting(identity, a=moved("/b"), b=ok(PNG), c=moved("/c")) as host:
        assert (await fetched(host.fetcher(), host.url("/a")))[1] == AS_DATA
        assert "without end" in await refused(host.fetcher(), host.url("/c"))


@pytest.mark.parametrize("to", ["https://other.example/", "http://cdn.example/", "//127.0.0.1/"])
async def test_a_host_may_not_point_elsewhere(identity: Path, to: str) -> None:
    async with hosting(identity, a=moved(to)) as host:
        assert "points to another" in await refused(host.fetcher(), host.url("/a"))
        assert len(host.asked) == 1


@pytest.mark.parametrize("path", ["/\x00", "/\x7f", f"/{'a' * 70_000}"])
async def test_an_address_that_is_none_is_refused(identity: Path, path: str) -> None:
    async with hosting(identity) as host:
        assert "is none" in await refused(host.fetcher(), host.url(path))
        assert host.asked == []


@pytest.mark.parametrize("name", ["b\u00fccher.", "."])
async def test_a_name_that_no_host_has_is_refused(identity: Path, name: str) -> None:
    async with hosting(identity, a=ok(PNG)) as host:
        fetcher = host.fetcher(hosts=(f"*.{HOST}:{host.port}",))
        assert "is none" in await refused(fetcher, host.url("/a", f"{name}{HOST}"))


async def test_a_host_may_not_point_to_nowhere(identity: Path) -> None:
    async with hosting(identity, a=moved("http://[")) as host:
        assert "is none" in await refused(host.fetcher(), host.url("/a"))


@pytest.mark.parametrize("inside", ["10.0.0.7", "169.254.169.254", "::ffff:192.168.1.1", "fe80::1"])
async def test_a_name_that_leads_into_the_house_is_refused(identity: Path, inside: str) -> None:
    async with hosting(identity, a=ok(PNG)) as host:
        for addresses in ((inside,), ("1.1.1.1", inside), ()):
            fetcher = host.fetcher(addresses=addresses, trusting=False)
            assert "no public address" in await refused(fetcher, host.url("/a"))
        assert host.asked == []


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "0.0.0.0"),
        *("100.64.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1"),
        *("::1", "::", "fe80::1", "fec0::2", "fc00::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::a00:1"),
        "2001:0:4136:e378:8000:63bf:f5ff:fffe",
    ],
)
def test_address_that_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_address_that_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


async def test_what_is_no_picture_or_too_large_is_refused(identity: Path) -> None:
    page, large = ok(b"<html>", "content-type: image/png\r\n"), ok(PNG + b"x" * 5000)
    gone, silent = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", b""
    async with hosting(identity, page=page, large=large, gone=gone, silent=silent) as host:
        fetcher = host.fetcher(max_bytes=4096, timeout_s=5)
        assert "none of image/png" in await refused(fetcher, host.url("/page"))
        assert "more than 4,096 bytes" in await refused(fetcher, host.url("/large"))
        assert "answers 404" in await refused(fetcher, host.url("/gone"))
        assert "in time" in await refused(fetcher, host.url("/silent"), patience_s=0.3)


async def test_a_host_must_prove_its_name(identity: Path) -> None:
    async with hosting(identity, a=ok(PNG)) as host:
        host.identity = identity
        fetcher = host.fetcher()
        fetcher._tls = None  # the system's authorities know nothing of this one
        assert "cannot be reached" in await refused(fetcher, host.url("/a"))


RULES = ImageSettings(hosts=(HOST, "*.pictures.example", "odd.example:8443"), most=2)


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example/a.png",
        "https://CDN.example:443/a.png",
        "https://a.b.pictures.example/a",
        "https://odd.example:8443/a",
        AS_DATA,
    ],
)
def test_a_host_that_is_named_is_asked(url: str) -> None:
    made = admitted(asking(url).messages, RULES)
    assert made[0].parts[0] == "Look:"


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/a.png",
        "https://[::1]/a.png",
        "https://cdn.example.evil.example/a.png",
        "https://pictures.example/a.png",
        "https://evilpictures.example/a.png",
        "https://cdn.example:8443/a.png",
        "https://odd.example/a.png",
        "https://cdn.example@evil.example/",
        "https://user:secret@cdn.example/",
        "https://evil.example\\@cdn.example/",
        "https://cdn.example:x/",
        "http://cdn.example/a.png",
    ],
)
def test_no_other_host_is(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        admitted(asking(url).messages, RULES)
    assert caught.value.param == PLACE


def test_so_many_and_no_more() -> None:
    with pytest.raises(InvalidRequest, match="at most 2"):
        admitted(asking(*(f"https://{HOST}/{i}" for i in range(3))).messages, RULES)


@pytest.mark.parametrize("host", ["*", "10.0.0.1", "https://cdn.example", "CDN.example", "local"])
def test_hosts_are_names(host: str) -> None:
    with pytest.raises(SettingsError, match="name a host"):
        from_args({"frontier": {"images": {"hosts": [host]}}})


@pytest.mark.usefixtures("clean_environment")
async def test_no_address_is_taken_unless_its_host_is_named() -> None:
    house = House()
    picture = {"type": "image_url", "image_url": {"url": "https://169.254.169.254/latest"}}
    content = [{"type": "text", "text": "What is it?"}, picture]
    asked = {"model": "trivium/auto", "messages": [{"role": "user", "content": content}]}
    answer = await send(house, "POST", CHAT, json=asked)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == PLACE
    assert "frontier.images.hosts" in error["message"]
    assert not house.frontier.asked
    assert not house.router.asked

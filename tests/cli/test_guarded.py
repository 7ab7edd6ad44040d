"""A Milvus server that wants a token and speaks TLS under a private authority."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from loadtest import servers
from serve_app.errors import Unavailable
from serve_app.retrieval.store import MilvusStore
from serve_app.settings import RetrievalSettings
from tests.cli.conftest import Outcome, Run

pytestmark = pytest.mark.usefixtures("clean_environment")

TOKEN = "root:Milvus"
WRONG = "root:hunter2-secret"


@dataclass(frozen=True)
class Guarded:
    url: str
    ca: Path
    stranger: Path


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    authority = certificate(folder, "ca")
    certificate(folder, "server", authority)
    certificate(folder, "stranger")
    files = {f"{name}_pem_path": str(folder / f"{name}.pem") for name in ("server", "ca")} | {
        "server_key_path": str(folder / "server.key")
    }
    guards = {"authorization_enabled": True, "tls_mode": 1}
    with servers.milvus(folder / "milvus", {**guards, **files}) as server:
        url = f"https://localhost:{server.listen_port}"
        yield Guarded(url, folder / "ca.pem", folder / "stranger.pem")


Signed = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def certificate(folder: Path, name: str, issuer: Signed | None = None) -> Signed:
    """`<name>.pem` and `<name>.key`, signed by an issuer or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .sign(issuer[1] if issuer else key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return made, key


Ingest = Callable[[str, Path | None], Outcome]


@pytest.fixture
def ingest(run: Run, guarded: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ingest:
    """`trivium ingest` of one file with a token and an authority."""
    (tmp_path / "tents.md").write_text("Our tents are green.")
    monkeypatch.setenv("TRIVIUM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TRIVIUM_RETRIEVAL__MILVUS_URI", guarded.url)
    monkeypatch.setenv("TRIVIUM_RETRIEVAL__TIMEOUT_S", "60")

    def ingest(token: str, ca: Path | None) -> Outcome:
        monkeypatch.setenv("TRIVIUM_RETRIEVAL__MILVUS_TOKEN", token)
        if ca:
            monkeypatch.setenv("TRIVIUM_RETRIEVAL__MILVUS_CA", str(ca))
        return run("ingest", str(tmp_path / "tents.md"), "--json")

    return ingest


def test_right_token_and_authority_open_it(ingest: Ingest, guarded: Guarded) -> None:
    for embedded in (1, 0):
        done = ingest(TOKEN, guarded.ca)
        assert done.code == 0, done.err
        assert json.loads(done.out)["embedded"] == embedded


@pytest.mark.parametrize("token", [WRONG, WRONG.partition(":")[2], ""])
def test_other_token_is_refused_in_a_sentence_without_it(
    ingest: Ingest, guarded: Guarded, token: str
) -> None:
    done = ingest(token, guarded.ca)
    assert done.code == 1
    assert "error: the knowledge base refuses this token" in done.err
    assert "set TRIVIUM_RETRIEVAL__MILVUS_TOKEN" in done.err
    assert "Traceback" not in done.err
    assert not token or token not in done.out + done.err


async def test_token_is_in_no_log_repr_or_traceback(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = RetrievalSettings(
        milvus_uri=guarded.url, milvus_token=SecretStr(WRONG), milvus_ca=guarded.ca, timeout_s=5
    )
    store = MilvusStore.of(settings)
    with pytest.raises(Unavailable) as raised:
        await store.aliased("default")
    await store.close()
    shown = "".join(traceback.format_exception(raised.value)) + repr(raised.value)
    assert "UNAUTHENTICATED" in shown
    for secret in (WRONG, WRONG.partition(":")[2], base64.b64encode(WRONG.encode()).decode()):
        assert secret not in shown + caplog.text + repr(store) + repr(settings)


def test_certificate_of_an_unknown_authority_is_refused(ingest: Ingest, guarded: Guarded) -> None:
    for ca in (None, guarded.stranger):
        done = ingest(TOKEN, ca)
        assert done.code == 1
        assert "nobody known here vouches" in done.err
        assert "TRIVIUM_RETRIEVAL__MILVUS_CA" in done.err


def test_authority_that_is_no_certificate_is_wrong_settings(ingest: Ingest, tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("not a certificate")
    for ca, reason in ((junk, "no certificate in PEM form"), (tmp_path / "gone", "cannot be read")):
        done = ingest(TOKEN, ca)
        assert done.code == 2
        assert f"{ca}: retrieval.milvus_ca" in done.err
        assert reason in done.err

"""The connection to Milvus, embedded or a server: deadlines on calls, errors in our own words."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from pymilvus import AsyncMilvusClient, MilvusClient, MilvusException
from pymilvus.exceptions import (
    ConnectError,
    ConnectionNotExistException,
    DataNotMatchException,
    DataTypeNotMatchException,
    DataTypeNotSupportException,
    MilvusUnavailableException,
    ParamError,
    SchemaNotReadyException,
)

from serve_app.errors import KnowledgeRefused, SettingsError, TriviumError, Unavailable

# Milvus's error codes
_NOT_CONNECTED = 2
NOT_FOUND = 100
_NOT_LOADED = 101
_ILLEGAL = 6  # in Milvus Lite
_BAD_PARAMETERS = range(1100, 1200)
_BAD_FIELDS = range(1700, 1800)
_UNEXPECTED = (1, 65535)  # which 2.3 says of anything: its words have to tell
_REFUSED = re.compile(r"cannot parse expression|exceeds? (the )?max length|illegal|invalid param")
# What 2.3 says where a search meets rows that are being taken in; other failures may take long.
_TRIPPED = re.compile(r"fail(ed)? to (search|query).*service internal error", re.I | re.S)
_READS = 3  # of one call
# What pymilvus itself finds wrong with a call.
_NEVER_RIGHT = (
    DataNotMatchException,
    DataTypeNotMatchException,
    DataTypeNotSupportException,
    ParamError,
    SchemaNotReadyException,
)
_NEVER_DONE = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
)
_UNCONNECTED = (ConnectError, ConnectionNotExistException, MilvusUnavailableException)
# pymilvus pings an idle connection every ten seconds. A Milvus server allows that; the server
# inside Milvus Lite closes the connection for it ("too many pings"), and the next call fails.
OF_LITE = "lite+"  # before the address at which the owner of a file of Milvus Lite listens
_NO_PINGS = {"grpc.keepalive_time_ms": 2**31 - 1}
# Left alone, gRPC looks again for a Milvus that was away after up to two minutes.
LOOK_AGAIN = {"grpc.initial_reconnect_backoff_ms": 200, "grpc.max_reconnect_backoff_ms": 1000}


class Milvus:
    """One connection, made by its first call.

    Attributes:
        client: Calls on it belong inside `translated`, with `timeout=timeout_s`.
        embedded: It is Milvus Lite, in a file of this process, or of another one of this machine.

    Raises:
        SettingsError: The folder of an embedded database cannot be made, or `ca` is no certificate.
    """

    def __init__(self, uri: str, token: str, timeout_s: float, ca: Path | None = None) -> None:
        here = "://" not in uri
        self.embedded = here or uri.startswith(OF_LITE)
        self.timeout_s = timeout_s
        # pymilvus shares connections by address and token alone: one of ours could get another's
        # TLS. Its calls on a shared connection would also go on when the other one is closed.
        self._arguments: dict[str, Any] = {
            "uri": uri.removeprefix(OF_LITE),
            "token": token,
            "dedicated": True,
            "grpc_options": {**LOOK_AGAIN, **(_NO_PINGS if self.embedded else {})},
        }
        if here:
            from serve_app.retrieval import lite  # a server needs none of what it loads

            lite.share_statistics()
            lite.tell_truth_from_numbers()
            lite.one_call_at_a_time()
            _make_folder(Path(uri).parent)
        if ca:
            _check_certificates(ca)
            self._arguments["server_pem_path"] = str(ca)
        self.client = AsyncMilvusClient(**self._arguments)

    async def address(self) -> str:
        """Where other processes of this machine find it."""
        uri = str(self._arguments["uri"])
        if "://" in uri:
            return f"{OF_LITE}{uri}" if self.embedded else uri
        from milvus_lite.server_manager import server_manager_instance

        # Lite serves its file at a port of this process; asked again, it says which.
        return OF_LITE + str(
            await asyncio.to_thread(server_manager_instance.start_and_get_uri, uri)
        )

    async def load(self, name: str) -> None:
        """Bring an index into the memory of Milvus; returns when it can be searched."""
        with translated():
            await self.client.load_collection(name, timeout=self.timeout_s)

    async def read(self, name: str, read: Callable[[], Awaitable[Any]]) -> Any:
        """Read from an index; again where Milvus has restarted, dropped the connection or tripped
        over rows that it was taking in (2.3 does so under writes).

        Raises:
            Unavailable: Milvus does not answer.
            KnowledgeRefused: It will not have what it is asked.
        """
        with translated():
            for _ in range(_READS - 1):
                try:
                    return await read()
                except MilvusException as error:
                    if error.code in (_NOT_CONNECTED, _NOT_LOADED):
                        await self.load(name)
                    elif error.code not in _UNEXPECTED or not _TRIPPED.search(error.message):
                        raise
            return await read()

    @contextlib.contextmanager
    def blocking(self) -> Iterator[MilvusClient]:
        """A client that blocks, for what the other cannot do."""
        client = MilvusClient(**self._arguments, timeout=self.timeout_s)
        try:
            yield client
        finally:
            client.close()

    async def close(self) -> None:
        await self.client.close()


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Milvus's failures in our words; what it said itself is in a note.

    Raises:
        KnowledgeRefused: It will not have what was sent.
        Unavailable: It does not answer, or cannot do it now; says why.
    """
    try:
        yield
    except (MilvusException, grpc.RpcError) as error:
        failed: TriviumError = Unavailable(_reason(error))
        if _is_permanent(error):
            failed = KnowledgeRefused(
                "the knowledge base cannot take this as it is: send shorter texts, names and "
                "metadata, or plainer ones"
            )
        failed.add_note(f"Milvus: {_detail(error)}")
        raise failed from error


def _is_permanent(error: MilvusException | grpc.RpcError) -> bool:
    """Whether the same again would fail again."""
    if remote := _remote(error):
        too_large = "larger than max" in str(remote.details())
        return remote.code() in _NEVER_DONE or too_large
    assert isinstance(error, MilvusException)
    if error.retriable:
        return False
    return (
        isinstance(error, _NEVER_RIGHT)
        or error.is_input_error
        or error.code == _ILLEGAL
        or error.code in _BAD_PARAMETERS
        or error.code in _BAD_FIELDS
        or (error.code in _UNEXPECTED and bool(_REFUSED.search(error.message)))
    )


def _reason(error: MilvusException | grpc.RpcError) -> str:
    said = f"{error} {_detail(error)}"
    if isinstance(error, MilvusException) and error.code == NOT_FOUND:
        return (
            "Milvus has not got an index that the registry of documents names; "
            "`trivium collections check` says which"
        )
    if "No space left on device" in said:
        return "the disk of the knowledge base is full; free some space and try again"
    if "UNAUTHENTICATED" in said:
        return (
            "the knowledge base refuses this token, or wants one; "
            "set TRIVIUM_RETRIEVAL__MILVUS_TOKEN"
        )
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return (
            "nobody known here vouches for the knowledge base's certificate; "
            "set TRIVIUM_RETRIEVAL__MILVUS_CA to its authority's"
        )
    if _answers(error):
        return "the knowledge base cannot do this now; try again shortly"
    return "the knowledge base is not reachable; try again shortly"


def _answers(error: MilvusException | grpc.RpcError) -> bool:
    """Whether it was Milvus that said so, and not the network."""
    if isinstance(error, grpc.RpcError) or _remote(error):
        return False
    return not isinstance(error, _UNCONNECTED) and error.code != _NOT_CONNECTED


def _remote(error: BaseException | None) -> grpc.RpcError | None:
    """What gRPC said; pymilvus hides it behind an error of its own when connecting fails."""
    while error is not None and not isinstance(error, grpc.RpcError):
        error = error.__context__
    return error


def _detail(error: MilvusException | grpc.RpcError) -> str:
    if remote := _remote(error):
        return f"{remote.code().name} {remote.details()}"
    return f"{error.code} {error.message}"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"{folder}: the knowledge base cannot be kept there ({error.strerror}); "
            "set state_dir or retrieval.milvus_uri to another place"
        ) from None


def _check_certificates(path: Path) -> None:
    """Else a file that is none would look like a server that is not there."""
    try:
        ssl.create_default_context(cafile=str(path))
    except ssl.SSLError:
        raise SettingsError(
            f"{path}: retrieval.milvus_ca holds no certificate in PEM form"
        ) from None
    except OSError as error:
        raise SettingsError(
            f"{path}: retrieval.milvus_ca cannot be read ({error.strerror})"
        ) from None

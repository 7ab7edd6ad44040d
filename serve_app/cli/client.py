"""The running stack, as the commands see it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import TracebackType
from typing import Annotated, Any, Self

import httpx
import typer

from serve_app.errors import InvalidRequest, TriviumError, Unavailable

Url = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="TRIVIUM_URL",
        help="Where Trivium answers.",
        rich_help_panel="Connection",
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="TRIVIUM_API_KEY",
        help="API key, if the gateway wants one. Better in the environment than here.",
        show_default=False,
        show_envvar=True,
        rich_help_panel="Connection",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

DEFAULT_URL = "http://127.0.0.1:8000"


class Refused(TriviumError):
    """The stack answered with an error; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status  # type: ignore[misc]


class Client:
    """One connection to the stack; use it as a context manager."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float = 310.0) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._url = url
        try:
            self._http = httpx.Client(
                base_url=url, headers=headers, timeout=httpx.Timeout(timeout_s, connect=5.0)
            )
        except httpx.InvalidURL:
            raise InvalidRequest(
                f"--url {url!r} is no address; one looks like {DEFAULT_URL}"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._http.close()

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Call an endpoint and return its JSON.

        Raises:
            Refused: The stack answered with an error, or somebody else did.
            Unavailable: Nobody answers at the address.
        """
        return self.exchange(method, path, body)[1]

    def exchange(self, method: str, path: str, body: Any = None) -> tuple[httpx.Headers, Any]:
        """The same with the headers of the answer; raises the same."""
        try:
            response = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if response.is_error:
            raise refused(response)
        try:
            return response.headers, response.json()
        except ValueError:
            told = f"{self._url} answers with something else than JSON: is it Trivium? (--url)"
            raise Refused(told, response.status_code) from None

    def chat(self, body: dict[str, Any]) -> Iterator[tuple[httpx.Headers, dict[str, Any]]]:
        """Stream a chat completion: response headers with each event."""
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.is_error:
                    response.read()
                    raise refused(response)
                for line in _lines(response):
                    if line.startswith("data: ") and line != "data: [DONE]":
                        event = json.loads(line.removeprefix("data: "))
                        if "error" in event:
                            raise Refused(event["error"]["message"], 500)
                        yield response.headers, event
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: httpx.HTTPError) -> Unavailable:
        return Unavailable(
            f"no answer from {self._url} ({type(error).__name__}); "
            "start it with `trivium up`, or name another with --url"
        )


def _lines(response: httpx.Response) -> Iterator[str]:
    """The lines of a stream. (httpx also ends one at U+2028 and the like, which may be text.)"""
    rest = b""
    for content in response.iter_bytes():
        *lines, rest = (rest + content).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace").removesuffix("\r")


def refused(response: httpx.Response) -> Refused:
    """The stack's own words for why it answered with an error."""
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {response.status_code}"
    return Refused(message, response.status_code)

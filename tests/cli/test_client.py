"""How the commands read a stream."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from serve_app.cli.client import Client, Refused
from serve_app.cli.served import wait_until_served

TEXT = "one\u2028two\u2029three\x85four\x0bfive"


@pytest.fixture
def url() -> Iterator[str]:
    """A server whose events hold what Unicode takes for the end of a line, unescaped."""
    chunk = {"choices": [{"delta": {"content": TEXT}}]}
    events = (
        f": keep-alive\n\ndata: {json.dumps(chunk, ensure_ascii=False)}\r\n\r\ndata: [DONE]\n\n"
    )

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            for byte in events.encode():
                self.wfile.write(bytes([byte]))  # wherever a network cuts

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


@pytest.fixture
def website() -> Iterator[str]:
    """A server that answers everything with a page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>Shop</title>")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def test_somebody_else_at_the_address_is_told_in_a_sentence(website: str) -> None:
    with Client(website, None) as client, pytest.raises(Refused, match="is it Trivium"):
        client.request("GET", "/v1/models")
    verdict = wait_until_served(website, None, "house", 1, wait_s=5)
    assert (verdict.served, "is it Trivium" in verdict.reason) == (None, True)


def test_a_line_ends_at_a_newline_alone(url: str) -> None:
    with Client(url, None) as client:
        (event,) = [event for _, event in client.chat({})]
    assert event["choices"][0]["delta"]["content"] == TEXT

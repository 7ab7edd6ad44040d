"""Requests that nobody would send, made from the OpenAPI document: does every answer fit it?

    python -m loadtest.fuzz --url http://127.0.0.1:8000 --seconds 600

Schemathesis makes them, valid and invalid ones. A failure is a 5xx, a status or a content type that
is not documented, or a body outside of its schema. Documents are written and deleted, so name a
stack whose documents you can lose. `TRIVIUM_API_KEY` is sent if it is set.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


def command(url: str, *options: str, phases: str = "examples,coverage,fuzzing") -> list[str]:
    """The call of schemathesis."""
    return [
        str(Path(sys.executable).with_name("schemathesis")),
        *("run", f"{url.rstrip('/')}/openapi.json"),
        *("--checks", ",".join(CHECKS)),
        *("--phases", phases),
        *("--warnings", "off"),
        *("--suppress-health-check", "filter_too_much,too_slow"),
        "--continue-on-failure",
        *options,
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default=os.environ.get("TRIVIUM_URL", "http://127.0.0.1:8000"))
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    key = os.environ.get("TRIVIUM_API_KEY")
    options = ["--max-time", str(given.seconds), "--seed", str(given.seed)]
    options += ["--request-timeout", "150", "--rate-limit", "auto"]
    options += ["--header", f"Authorization: Bearer {key}"] if key else []
    return subprocess.call(command(given.url, *options))


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.integration.kept DASHBOARD RAY`: prints all that Serve and Ray's GCS keep.

A process of its own, because Ray reads its variables when it is imported.
"""

from __future__ import annotations

import json
import os
import sys

from serve_app.cli.local import RAY_ENVIRONMENT

# Ray's own names of what it keeps by key; Redis, where there is one, has all of them.
_SPACES = (None, b"serve", b"fun", b"job", b"session", b"cluster", b"dashboard", b"runtime_env")


def main(dashboard: str, ray: str) -> None:
    os.environ.update(RAY_ENVIRONMENT)
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # it has no stub
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    out = sys.stdout.buffer
    details = ServeSubmissionClient(f"http://{dashboard}").get_serve_details()
    out.write(json.dumps(details).encode())
    gcs = GcsClient(address=ray)
    for space in _SPACES:
        for key in gcs.internal_kv_keys(b"", namespace=space):
            out.write(key + b" " + (gcs.internal_kv_get(key, namespace=space) or b"") + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

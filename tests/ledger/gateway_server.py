"""A gateway replica that asks a scripted frontier: PORT, ADDRESS of the ledger, USD limit, [hang].

A process of its own, so that tests may have several, and kill them. Its provider claims far more
tokens than it can have used, so that each answer costs exactly what was held for it. With `hang`
it never answers.
"""

from __future__ import annotations

import asyncio
import sys

import uvicorn

from serve_app.domain import Delta, Usage
from tests.fixtures import House, ScriptedModel

_CLAIMED = Usage(10**9, 10**9)


def house(address: str, usd: str, *, hangs: bool) -> House:
    script = [asyncio.Event()] if hangs else [Delta("Deep.", "stop", _CLAIMED)]
    return House(
        frontier=ScriptedModel(*script),
        gateway={"max_concurrent_requests": 1000},
        ledger={
            "database": address,
            "at_limit": "refuse",
            "limits": [{"of": "house", "per": "month", "usd": usd}],
        },
    )


if __name__ == "__main__":
    app = house(sys.argv[2], sys.argv[3], hangs=sys.argv[4:] == ["hang"]).app
    uvicorn.run(app, port=int(sys.argv[1]), log_level="critical", lifespan="off")

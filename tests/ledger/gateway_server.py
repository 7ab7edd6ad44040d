"""A gateway replica: PORT, ADDRESS of the ledger, USD limit, FRONTIER.

A process of its own, so that tests may have several, and kill them. FRONTIER is the address of an
OpenAI-compatible server, or a script: `good` claims what it took, far less than what is held for
it; `hang` never answers.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvicorn

from serve_app.domain import Delta, Usage
from serve_app.frontier.deployment import FrontierServer
from serve_app.router.policy import pins
from tests.fixtures import FRONTIER, House, ScriptedModel


def frontier(named: str) -> Any:
    match named:
        case "good":
            return ScriptedModel(Delta("Deep.", "stop", Usage(20, 5)))
        case "hang":
            return ScriptedModel(asyncio.Event())
    upstream = {"provider": "openai", "model": FRONTIER, "base_url": named, "api_key": "k"}
    server = FrontierServer(pins, None)
    asyncio.run(server.reconfigure({"frontier": upstream}))
    return server


def house(address: str, usd: str, named: str) -> House:
    return House(
        frontier=frontier(named),
        gateway={"max_concurrent_requests": 1000},
        ledger={
            "database": address,
            "at_limit": "refuse",
            "limits": [{"of": "house", "per": "month", "usd": usd}],
        },
    )


if __name__ == "__main__":
    port, *arguments = sys.argv[1:]
    uvicorn.run(house(*arguments).app, port=int(port), log_level="critical", lifespan="off")

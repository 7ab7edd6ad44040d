"""The gateway's application with a real retriever behind it; arguments: PORT, FILE of Milvus Lite.

A process of its own, so that tests may kill it.
"""

from __future__ import annotations

import sys
from typing import Any, cast

import uvicorn

from serve_app import models
from serve_app.retrieval.deployment import RetrieverServer
from tests.fixtures import House, unread


def house(**retrieval: Any) -> House:
    """A house whose knowledge is real."""
    made = House()
    server = RetrieverServer({"retrieval": retrieval}, models.embedding_models(), unread, None)
    made.knowledge = cast(Any, server)
    return made


if __name__ == "__main__":
    app = house(milvus_uri=sys.argv[2]).app
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", lifespan="off")

"""The expert's application with two replicas, in a Serve of its own: who answers what?

The replicas have no engine. Prints JSON: the replicas that answered, for each group of questions.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any
from unittest import mock

import ray
from ray import serve
from ray.serve import Application
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ServeDeploySchema

from serve_app import app as graph
from serve_app import serve_config
from serve_app.domain import Delta, Generation, Message, Release, RequestContext
from serve_app.handles import Remote
from serve_app.settings import from_args

SETTINGS = {"expert": {"scaling": {"min_replicas": 2, "max_replicas": 2, "num_cpus": 1}}}
DOCUMENTS = [f"Document {n}. " + f"Sentence of document {n}. " * 200 for n in range(8)]
HOUSE, OTHER = Release("house", 1), Release("other", 1)


class Expert:
    """Answers with its own name; the answer to "wait" then goes on until the caller leaves."""

    def __init__(self, *_: object) -> None:
        self._name = uuid.uuid4().hex[:6]
        # As the expert's: Serve then knows which replica has which adapter.
        self._load = serve.multiplexed(max_num_models_per_replica=4)(_loaded)

    async def generate(
        self, context: RequestContext, generation: Generation
    ) -> AsyncIterator[Delta]:
        if generation.adapter:
            await self._load(str(generation.adapter))
        yield Delta(self._name)
        if generation.messages[-1].content == "wait":
            await asyncio.Event().wait()


def expert(args: Mapping[str, Any]) -> Application:
    """The application, of replicas without an engine."""
    with mock.patch.object(graph, "ExpertServer", Expert):
        return graph.expert(args)


async def _loaded(adapter: str) -> str:
    return adapter


def asked(expert: Remote, *texts: str, adapter: Release | None = None) -> AsyncGenerator[Delta]:
    generation = Generation(tuple(Message("user", text) for text in texts), 8, adapter=adapter)
    context = RequestContext("test", time.time() + 60)
    named = str(adapter) if adapter else ""
    return expert.stream("generate", context, generation, replica_with=named)


async def who(expert: Remote, *texts: str, adapter: Release | None = None) -> str:
    """The replica that answers."""
    async with aclosing(asked(expert, *texts, adapter=adapter)) as answer:
        return (await anext(answer)).text


async def at_once(expert: Remote, adapter: Release | None) -> list[str]:
    """The replicas of twelve answers to the same document, none of which ends before the last."""
    held = [asked(expert, DOCUMENTS[0], "wait", adapter=adapter) for _ in range(12)]
    found = [(await anext(each)).text for each in held]
    for each in held:
        await each.aclose()
    return found


async def main() -> None:
    expert = Remote(DeploymentHandle("Expert", app_name="expert"), "expert", 60)
    told: dict[str, object] = {}
    # Both replicas are known before anything is counted.
    async with asyncio.timeout(60):
        while len({await who(expert, "hello") for _ in range(8)}) < 2:
            pass
    told["documents"] = [
        [await who(expert, document, f"question {n}") for n in range(6)] for document in DOCUMENTS
    ]
    told["adapters"] = [
        [await who(expert, DOCUMENTS[n], adapter=adapter) for n in range(4)]
        for adapter in (HOUSE, OTHER)
    ]
    told["under load"] = await at_once(expert, None)
    told["adapter under load"] = await at_once(expert, HOUSE)
    told["replicas"] = {
        name: sum(found.replica_states.values())
        for name, found in serve.status().applications["expert"].deployments.items()
    }
    print(json.dumps(told))


if __name__ == "__main__":
    ray.init(num_cpus=4, log_to_driver=False, include_dashboard=False)
    serve.start(proxy_location="EveryNode", http_options={"port": int(sys.argv[1])})
    (wanted, _) = serve_config.applications(from_args(SETTINGS))
    wanted["import_path"] = "tests.expert.prefixes:expert"
    client = _get_global_client()
    client.deploy_apps(ServeDeploySchema(applications=[wanted]), _blocking=True)
    asyncio.run(main())
    ray.shutdown()

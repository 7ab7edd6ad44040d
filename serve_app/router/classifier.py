"""Stage 2: a small generative model names the road, under constrained output.

It is asked only about queries that stage 1 is unsure of, and only while the deadline allows; its
answer is weighed against stage 1's, and its failure changes nothing.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import aclosing
from dataclasses import dataclass, replace

from serve_app.domain import Generation, Message, RequestContext, Route, Usage
from serve_app.errors import TriviumError
from serve_app.handles import Remote
from serve_app.router.turns import Turns

log = logging.getLogger(__name__)

_INSTRUCTIONS = """\
You sort requests. Answer with the one kind that fits the last request:
expert: rewrite, translate, summarise, extract or format text that is given; small talk
knowledge: look up a fact: a policy, a product, a live figure, general knowledge
frontier: several steps of reasoning: plan, prove, debug, weigh, calculate, optimise"""

_SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": [road.value for road in Route]}},
    "required": ["kind"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the model named, if it did in time and in form, and what it took."""

    road: Route | None
    usage: Usage


def question(asked: Turns) -> Generation:
    """What the model is asked about a query."""
    text = "\n".join(part for part in (asked.earlier, asked.last) if part)
    return Generation(
        (Message("system", _INSTRUCTIONS), Message("user", text)),
        max_tokens=16,
        options={
            "temperature": 0.0,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "kind", "schema": _SCHEMA, "strict": True},
            },
        },
    )


class GenerativeClassifier:
    """Asks the expert's model."""

    def __init__(self, expert: Remote) -> None:
        self._expert = expert

    async def classify(self, context: RequestContext, asked: Turns, timeout_s: float) -> Opinion:
        """The road of a query."""
        hurried = replace(context, deadline=min(context.deadline, time.time() + timeout_s))
        stream = self._expert.stream("generate", hurried, question(asked))
        answer, usage = "", Usage()
        try:
            async with aclosing(stream) as deltas:
                async for delta in deltas:
                    answer += delta.text
                    usage = delta.usage or usage
            return Opinion(Route(json.loads(answer)["kind"]), usage)
        except (TriviumError, ValueError, KeyError, TypeError) as error:
            log.warning("stage 2 did not help: %r", error)
            return Opinion(None, usage)

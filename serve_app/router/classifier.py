"""Stage 2: a small generative model names the road, under constrained output.

It is asked only about queries that stage 1 is unsure of, and only while the deadline allows; its
answer is weighed against stage 1's, and its failure changes nothing.
"""

from __future__ import annotations

import json
import time
from contextlib import aclosing
from dataclasses import replace

from serve_app.domain import Delta, Generation, Message, RequestContext, Route
from serve_app.handles import Remote
from serve_app.router.turns import Turns

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


class GenerativeClassifier:
    """Asks the expert's model."""

    def __init__(self, expert: Remote) -> None:
        self._expert = expert

    async def classify(self, context: RequestContext, asked: Turns, timeout_s: float) -> Route:
        """The road of a query.

        Raises:
            TriviumError: The model failed or was late.
            ValueError: It did not keep to the schema.
        """
        hurried = replace(context, deadline=min(context.deadline, time.time() + timeout_s))
        text = "\n".join(part for part in (asked.earlier, asked.last) if part)
        generation = Generation(
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
        answer = ""
        async with aclosing(self._expert.stream("generate", hurried, generation)) as deltas:
            async for delta in deltas:
                assert isinstance(delta, Delta)
                answer += delta.text
        try:
            return Route(json.loads(answer)["kind"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no kind in the classifier's answer: {error}") from None

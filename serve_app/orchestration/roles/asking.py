"""A model that fills roles: it is asked with a prompt, and answers in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from serve_app.domain import Generation, Message, Route
from serve_app.errors import RoadBarred, RoleUnfilled
from serve_app.orchestration.calling import Calls
from serve_app.orchestration.prompts import Prompt
from serve_app.orchestration.reply import Reply
from serve_app.orchestration.run import Model, Run
from serve_app.telemetry import tracing

_THINKING = 2_048  # tokens
_TELLTALE = 40  # characters of the instructions; an answer that holds so many repeats them


class Form(BaseModel):
    """What a model must answer."""

    model_config = ConfigDict(extra="ignore", frozen=True)


F = TypeVar("F", bound=Form)


class Asker:
    """Asks one road's model.

    Args:
        road: Whose model it is. Nothing is asked of the frontier where that is barred; what the
            expert's model reads stays in the house.
        names: The models that may answer, as the price table names them; in their order.
    """

    def __init__(self, road: Route, model: Model, names: Sequence[str]) -> None:
        self._road = road
        # An outside model may think before it answers, and is paid for that.
        self._thinking = _THINKING if road is Route.FRONTIER else 0
        self._model = model
        self._names = names

    async def ask(
        self,
        run: Run,
        instructions: Prompt,
        said: str,
        form: type[F],
        schema: Mapping[str, Any],
        max_tokens: int,
    ) -> F:
        """The model's answer, as it should be.

        Args:
            said: What it is told, as a turn of the user: none of it stands in a system message.
            form: What the answer is read as, with every bound checked.
            schema: The same as a JSON schema, in the words that all providers know.

        Raises:
            RoleUnfilled: The answer is not as it should be.
            TriviumError: As `Purse.paying` and `Model.generate`; or the road is barred.
        """
        assert run.decision is not None
        if self._road is Route.FRONTIER and self._road in run.decision.barred:
            raise RoadBarred(f"the policy does not let this question go to trivium/{self._road}")
        told = instructions.render()
        generation = Generation(
            messages=(Message("system", told), Message("user", said)),
            max_tokens=max_tokens + self._thinking,
            options={**instructions.options, "response_format": _format(instructions.name, schema)},
            intended=run.decision.intended,
        )
        reply = Reply()
        calls = Calls(run, self._model, instructions.name, beside=True)
        with tracing.span(f"prompt {instructions.name}", instructions.attributes):
            try:
                async with aclosing(calls.steps(self._names, generation)) as steps:
                    async for _, delta in steps:
                        reply.take(delta)
            finally:
                calls.note(None, generation)
        if len(told) >= _TELLTALE and told[:_TELLTALE] in reply.text:
            raise RoleUnfilled(f"the model repeated the prompt {instructions.name!r}")
        try:
            return form.model_validate_json(reply.text)
        except ValidationError:
            raise RoleUnfilled(f"the model's answer fills no {instructions.name!r}") from None


def _format(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "json_schema",
        "json_schema": {"name": name, "schema": dict(schema), "strict": True},
    }


def an_object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of an object that has all of these properties and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def a_list(items: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of a list."""
    return {"type": "array", "items": dict(items)}

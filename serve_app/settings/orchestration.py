"""How the roads work together, and who does what on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, field_validator

from serve_app.domain import Route
from serve_app.settings.base import Seconds, Section


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError) as error:
        raise ValueError(f"{name!r} is no time zone; one looks like Europe/Oslo") from error
    return name


TimeZone = Annotated[str, AfterValidator(_zone)]


Filler = Literal["rule", "expert", "frontier"]
RULE: Filler = "rule"


class RoleSettings(Section):
    """Who fills the roles of the knowledge road: a rule, or a model through its prompt.

    Of each role several may be named; the next one is asked where one fails, is late, may not be
    asked, or answers what is none. A rule never fails: but for `answer`, it fills in at last where
    none is named. Who could not is said in `x-trivium-degraded`.

    Attributes:
        rewrite: Makes the last question stand alone, and takes it apart.
        grade: Leaves out chunks that do not bear on the question; nobody: all that was found is
            used.
        answer: Answers from what is left. The rule quotes it: that costs no tokens, and beats a
            model that is too small to be trusted with facts.
        reflect: Keeps only sentences of a model's answer that the sources support; nobody: all.
        timeout_s: How long a model may take for one role; never more than half of the time left.
    """

    rewrite: tuple[Filler, ...] = ("rule",)
    grade: tuple[Filler, ...] = ("rule",)
    answer: tuple[Filler, ...] = Field(default=("expert", "rule"), min_length=1)
    reflect: tuple[Filler, ...] = ("rule",)
    timeout_s: Seconds = 8.0

    @field_validator("rewrite", "grade", "answer", "reflect")
    @classmethod
    def _in_order(cls, value: tuple[Filler, ...]) -> tuple[Filler, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names one twice")
        if RULE in value[:-1]:
            raise ValueError("rule never fails, so nobody behind it is asked: put it last")
        return value


class DoubtSettings(Section):
    """When the expert's answer is left to the frontier because its own model doubts it.

    Answers through an adapter, in JSON, or by name are never.

    Attributes:
        below: Mean log-probability of the first tokens, below which the answer is doubted.
        tokens: How many are looked at. They are held back until then.
        within_s: For no longer than this after the first one, doubted or not.
    """

    below: float = Field(lt=0)
    tokens: int = Field(default=16, ge=1)
    within_s: Seconds = 1.0


class OrchestrationSettings(Section):
    """How the roads work together.

    Attributes:
        doubt: When the expert's own doubt sends a question on to the frontier, where that may
            stand in for it. Unset: never.
        roles: Who thinks on the knowledge road.
        fallbacks: Which road answers when another cannot, tried in order, before the first byte.
            Where the question needs facts, the knowledge road stands in instead of the expert.
        prompts: One's own in place of those that come along (`serve_app/orchestration/prompts`): a
            folder of files in their format, or the texts by name.
        calibration: What cosines of embedding models mean, as `trivium calibrate knowledge` writes
            it, beside what is known of the one that comes along. The rules of `grade` and `answer`
            read them.
        min_quote: Least probability that what is quoted holds the answer.
        without_evidence: What is done when nothing relevant was found, twice: say that the
            knowledge base does not say, or ask the frontier, with whatever there was.
        without_knowledge: What is done when facts cannot be looked up and nobody else may answer:
            503, or a sentence that says so.
        time_zone: What "yesterday" means, for tenants without one of their own in `time_zones`.
    """

    fallbacks: dict[Route, tuple[Route, ...]] = Field(
        default={
            Route.EXPERT: (Route.FRONTIER,),
            Route.KNOWLEDGE: (Route.FRONTIER,),
            Route.FRONTIER: (Route.EXPERT,),
        }
    )
    roles: RoleSettings = RoleSettings()
    doubt: DoubtSettings | None = None
    prompts: dict[str, str] | Path | None = None
    calibration: dict[str, Any] | Path | None = None
    min_quote: float = Field(default=0.25, ge=0, le=1)
    without_evidence: Literal["say so", "frontier"] = "say so"
    without_knowledge: Literal["unavailable", "say so"] = "unavailable"
    time_zone: TimeZone = "UTC"
    time_zones: dict[str, TimeZone] = Field(default_factory=dict)

    @field_validator("fallbacks")
    @classmethod
    def _facts_are_not_invented(
        cls, value: dict[Route, tuple[Route, ...]]
    ) -> dict[Route, tuple[Route, ...]]:
        if Route.EXPERT in value.get(Route.KNOWLEDGE, ()):
            raise ValueError(
                "knowledge must not fall back to expert: its model knows none of the facts and "
                "would invent them; leave expert out of fallbacks.knowledge"
            )
        return value

    def resolved(self, root: Path) -> OrchestrationSettings:
        """The same with a relative path made absolute against `root`."""
        own = {"prompts": self.prompts, "calibration": self.calibration}
        placed = {
            name: root / each if isinstance(each, Path) else each for name, each in own.items()
        }
        return self.model_copy(update=placed)

    def zone(self, tenant: str) -> ZoneInfo:
        """Where a tenant's days begin."""
        return ZoneInfo(self.time_zones.get(tenant, self.time_zone))

"""Is it worth it? What four stacks cost as volume grows, building and upkeep included.

A month of a stack costs its share of what was paid once (engineering, training, indexing), its
upkeep (engineering, retraining, embedding what changed), its machines, which are paid for by the
hour whether they work or not and come in whole ones, and its frontier tokens, which are paid for by
use. Dollars of a *successful* answer divide that by the answers that are good, by assumption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serve_app.domain import Usage
from serve_app.errors import SettingsError
from serve_app.ledger.prices import PriceTable
from serve_app.plain_data import yaml_file

Stack = Literal["rag_only", "fine_tuned_only", "long_context", "hybrid"]
STACKS: tuple[Stack, ...] = ("rag_only", "fine_tuned_only", "long_context", "hybrid")

_HOURS = 730.0  # in a month
_DECADES = 9  # of answers a month: beyond them nobody asks for a crossover

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
PerStack = dict[Stack, Amount]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Workload(_Part):
    static: Share
    volatile: Share
    reasoning: Share
    question_tokens: Amount
    answer_tokens: Amount
    evidence_tokens: Amount
    knowledge_tokens: Amount
    knowledge_changed: Share

    @model_validator(mode="after")
    def _whole(self) -> Workload:
        if not math.isclose(self.static + self.volatile + self.reasoning, 1.0, abs_tol=1e-6):
            raise ValueError("static, volatile and reasoning must sum to 1")
        return self


class Models(_Part):
    frontier: str
    expert: str
    embedding: str


class CapEx(_Part):
    months: Annotated[float, Field(gt=0)]
    engineering_usd_per_hour: Amount
    engineering_hours: PerStack
    training_gpu_hours: Amount
    gpu_usd_per_hour: Amount
    training_runs: Amount


class OpEx(_Part):
    retraining_runs: Amount
    engineering_hours: PerStack
    machines_min: Annotated[int, Field(ge=0)]
    peak_to_mean: Annotated[float, Field(ge=1)]


class Success(_Part):
    static: Share
    volatile: Share
    reasoning: Share


class Assumptions(_Part):
    """Everything that a forecast is made of, beside prices."""

    workload: Workload
    models: Models
    capex: CapEx
    opex: OpEx
    succeeds: dict[Stack, Success]

    @model_validator(mode="after")
    def _every_stack(self) -> Assumptions:
        for name, given in (
            ("succeeds", self.succeeds),
            ("capex.engineering_hours", self.capex.engineering_hours),
            ("opex.engineering_hours", self.opex.engineering_hours),
        ):
            if missing := [stack for stack in STACKS if stack not in given]:
                raise ValueError(f"{name} lacks {', '.join(missing)}")
        return self

    @classmethod
    def load(cls, path: Path) -> Assumptions:
        """Read them from YAML.

        Raises:
            SettingsError: The file cannot be read, or what it says cannot be; names the place.
        """
        try:
            return cls.model_validate(yaml_file(path))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            problem = first["msg"].removeprefix("Value error, ")
            raise SettingsError(f"{path}: {place + ': ' if place else ''}{problem}") from None


@dataclass(frozen=True, slots=True)
class Month:
    """A stack's month at some volume, in dollars."""

    capex: float
    upkeep: float
    machines: float
    tokens: float
    success: float
    answers: float

    @property
    def total(self) -> float:
        return self.capex + self.upkeep + self.machines + self.tokens

    @property
    def per_success(self) -> float:
        """Dollars of a good answer; infinite where none is."""
        good = self.answers * self.success
        return self.total / good if good else math.inf


class Forecast:
    """What stacks cost under some assumptions.

    Raises:
        SettingsError: A model has no price.
    """

    def __init__(self, assumed: Assumptions, prices: PriceTable) -> None:
        for model in (assumed.models.frontier, assumed.models.expert, assumed.models.embedding):
            prices.require(model)
        if prices.is_metered(assumed.models.expert):
            raise SettingsError(
                f"models.expert: {assumed.models.expert!r} is priced by token; name a model under "
                "`compute` of the price table, which runs on machines of your own"
            )
        self._assumed = assumed
        self._prices = prices

    def month(self, stack: Stack, answers: float) -> Month:
        """A month with so many answers."""
        assumed = self._assumed
        work, capex, opex = assumed.workload, assumed.capex, assumed.opex
        embedding = assumed.models.embedding
        indexed = stack in ("rag_only", "hybrid")
        tuned = stack in ("fine_tuned_only", "hybrid")
        run = capex.training_gpu_hours * capex.gpu_usd_per_hour
        index = self._prices.of(embedding, Usage(round(work.knowledge_tokens))) * indexed
        once = (
            capex.engineering_hours[stack] * capex.engineering_usd_per_hour
            + capex.training_runs * run * tuned
            + index
        )
        upkeep = (
            opex.engineering_hours[stack] * capex.engineering_usd_per_hour
            + opex.retraining_runs * run * tuned
            + index * work.knowledge_changed
        )
        good = assumed.succeeds[stack]
        shares = ("static", "volatile", "reasoning")
        return Month(
            capex=once / capex.months,
            upkeep=upkeep,
            machines=self._machines(answers * self._to_expert(stack)),
            tokens=answers * self._tokens(stack),
            success=sum(getattr(work, kind) * getattr(good, kind) for kind in shares),
            answers=answers,
        )

    def crossover(self, cheap: Stack, dear: Stack) -> int | None:
        """Fewest answers a month at which `cheap` gives the cheaper success; `None` if never.

        Machines come in whole ones, so above it the two may change places again for a while.
        """
        grid = sorted({round(10 ** (power / 40)) for power in range(_DECADES * 40 + 1)})
        found = next((n for n in grid if self._beats(cheap, dear, n)), None)
        if found is None or found == grid[0]:
            return found
        low, high = grid[grid.index(found) - 1], found
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._beats(cheap, dear, middle) else (middle, high)
        return high

    def _beats(self, cheap: Stack, dear: Stack, answers: int) -> bool:
        return self.month(cheap, answers).per_success < self.month(dear, answers).per_success

    def _to_expert(self, stack: Stack) -> float:
        """The share of answers that our own machines write."""
        work = self._assumed.workload
        return {
            "rag_only": 0.0,
            "long_context": 0.0,
            "fine_tuned_only": 1.0,
            "hybrid": work.static + work.volatile,
        }[stack]

    def _machines(self, answers: float) -> float:
        """Whole machines for the busiest hour of a month with so many answers."""
        if not answers:
            return 0.0
        work, opex = self._assumed.workload, self._assumed.opex
        # The hybrid's volatile questions bring their evidence along; all are counted so.
        usage = Usage(round(work.question_tokens + work.evidence_tokens), round(work.answer_tokens))
        busy = self._prices.machine_seconds(self._assumed.models.expert, usage)
        needed = answers / _HOURS * opex.peak_to_mean * busy / 3600
        count = max(opex.machines_min, math.ceil(needed))
        return count * self._prices.usd_per_hour(self._assumed.models.expert) * _HOURS

    def _tokens(self, stack: Stack) -> float:
        """Dollars by use, of a mean answer."""
        work, models = self._assumed.workload, self._assumed.models
        asked, said = round(work.question_tokens), round(work.answer_tokens)
        read, base = round(work.evidence_tokens), round(work.knowledge_tokens)
        embedded = self._prices.of(models.embedding, Usage(asked))

        def frontier(prompt: int, cached: int = 0) -> float:
            return self._prices.of(models.frontier, Usage(prompt, said, cached))

        match stack:
            case "rag_only":
                return frontier(asked + read) + embedded
            case "long_context":
                return frontier(asked + base, cached=base)
            case "fine_tuned_only":
                return 0.0
            case "hybrid":
                return work.volatile * embedded + work.reasoning * frontier(asked)


def table(forecast: Forecast, volumes: Sequence[int]) -> Mapping[int, Mapping[Stack, Month]]:
    """Every stack's month at some volumes."""
    return {
        answers: {stack: forecast.month(stack, answers) for stack in STACKS} for answers in volumes
    }


Crossovers = Mapping[str, int | None]


def crossovers(forecast: Forecast) -> Crossovers:
    """From how many answers a month the hybrid beats each of the others."""
    return {stack: forecast.crossover("hybrid", stack) for stack in STACKS if stack != "hybrid"}

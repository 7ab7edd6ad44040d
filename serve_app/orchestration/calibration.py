"""What rules make of cosines, which mean something else with each embedding model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, RootModel

from serve_app.errors import SettingsError
from serve_app.plain_data import validated, yaml_file
from serve_app.settings import RULE, Settings

SHIPPED = Path(__file__).with_name("calibration.yaml")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Scale(_Part):
    """Platt scaling (1999): a cosine c to the probability 1 / (1 + exp(-(offset + slope c)))."""

    slope: float = Field(gt=0)
    offset: float

    def __call__(self, cosine: float) -> float:
        return 1 / (1 + math.exp(-(self.offset + self.slope * cosine)))


class Calibration(_Part):
    """Of one embedding model.

    Attributes:
        chunk: That a chunk holds the answer, by its cosine with the question.
        statement: That the nearest statement does, by its own.
        wording: What sharing all of the question's words is worth, in cosine.
        as_near: Of two statements that differ by less, both are quoted.
        learned_from: Questions by source, for people.
    """

    chunk: Scale
    statement: Scale
    wording: float = Field(ge=0)
    as_near: float = Field(ge=0)
    learned_from: dict[str, int] = {}


class Calibrations(RootModel[dict[str, Calibration]]):
    """By the name of the embedding model."""

    model_config = ConfigDict(frozen=True)


def load_calibrations(own: Path | Mapping[str, Any] | None = None) -> dict[str, Calibration]:
    """Those that come along, and one's own.

    Args:
        own: A file, or what it would hold.

    Raises:
        SettingsError: The file is missing, not YAML, or a key is wrong; says which and why.
    """
    found = _read(yaml_file(SHIPPED, "the calibration "), str(SHIPPED))
    if isinstance(own, Mapping):
        found |= _read(own, "orchestration.calibration")
    elif own is not None:
        found |= _read(yaml_file(own, "the calibration "), str(own))
    return found


def calibration_of(settings: Settings) -> Calibration | None:
    """The embedding model's, where it has one.

    Raises:
        SettingsError: It has none though a rule reads its cosines, or as `load_calibrations`.
    """
    model, rules = settings.retrieval.embedding_name, settings.orchestration
    found = load_calibrations(rules.calibration).get(model)
    # Of several, the first one is asked; the rule behind another keeps all and quotes nothing.
    first = {each[0] for each in (rules.roles.grade, rules.roles.answer) if each}
    if found is None and RULE in first:
        raise SettingsError(
            f"nobody knows what a cosine of {model!r} means: fit it with `trivium calibrate "
            "knowledge` and set orchestration.calibration, or let a model grade and answer: "
            "orchestration.roles"
        )
    return found


def _read(data: Any, source: str) -> dict[str, Calibration]:
    return dict(validated(Calibrations, data, source).root)

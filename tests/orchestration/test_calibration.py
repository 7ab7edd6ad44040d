"""What cosines of an embedding model mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.errors import SettingsError
from serve_app.orchestration.calibration import SHIPPED, calibration_of
from serve_app.settings import BUNDLED, from_args

OWN = yaml.safe_load(SHIPPED.read_text())[BUNDLED]


def of(model: str, answer: list[str], **rules: Any) -> Any:
    return calibration_of(
        from_args(
            {
                "retrieval": {"embedding_model": model},
                "orchestration": {"roles": {"answer": answer, "grade": answer}, **rules},
            }
        )
    )


def test_the_model_that_comes_along_is_calibrated() -> None:
    read = of(BUNDLED, ["rule"])
    assert read.chunk(0.3) < 0.5 < read.chunk(0.9)


def test_rules_that_read_cosines_nobody_knows_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"'e5'.*trivium calibrate knowledge"):
        of("e5", ["rule"])
    assert of("e5", ["expert", "rule"]) is None


def test_ones_own_calibration_is_read(tmp_path: Path) -> None:
    own = {"e5": OWN | {"wording": 0.1}}
    assert of("e5", ["rule"], calibration=own).wording == 0.1
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(own))
    assert of("e5", ["rule"], calibration=str(path)).wording == 0.1


def test_prompts_make_another_model_of_it() -> None:
    settings = from_args({"retrieval": {"embedding": {"passage_prompt": "passage: "}}})
    rules = settings.orchestration
    roles = rules.roles.model_copy(update={"answer": ("rule",)})
    rules = rules.model_copy(update={"roles": roles})
    with pytest.raises(SettingsError, match="passage_prompt=passage"):
        calibration_of(settings.model_copy(update={"orchestration": rules}))


def test_a_bad_calibration_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="chunk"):
        of("e5", ["rule"], calibration={"e5": OWN | {"chunk": {"slope": 0, "offset": 0}}})
    with pytest.raises(SettingsError, match="nowhere"):
        of("e5", ["rule"], calibration=str(tmp_path / "nowhere.yaml"))

"""What machines cost: published prices by the hour, and what a cluster says of its own now.

`trivium cost machines --write` looks up what a cluster's nodes cost and keeps it in a ConfigMap;
mounted as a file, running gateways follow it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from serve_app.errors import SettingsError
from serve_app.plain_data import yaml_text

log = logging.getLogger(__name__)

_LOOK_S = 30.0  # Kubernetes takes about a minute to bring a ConfigMap through anyway

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodePrice(_Row):
    """A row of `nodes` (a rented machine) or `gpus` (one GPU of a machine without a rent).

    Attributes:
        spot_usd_per_hour: Of the same while it may be taken away at any time.
    """

    usd_per_hour: NonNegative
    spot_usd_per_hour: NonNegative | None = None
    source: str
    as_of: date


class MachinePrice(_Row):
    """What the machine of one replica of a model costs now."""

    usd_per_hour: NonNegative
    source: str
    as_of: date


class _File(RootModel[dict[str, MachinePrice]]):
    """By model."""


class Machines:
    """The prices in a file that may come, change and go while they are in use.

    A change that cannot be read is logged, and the last good prices stay in force.

    Args:
        path: Where it would be.

    Raises:
        SettingsError: There is a file and it cannot be read; names the place.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = self._modified()
        self._prices = self._read()
        self._looked = time.monotonic()

    def now(self) -> Mapping[str, MachinePrice]:
        """Prices by model; empty without a file."""
        if time.monotonic() - self._looked >= _LOOK_S:
            self.look()
        return self._prices

    def look(self) -> None:
        """Take what the file says now, if it has changed."""
        self._looked = time.monotonic()
        if (modified := self._modified()) == self._changed:
            return
        self._changed = modified
        try:
            self._prices = self._read()
        except SettingsError as error:
            log.warning("machine prices stay as they were: %s", error)

    def _modified(self) -> int | None:
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return None

    def _read(self) -> dict[str, MachinePrice]:
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{self._path}: cannot be read: {error}") from None
        try:
            return _File.model_validate(yaml_text(text, str(self._path)) or {}).root
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            row = ".".join(str(part) for part in first["loc"])
            raise SettingsError(f"{self._path}: {row}: {first['msg']}") from None

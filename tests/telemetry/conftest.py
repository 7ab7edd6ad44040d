"""Metrics that are kept in this process, instead of being handed to Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from serve_app.telemetry import metrics


class Kept:
    """What metrics were told: their last value, or their sum, by name and labels."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self.keys: dict[str, tuple[str, ...]] = {}

    def of(self, name: str, **labels: str) -> float | None:
        """`None` where nothing was told."""
        return self.values.get((name, tuple(sorted(labels.items()))))

    def made(self, name: str, text: str, tag_keys: tuple[str, ...] = (), **_: Any) -> Told:
        assert text
        self.keys[name] = tag_keys
        return Told(self, name)


class Told:
    """One metric, of any kind."""

    def __init__(self, kept: Kept, name: str) -> None:
        self._kept = kept
        self._name = name

    def set(self, value: float, labels: Mapping[str, str] | None = None) -> None:
        self._kept.values[self._key(labels)] = value

    def inc(self, value: float, labels: Mapping[str, str] | None = None) -> None:
        assert value > 0, "Ray refuses to count nothing"
        key = self._key(labels)
        self._kept.values[key] = self._kept.values.get(key, 0) + value

    def observe(self, value: float, labels: Mapping[str, str] | None = None) -> None:
        self.set(value, labels)

    def _key(self, labels: Mapping[str, str] | None) -> tuple[str, tuple[tuple[str, str], ...]]:
        assert set(labels or {}) == set(self._kept.keys[self._name]), self._name
        return self._name, tuple(sorted((labels or {}).items()))


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    kept = Kept()
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(metrics, kind, kept.made)
    return kept

"""Stage 1: turns to decisions in one encoder pass."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from serve_app.domain import Decision, Route
from serve_app.pins import find
from serve_app.router.bases import Key
from serve_app.router.coverage import Base, Coverage
from serve_app.router.encoder import Encoded, Encoder
from serve_app.router.features import cues
from serve_app.router.heads import Heads, Signals
from serve_app.router.outcomes import Outcomes, load_outcomes
from serve_app.router.policy import Policy, load_policy
from serve_app.router.remarks import without_remarks
from serve_app.router.turns import Turns
from serve_app.router.value import Known, Price, prices
from serve_app.settings import Settings


@dataclass(frozen=True, slots=True)
class SemanticRouter:
    """Decides for many queries at once. Holds no state between calls; swap it to change heads.

    Attributes:
        bases: By collection and tenant; of one that is not there nobody knows what it speaks of.
    """

    encoder: Encoder
    heads: Heads
    coverage: Coverage
    outcomes: Outcomes
    prices: Mapping[Route, Price]
    policy: Policy
    bases: Mapping[Key, Base] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        settings: Settings,
        encoder: Encoder,
        heads: Heads,
        coverage: Coverage,
        bases: Mapping[Key, Base] | None = None,
    ) -> Self:
        """The router that settings describe.

        Raises:
            SettingsError: Policy, outcomes or prices are bad, or a pin names an unknown intent.
        """
        policy = load_policy(settings.router.policy)
        policy.require(heads)
        outcomes = load_outcomes(settings.router.outcomes)
        # Bases that are to come are none yet.
        held = {} if bases is None else bases
        return cls(encoder, heads, coverage, outcomes, prices(settings), policy, held)

    @property
    def known(self) -> Known:
        """What is known of the roads."""
        return Known(self.outcomes, self.prices, self.heads.roads)

    def decide(self, asked: Sequence[Turns], tenants: Sequence[str]) -> list[Decision]:
        """One decision for each query, in order."""
        started = time.perf_counter()
        signals = self.signals(asked, tenants)
        known = self.known
        made = [
            self.policy.decide(each, known, tenant, self.matched(turns, tenant), turns.tokens)
            for each, tenant, turns in zip(signals, tenants, asked, strict=True)
        ]
        keys = [(turns.collection, tenant) for turns, tenant in zip(asked, tenants, strict=True)]
        # One object for all that share it: what leaves in one call is pickled once.
        versions = {key: self.versions(key) for key in set(keys)}
        elapsed_ms = (time.perf_counter() - started) * 1000
        return [
            replace(each, latency_ms=elapsed_ms, versions=versions[key])
            for each, key in zip(made, keys, strict=True)
        ]

    def versions(self, of: Key) -> dict[str, str]:
        """Of all that decides for a tenant and its collection."""
        base = self.bases.get(of)
        return {
            "heads": self.heads.version,
            "policy": self.policy.version,
            "outcomes": self.outcomes.version,
            "coverage": self.coverage.version,
            "sketch": str(base.version) if base else "none",
        }

    def reconsider(self, made: Decision, asked: Turns, tenant: str) -> Decision:
        """The decision with the intents of every turn of the user in it, for pins on them."""
        said = [Turns(text, collection=asked.collection) for text in asked.said]
        intended = self.policy.intended(tenant, self.signals(said, [tenant] * len(said)))
        both = tuple(dict.fromkeys((*(made.intended or ()), *intended)))
        if both == made.intended:
            return made
        return self.policy.again(made, self.known, tenant, self.matched(asked, tenant), both)

    def matched(self, asked: Turns, tenant: str) -> frozenset[str]:
        """Names of the pins whose expression is found in what was asked."""
        if asked.matched is None:
            return find(self.policy.pins_of(tenant), [asked.last, asked.earlier])
        return asked.matched

    def signals(self, asked: Sequence[Turns], tenants: Sequence[str]) -> list[Signals]:
        """What the heads say of each query, and the tenants' bases."""
        asked = [each.with_last(without_remarks(each.last)) for each in asked]
        n = len(asked)
        asks = [each.ask for each in asked]
        with_earlier = [i for i, each in enumerate(asked) if each.earlier]
        asking = [i for i, each in enumerate(asked) if asks[i] != each.last]
        texts = [each.last for each in asked]
        texts += [asked[i].earlier for i in with_earlier]
        texts += [asks[i] for i in asking]
        encoded = self.encoder.encode(texts)
        last = encoded.take(range(n))
        # Where the whole last turn asks, which is usual, its own row serves.
        ask_rows = list(range(n))
        for row, i in enumerate(asking, start=n + len(with_earlier)):
            ask_rows[i] = row
        ask = encoded.take(ask_rows) if asking else last
        earlier = encoded.take(range(n, n + len(with_earlier)))
        signals = self.heads.signals(
            last=last,
            earlier=earlier,
            has_earlier=with_earlier,
            ask=ask,
            ask_cues=np.stack([cues(text) for text in asks]),
        )
        bases = [
            self.bases.get((each.collection, tenant))
            for each, tenant in zip(asked, tenants, strict=True)
        ]
        covered = self._covered(asks, ask, bases)
        if with_earlier:
            before = self._covered(
                [asked[i].earlier for i in with_earlier], earlier, [bases[i] for i in with_earlier]
            )
            for i, share in zip(with_earlier, before, strict=True):
                # "And last week?" is about what was asked before.
                covered[i] = max(covered[i] or 0.0, share) if share is not None else None
        return [s.with_coverage(share) for s, share in zip(signals, covered, strict=True)]

    def _covered(
        self, texts: Sequence[str], encoded: Encoded, bases: Sequence[Base | None]
    ) -> list[float | None]:
        if not any(base and base.sketch.texts for base in bases):
            return [None if base is None else 0.0 for base in bases]
        rows = self.coverage.vectors(encoded)
        return [
            self.coverage.of(base, text, row) if base else None
            for base, text, row in zip(bases, texts, rows, strict=True)
        ]

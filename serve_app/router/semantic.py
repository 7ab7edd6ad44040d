"""Stage 1: turns to decisions in one encoder pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from serve_app.domain import Decision
from serve_app.pins import find
from serve_app.router.encoder import Encoder
from serve_app.router.features import cues
from serve_app.router.heads import Heads, Signals
from serve_app.router.policy import Policy
from serve_app.router.remarks import without_remarks
from serve_app.router.turns import Turns


@dataclass(frozen=True, slots=True)
class SemanticRouter:
    """Decides for many queries at once. Holds no state between calls; swap it to change heads."""

    encoder: Encoder
    heads: Heads
    policy: Policy

    def decide(self, asked: Sequence[Turns], tenants: Sequence[str]) -> list[Decision]:
        """One decision for each query, in order."""
        started = time.perf_counter()
        signals = self.signals(asked)
        made = [
            self.policy.decide(each, self.heads, tenant, self.matched(turns, tenant))
            for each, tenant, turns in zip(signals, tenants, asked, strict=True)
        ]
        versions = {"heads": self.heads.version, "policy": self.policy.version}
        elapsed_ms = (time.perf_counter() - started) * 1000
        return [replace(each, latency_ms=elapsed_ms, versions=versions) for each in made]

    def reconsider(self, made: Decision, asked: Turns, tenant: str) -> Decision:
        """The decision with the intents of every turn of the user in it, for pins on them."""
        intended = self.policy.intended(tenant, self.signals([Turns(text) for text in asked.said]))
        both = tuple(dict.fromkeys((*(made.intended or ()), *intended)))
        if both == made.intended:
            return made
        return self.policy.again(made, tenant, self.matched(asked, tenant), both)

    def matched(self, asked: Turns, tenant: str) -> frozenset[str]:
        """Names of the pins whose expression is found in what was asked."""
        if asked.matched is None:
            return find(self.policy.pins_of(tenant), [asked.last, asked.earlier])
        return asked.matched

    def signals(self, asked: Sequence[Turns]) -> list[Signals]:
        """What the heads say of each query."""
        asked = [replace(each, last=without_remarks(each.last)) for each in asked]
        n = len(asked)
        asks = [each.ask for each in asked]
        with_earlier = [i for i, each in enumerate(asked) if each.earlier]
        asking = [i for i, each in enumerate(asked) if asks[i] != each.last]
        texts = [each.last for each in asked]
        texts += [asked[i].earlier for i in with_earlier]
        texts += [asks[i] for i in asking]
        encoded = self.encoder.encode(texts)
        # Where the whole last turn asks, which is usual, its own row serves.
        ask_rows = list(range(n))
        for row, i in enumerate(asking, start=n + len(with_earlier)):
            ask_rows[i] = row
        return self.heads.signals(
            last=encoded.take(range(n)),
            earlier=encoded.take(range(n, n + len(with_earlier))),
            has_earlier=with_earlier,
            ask=encoded.take(ask_rows),
            ask_cues=np.stack([cues(ask) for ask in asks]),
        )

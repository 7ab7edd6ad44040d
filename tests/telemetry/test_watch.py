"""What a gateway reads for the metrics: limits from the ledger, canaries from the registry."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from serve_app.domain import Release
from serve_app.expert.serving import Adapter
from serve_app.gateway.watch import Watch
from serve_app.ledger.book import Book
from serve_app.ledger.database import Database
from serve_app.ledger.entries import Hold, Opening, Settlement
from serve_app.ledger.limits import Amount, Limit, Payer
from serve_app.ledger.sources import Sources
from serve_app.settings import LimitSettings
from serve_app.telemetry.drift import History
from serve_app.telemetry.metrics import StandingMetrics
from tests.fixtures import FixedAdapters, ledger_file, opened
from tests.telemetry.conftest import Kept

LIMITS = [
    LimitSettings(of="house", per="month", usd=Decimal(10)),
    LimitSettings(of="tenant", name="acme", per="day", requests=100, tokens=1000),
    LimitSettings(of="key", tenant="acme", name="ci", per="day", usd=Decimal(1)),
    LimitSettings(of="tenant", per="day", usd=Decimal(2)),
    LimitSettings(of="key", per="minute", requests=5),
]


def watch(registry: str | None = None, sources: tuple[str, ...] = ()) -> tuple[Watch, Book]:
    database = Database(str(ledger_file()))
    book = opened(Book(database, [Limit.of(each) for each in LIMITS]))
    adapters = FixedAdapters([Adapter(Release("house-style", 2)), Adapter(Release("new", 1))])
    return Watch(database, book, adapters, registry, StandingMetrics(), sources), book


async def test_what_is_spent_and_held_of_named_limits_is_told(kept: Kept) -> None:
    watching, book = watch()
    payer = Payer("acme", "ci")
    now = book.clock()
    asked = {"request_id": "r", "asked_model": "m", "trace_id": None, "degraded": ""}
    await book.ask(Opening("answer", payer, now, now + 60, asked))
    call = {"model": "m", "purpose": "answer", "adapter": None}
    done = Hold("done", "answer", payer, now, now + 60, Amount(0, 200, 10**9 // 2), call)
    await book.ask(done)
    await book.tell(Settlement(done, Amount(0, 50, 10**9 // 4), {"status": "ok"}))
    running = Hold("running", "answer", payer, now, now + 60, Amount(0, 30, 10**9 // 10), call)
    await book.ask(running)

    await watching.limits()
    used = {
        ("house", "month", "usd"): 0.35,
        ("tenant:acme", "day", "requests"): 1,
        ("tenant:acme", "day", "tokens"): 80,
        ("key:acme/ci", "day", "usd"): 0.35,
    }
    for (limit, per, unit), value in used.items():
        told = kept.of("trivium_limit_used", limit=limit, per=per, unit=unit)
        assert told == pytest.approx(value), limit
    assert kept.of("trivium_limit_most", limit="house", per="month", unit="usd") == 10
    # What everybody has for themselves would be a series for each tenant and key.
    assert len(kept.values) == 2 * len(used)


async def test_the_last_canary_of_each_adapter_that_serves_is_told(
    kept: Kept, tmp_path: Path
) -> None:
    watching, _ = watch(str(tmp_path))
    for version, score, alerts in ((1, 0.9, []), (2, 0.5, ["fell"])):
        record = {"adapter": "house-style", "version": version, "time": 1e9, "alerts": alerts}
        History.of(str(tmp_path), "house-style").add({**record, "scores": {"adherence": score}})
    History.of(str(tmp_path), "of another time").add({})

    await watching.canaries()
    labels = {"adapter": "house-style", "version": "2"}
    assert kept.of("trivium_canary_score", score="adherence", **labels) == 0.5
    assert kept.of("trivium_canary_alerts", **labels) == 1
    assert len(kept.values) == 3


async def test_a_damaged_history_is_not_told_and_hides_no_other(
    kept: Kept, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watching, _ = watch(str(tmp_path))
    (tmp_path / "house-style").mkdir()
    (tmp_path / "house-style" / "canary-history.jsonl").write_text("{half a rec")
    record = {"adapter": "new", "version": 1, "time": 1e9, "alerts": [], "scores": {}}
    History.of(str(tmp_path), "new").add(record)
    await watching.canaries()
    assert kept.of("trivium_canary_alerts", adapter="new", version="1") == 0
    assert "house-style is not told" in caplog.text


async def test_how_sources_of_the_settings_stand_is_told(kept: Kept) -> None:
    watching, _ = watch(sources=("handbook",))
    standing = Sources(watching._database)
    for name in ("handbook", "of-old"):
        await standing.failed(name, "default", "away")
    await watching.sources()
    assert kept.of("trivium_source_failures", source="handbook") == 1
    lag = kept.of("trivium_source_lag_seconds", source="handbook")
    assert lag is not None
    assert 0 <= lag < 60
    assert kept.of("trivium_source_failures", source="of-old") is None

"""`trivium keys` and `trivium cost`, on a real ledger."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from serve_app.domain import Delta, Generation, Message, RequestContext, Usage
from serve_app.ledger.accounts import Accounts
from serve_app.ledger.book import Book
from serve_app.ledger.database import Database
from serve_app.ledger.entries import Hold
from serve_app.ledger.limits import Amount, Payer
from serve_app.ledger.report import wilson
from tests.cli.conftest import Run, Serve
from tests.fixtures import EXPERT, FRONTIER, House, ledger_file, prices

pytestmark = pytest.mark.usefixtures("clean_environment")

ASKED = Generation((Message("user", "Why?"),), 1000)


@pytest.fixture
def ledger() -> Path:
    return ledger_file()


@pytest.fixture
def config(ledger: Path, tmp_path: Path) -> str:
    path = tmp_path / "settings.yaml"
    path.write_text(f"ledger:\n  database: {ledger}\n")
    return str(path)


def answered(ledger: Path, *answers: tuple[str, str, bool | None], judge: str = "caller") -> None:
    """Write answers of a tenant, on a road, that were judged."""

    async def write() -> None:
        book = Book(Database(str(ledger)))
        accounts = Accounts(book, prices())
        for tenant, route, good in answers:
            context = RequestContext("r", time.time() + 60, tenant, "ann")
            account = await accounts.open(context, "trivium/auto", None)
            model = FRONTIER if route == "frontier" else EXPERT
            async with account.paying([model], route, ASKED) as bill:
                bill.note(Delta("x", "stop", Usage(100, 100)))
            await account.close(
                {
                    "status": "ok",
                    "route": route,
                    "model": model,
                    "degraded": "",
                    "baseline_nanos": 3_000_000,
                    "all_frontier_nanos": 1_000_000,
                    "good": good,
                    "judge": None if good is None else judge,
                }
            )
        await book.close()

    asyncio.run(write())


def test_report_tells_what_a_success_cost(run: Run, ledger: Path, config: str) -> None:
    answered(ledger, *[("acme", "frontier", True)] * 3, ("acme", "frontier", False))
    answered(ledger, ("acme", "expert", None), ("other", "expert", None))
    told = json.loads(run("cost", "report", "--by", "route", "--json", "-c", config).out)
    expert, frontier = told["lines"]
    assert (expert["group"], frontier["group"]) == (["expert"], ["frontier"])
    each = (100 * 2 + 100 * 8) / 1e6
    assert frontier["usd"] == pytest.approx(4 * each)
    assert frontier["success"] == 0.75
    assert frontier["judges"] == {"caller": 4}
    assert frontier["usd_per_success"] == pytest.approx(4 * each / 3)
    # Wilson's interval of 3 of 4, as R's binom.confint has it.
    assert frontier["success_interval"] == pytest.approx([0.3006, 0.9544], abs=1e-4)
    assert frontier["usd_per_success_interval"] == pytest.approx(
        [each / 0.9544, each / 0.3006], rel=1e-3
    )
    assert told["total"]["asked"] == 6
    assert told["total"]["usd"] == pytest.approx(expert["usd"] + frontier["usd"])


def test_nothing_is_said_of_answers_that_nobody_judged(
    run: Run, ledger: Path, config: str, tmp_path: Path
) -> None:
    answered(ledger, *[("acme", "expert", None)] * 50)
    told = json.loads(run("cost", "report", "--json", "-c", config).out)["total"]
    assert (told["answered"], told["judged"], told["unjudged"]) == (50, 0, 50)
    for figure in ("success", "success_interval", "usd_per_success", "usd_per_success_interval"):
        assert told[figure] is None
    assert told["saved"] is None
    page = tmp_path / "cost.html"
    shown = run("cost", "report", "--html", str(page), "-c", config).out
    for text_ in (shown, page.read_text()):
        assert "No answer was judged" in " ".join(text_.split())


def test_one_judged_answer_speaks_for_itself_alone(run: Run, ledger: Path, config: str) -> None:
    answered(ledger, *[("acme", "expert", None)] * 99, ("acme", "frontier", True))
    total = json.loads(run("cost", "report", "--json", "-c", config).out)["total"]
    assert (total["judged"], total["unjudged"]) == (1, 99)
    # Its own dollars, not those of all for a hundred successes.
    assert total["usd_per_success"] == pytest.approx(0.001)
    low, high = total["success_interval"]
    assert (low, high) == pytest.approx((0.2065, 1.0), abs=1e-4)
    assert total["saved"] == pytest.approx(1 - 0.001 / 0.003)


def test_the_report_says_who_judged(run: Run, ledger: Path, config: str) -> None:
    answered(ledger, *[("acme", "expert", True)] * 2, ("acme", "expert", None))
    answered(ledger, *[("acme", "expert", False)] * 3, judge="contract")
    told = json.loads(run("cost", "report", "--json", "-c", config).out)["total"]
    assert told["judges"] == {"caller": 2, "contract": 3}
    shown = " ".join(run("cost", "report", "-c", config).out.split())
    assert "5 of 6 answers were judged, 2 by caller and 3 by contract." in shown


def test_where_every_judged_answer_was_bad_a_success_has_no_price(
    run: Run, ledger: Path, config: str
) -> None:
    answered(ledger, *[("acme", "expert", False)] * 3)
    total = json.loads(run("cost", "report", "--json", "-c", config).out)["total"]
    assert (total["success"], total["usd_per_success"]) == (0, None)
    low, high = total["usd_per_success_interval"]
    assert low > 0
    assert high is None


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_share(found: tuple[int, int]) -> None:
    good, count = found
    low, high = wilson(good, count)
    assert 0 <= low <= good / count <= high <= 1
    assert low < high


def test_report_counts_what_was_lost_or_failed(run: Run, ledger: Path, config: str) -> None:
    """A process that died had paid for its first call, and was holding money for a second."""

    async def die() -> None:
        database = Database(str(ledger))
        book = Book(database)
        accounts = Accounts(book, prices())
        context = RequestContext("r", time.time() + 60, "acme", "ann")
        account = await accounts.open(context, "trivium/auto", None)
        async with account.paying([FRONTIER], "frontier", ASKED) as bill:
            bill.note(Delta("x", "stop", Usage(100, 100)))
        row = {"model": FRONTIER, "purpose": "frontier", "adapter": None}
        payer, now = Payer("acme", "ann"), time.time()
        held = Hold("h" * 32, "a" * 32, payer, now, now + 60, Amount(0, 10, 10), row)
        await book.ask(held)
        await Book(database, clock=lambda: time.time() + 3600).release()
        await book.close()

    asyncio.run(die())
    told = json.loads(run("cost", "report", "--json", "-c", config).out)
    (line,) = told["lines"]
    assert (line["group"], line["asked"], line["answered"]) == (["–"], 1, 0)
    assert line["usd"] == pytest.approx(0.001)
    assert line["usd_per_success"] is None


def test_report_is_a_table_a_chart_and_a_page(
    run: Run, ledger: Path, config: str, tmp_path: Path
) -> None:
    answered(ledger, ("<b>acme</b>", "expert", True), ("other", "frontier", True))
    chart, page = tmp_path / "cost.png", tmp_path / "cost.html"
    arguments = ("--by", "tenant", "--by", "day", "--chart", str(chart), "--html", str(page))
    outcome = run("cost", "report", *arguments, "-c", config)
    assert outcome.code == 0
    assert "1 of 1" in outcome.out
    assert "$0.001" in outcome.out
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert "&lt;b&gt;acme" in page.read_text()
    assert "data:image/png;base64," in page.read_text()


def test_report_of_one_tenant_and_of_a_short_time(run: Run, ledger: Path, config: str) -> None:
    answered(ledger, ("acme", "expert", None), ("other", "expert", None))

    async def age() -> None:
        database = Database(str(ledger))
        older = text("UPDATE answers SET started_at = started_at - 7200 WHERE tenant = 'other'")
        await database.write(lambda it: it.execute(older))
        await database.close()

    asyncio.run(age())
    recent = json.loads(run("cost", "report", "--since", "1h", "--json", "-c", config).out)
    other = json.loads(run("cost", "report", "--tenant", "other", "--json", "-c", config).out)
    assert recent["total"]["asked"] == other["total"]["asked"] == 1
    assert run("cost", "report", "--since", "soon", "-c", config).code == 2


def test_a_claim_is_corrected(run: Run, ledger: Path, config: str) -> None:
    answered(ledger, ("acme", "frontier", True))

    async def only_call() -> str:
        database = Database(str(ledger))
        chosen = text("SELECT id FROM calls")
        found = await database.read(lambda it: it.execute(chosen).scalar_one())
        await database.close()
        return str(found)

    arguments = ("--prompt-tokens", "1000", "--completion-tokens", "10", "--note", "ticket 4711")
    call = asyncio.run(only_call())
    prices_file = Path(config).parent / "prices.yaml"
    prices_file.write_text(
        f"metered:\n  {FRONTIER}: {{input: 2, output: 8, source: x, as_of: 2026-01-01}}\n"
        "compute: {}\n"
    )
    with Path(config).open("a") as settings:
        settings.write(f"  prices: {prices_file}\n")
    done = run("cost", "correct", call, *arguments, "-c", config)
    assert done.code == 0
    assert "$0.001000" in done.out
    assert "$0.002080" in done.out
    assert run("cost", "correct", "no-such-call", *arguments, "-c", config).code == 2
    wrong = run("cost", "correct", call, *arguments, "--cached-tokens", "1001", "-c", config)
    assert wrong.code == 2


def test_an_empty_ledger_is_no_error(run: Run, config: str) -> None:
    outcome = run("cost", "report", "-c", config)
    assert outcome.code == 0
    assert "trivium ask" in outcome.out


def test_a_key_is_made_used_rotated_and_revoked(run: Run, serve: Serve, tmp_path: Path) -> None:
    house = House()
    path = tmp_path / "settings.yaml"
    path.write_text(f"ledger:\n  database: {house.ledger_path}\n")
    config = ("-c", str(path))
    url = serve(house)
    made = run("keys", "create", "ci", "--tenant", "acme", "--expires-in", "90d", *config)
    secret = made.out.strip()
    assert secret.startswith("tv-")
    assert secret not in made.err

    def asked(key: str, monkeypatch: pytest.MonkeyPatch) -> int:
        monkeypatch.setenv("TRIVIUM_API_KEY", key)
        return run("ask", "hi", "--url", url).code

    with pytest.MonkeyPatch.context() as environment:
        assert asked(secret, environment) == 0
        assert asked("tv-wrong", environment) == 1
        (listed,) = json.loads(run("keys", "list", "--json", *config).out)
        assert (listed["name"], listed["tenant"], listed["state"]) == ("ci", "acme", "valid")
        turned = json.loads(run("keys", "rotate", listed["id"], "--json", *config).out)
        assert asked(turned["key"], environment) == 0
        assert run("keys", "revoke", turned["id"], *config).code == 0
        assert run("keys", "revoke", turned["id"], *config).code == 2
    shown = run("keys", "list", *config).out
    assert "revoked" in shown
    assert secret not in shown


def test_a_ledger_that_cannot_be_opened_is_named(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("ledger:\n  database: postgresql://nobody@127.0.0.1:1/none\n")
    outcome = run("keys", "list", "-c", str(path))
    assert outcome.code == 2
    assert "ledger.database" in outcome.err
    path.write_text("ledger:\n  database: postgresql://ann:secret@127.0.0.1:1/none\n")
    refused = run("keys", "list", "-c", str(path))
    assert refused.code == 2
    assert "ledger.password" in refused.err
    assert "secret" not in refused.err

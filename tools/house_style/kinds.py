"""The kinds of document: what each is about, and how the house style writes it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tools.house_style import values
from tools.house_style.values import Write

ABSENT = "n/a"


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that a note says.

    Attributes:
        variant: Which of the fact's lists of sentences fits; None where it has one list alone.
        slots: What stands in the braces of a sentence.
        label: Name of its labels, where it can also be said as `label: value`.
    """

    name: str
    slots: Mapping[str, Write] = field(default_factory=dict)
    variant: str | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A note's facts and the document it becomes."""

    kind: str
    facts: tuple[Fact, ...]
    document: str


Pools = Mapping[str, Sequence[str]]  # names, suppliers, steps and risks of a split


def case(kind: str, rng: random.Random, pools: Pools) -> Case:
    facts, document = _KINDS[kind](rng, pools)
    return Case(kind, tuple(each for each in facts if each), document)


def _person(rng: random.Random, pools: Pools) -> str:
    return values.name(rng, pools["first"], pools["last"])


def _fields(title: str, lines: Mapping[str, str]) -> str:
    return "\n".join([f"# {title}", *(f"- {label}: {value}" for label, value in lines.items())])


def _store(rng: random.Random) -> tuple[Fact, str]:
    name = rng.choice(list(values.STORES))
    return Fact("store", {"store": values.store(name)}, label="store"), values.STORES[name]


def _money(name: str, rng: random.Random, most: int) -> tuple[Fact | None, str]:
    """Known, said to be unknown, or not mentioned."""
    chance = rng.random()
    if chance < 0.2:
        return (Fact(name, variant="unknown") if chance < 0.1 else None), ABSENT
    amount = values.cents(rng, most)
    said = Fact(name, {"money": values.money(amount)}, "known", label="money")
    return said, values.house_money(amount)


def _incident(rng: random.Random, pools: Pools) -> tuple[list[Fact | None], str]:
    store, code = _store(rng)
    moment, hour, minute = values.day(rng), rng.randrange(7, 22), rng.randrange(60)
    timed = rng.random() < 0.8
    when = {"date": values.date(moment)} | ({"time": values.clock(hour, minute)} if timed else {})
    what = rng.choice(("Injury", "Theft", "Damage", "Outage"))
    after = rng.choice(("closed", "waited", "none", None))
    severity = "High" if what == "Injury" or after == "closed" else "Low"
    if after == "waited" and what != "Injury":
        severity = "Medium"
    cost, spent = _money("cost", rng, 9000)
    reporter = _person(rng, pools) if rng.random() < 0.85 else None
    victim = {"name": values.as_is(rng.choice(pools["first"]))}
    said_by = {"reporter": values.person(reporter)} if reporter else {}
    facts = [
        store,
        Fact("when", when, "full" if timed else "date"),
        Fact("event", victim, what),
        Fact("consequence", variant=after) if after else None,
        cost,
        Fact("reporter", said_by, label="reporter") if reporter else None,
    ]
    lines = {
        "Store": code,
        "Date": moment.isoformat(),
        "Time": f"{hour:02}:{minute:02}" if timed else ABSENT,
        "Type": what,
        "Severity": severity,
        "Cost": spent,
        "Reported by": reporter or ABSENT,
    }
    return facts, _fields("Incident report", lines)


def _stock(rng: random.Random, pools: Pools) -> tuple[list[Fact | None], str]:
    store, code = _store(rng)
    title = rng.choice(list(values.PRODUCTS))
    counted, gap = rng.randint(0, 140), rng.randint(1, 30)
    known = rng.random()
    variant = "short" if known < 0.5 else "over" if known < 0.85 else "unknown"
    difference = None
    if known < 0.92:
        difference = Fact("difference", {"diff": values.number(gap)}, variant)
    moment = values.day(rng) if rng.random() < 0.85 else None
    who = _person(rng, pools) if rng.random() < 0.8 else None
    facts = [
        store,
        Fact("product", {"product": values.product(title)}, label="product"),
        Fact("counted", {"count": values.number(counted)}, label="count"),
        difference,
        Fact("date", {"date": values.date(moment)}, label="date") if moment else None,
        Fact("counter", {"name": values.person(who)}, label="name") if who else None,
    ]
    sign = {"short": f"-{gap}", "over": f"+{gap}"}
    lines = {
        "Store": code,
        "Product": title,
        "Counted": str(counted),
        "Difference": sign.get(variant, ABSENT),
        "Date": moment.isoformat() if moment else ABSENT,
        "Counted by": who or ABSENT,
    }
    return facts, _fields("Stock discrepancy", lines)


def _supplier(rng: random.Random, pools: Pools) -> tuple[list[Fact | None], str]:
    supplier, digits = rng.choice(pools["suppliers"]), rng.randint(100000, 999999)
    issue = rng.choice(("Late delivery", "Wrong item", "Damaged goods", "Price error"))
    amount, sum_ = _money("amount", rng, 30000)
    due = values.day(rng) if rng.random() < 0.8 else None
    contact = _person(rng, pools) if rng.random() < 0.85 else None
    facts = [
        Fact("supplier", {"supplier": values.as_is(supplier)}, label="supplier"),
        Fact("order", {"order": values.order(digits)}, label="order"),
        Fact("issue", variant=issue),
        amount,
        Fact("due", {"date": values.date(due)}, label="due") if due else None,
        Fact("contact", {"name": values.person(contact)}, label="contact") if contact else None,
    ]
    lines = {
        "Supplier": supplier,
        "Order": f"HR-{digits}",
        "Issue": issue,
        "Amount": sum_,
        "Answer due": due.isoformat() if due else ABSENT,
        "Contact": contact or ABSENT,
    }
    return facts, _fields("Supplier note", lines)


def _reply(rng: random.Random, pools: Pools) -> tuple[list[Fact | None], str]:
    customer, agent = _person(rng, pools), _person(rng, pools)
    problem = rng.choice(("late delivery", "fault", "wrong size", "missing parts"))
    sold = values.SIZED if problem == "wrong size" else list(values.PRODUCTS)
    title, digits = rng.choice(sold), rng.randint(100000, 999999)
    ordered = rng.random() < 0.85
    remedy = rng.choice(("Refund", "Refund", "Refund open", "Replacement", "Replacement", "Repair"))
    amount = values.cents(rng, 1500)
    paid = {"money": values.money(amount)} if remedy == "Refund" else {}
    by = values.day(rng) if rng.random() < 0.75 else None
    facts = [
        Fact("customer", {"customer": values.person(customer)}, label="customer"),
        Fact("problem", {"product": values.product(title)}, problem),
        Fact("order", {"order": values.order(digits)}, label="order") if ordered else None,
        Fact("remedy", paid, remedy),
        Fact("by", {"date": values.date(by)}, label="by") if by else None,
        Fact("agent", {"agent": values.person(agent)}, label="agent"),
    ]
    document = (
        f"Hello {customer.split()[0]},\n\n"
        f"We are sorry about the {problem}: {title}.\n\n"
        f"- Order: {f'HR-{digits}' if ordered else ABSENT}\n"
        f"- Remedy: {remedy.removesuffix(' open')}\n"
        f"- Amount: {values.house_money(amount) if paid else ABSENT}\n"
        f"- By: {by.isoformat() if by else ABSENT}\n\n"
        f"Kind regards\n{agent.split()[0]}"
    )
    return facts, document


def _weekly(rng: random.Random, pools: Pools) -> tuple[list[Fact | None], str]:
    store, code = _store(rng)
    week, taken, orders = rng.randint(1, 52), values.cents(rng, 60000), rng.randint(60, 4000)
    tenths, grown = rng.randint(1, 250), rng.choice(("up", "down"))
    counted, compared = rng.random() < 0.85, rng.random() < 0.85
    level = rng.choice(("High", "Medium", "Low", "None", None))
    risk, step, owner = rng.choice(pools["risks"]), rng.choice(pools["steps"]), _person(rng, pools)
    due = values.day(rng)
    next_ = rng.choice(("owned", "owned", "owned", "owned", "unowned", None))
    task = {"step": values.as_is(step), "date": values.date(due), "name": values.person(owner)}
    facts = [
        Fact("week", {"week": values.as_is(str(week))}, label="week"),
        store,
        Fact("revenue", {"money": values.money(taken)}, label="revenue"),
        Fact("orders", {"orders": values.large(orders)}, label="orders") if counted else None,
        Fact("change", {"pct": values.percent(tenths)}, grown) if compared else None,
        Fact("risk", {"risk": values.as_is(risk)}, level) if level else None,
        Fact("step", task, next_) if next_ else None,
    ]
    lines = {
        "Revenue": values.house_money(taken),
        "Orders": f"{orders:,}" if counted else ABSENT,
        "Change": f"{'+' if grown == 'up' else '-'}{tenths / 10:.1f}%" if compared else ABSENT,
        "Risk": f"{level}, {risk}" if level not in (None, "None") else "None this week",
        "Next step": f"{step} ({owner}, {due.isoformat()})" if next_ == "owned" else ABSENT,
    }
    return facts, _fields(f"Weekly report, week {week}, {code}", lines)


_KINDS: dict[str, Callable[[random.Random, Pools], tuple[list[Fact | None], str]]] = {
    "incident": _incident,
    "stock": _stock,
    "supplier": _supplier,
    "reply": _reply,
    "weekly": _weekly,
}
KINDS = tuple(_KINDS)

"""Values in the ways that people write them, and in the one way that the house style does."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Collection, Sequence

STORES = {
    "Bergen": "BGO",
    "Oslo": "OSL",
    "Stavanger": "SVG",
    "Trondheim": "TRD",
    "Tromsø": "TOS",
    "Ålesund": "AES",
    "Kristiansand": "KRS",
    "Drammen": "DRM",
    "Voss": "VOS",
    "Geilo": "GLO",
    "Copenhagen": "CPH",
    "Gothenburg": "GOT",
    "Stockholm": "STO",
    "Hamburg": "HAM",
}
# Title in the handbook, and what it is called for short.
PRODUCTS = {
    "Fjell 2 Tent": "Fjell 2",
    "Storr 4 Tent": "Storr 4",
    "Glod Gas Stove": "Glod stove",
    "Bal Multifuel Stove": "Bal stove",
    "Skur Shell Jacket": "Skur jacket",
    "Dun Down Jacket": "Dun jacket",
    "Sti Hiking Boots": "Sti boots",
    "Topp Mountain Boots": "Topp boots",
    "Vidde 65 Pack": "Vidde 65",
    "Sva 28 Daypack": "Sva 28",
    "Natt 7 Sleeping Bag": "Natt 7",
    "Ro Sleeping Mat": "Ro mat",
}
SIZED = [title for title in PRODUCTS if title.endswith(("Jacket", "Boots", "Pack", "Mat", "Bag"))]
_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_ASCII = str.maketrans({"ø": "o", "Å": "A", "å": "a", "Ø": "O"})

_ONSETS = "b br d f fj g gr h hv j k kj kl l m n p r s sk st sv t tr v w z sch ch th".split()
_NUCLEI = "a e i o u y ø å ä ö é ü á ei ia ie au ee oo".split()
_CODAS = [
    "",
    *"n r l s k t m rd ns lt sen son sson dal vik berg ska no gård gaard rud stad nes heim".split(),
    *"quist mann ström lund by land ová escu ian ini ez dóttir wski høy set vold stuen".split(),
]

Write = Callable[[random.Random], str]  # one of the ways that people write a value


def day(rng: random.Random) -> datetime.date:
    return datetime.date(2026, 1, 1) + datetime.timedelta(days=rng.randrange(730))


def date(moment: datetime.date) -> Write:
    """Always with day before month, unless the month is a word; the year has two digits or four."""
    d, m, y = moment.day, moment.month, moment.year
    month = f"{moment:%B}"
    suffix = "th" if 10 < d < 14 else {1: "st", 2: "nd", 3: "rd"}.get(d % 10, "th")
    ways = (
        f"{d} {month} {y}",
        f"{month} {d}, {y}",
        f"{d:02}.{m:02}.{y}",
        f"{d}/{m}/{y}",
        f"{d} {month[:3]} {y}",
        f"{y}-{m:02}-{d:02}",
        f"{d}{suffix} {month} {y}",
        f"{d:02}.{m:02}.{y % 100}",
        f"{month[:3]} {d} {y}",
        f"{d:02}/{m:02}/{y % 100}",
        f"the {d}{suffix} of {month} {y}",
        f"{d}-{m}-{y}",
    )
    return lambda rng: rng.choice(ways)


def clock(hour: int, minute: int) -> Write:
    half, twelve = ("am" if hour < 12 else "pm"), (hour - 1) % 12 + 1
    ways = (
        f"{hour:02}:{minute:02}",
        f"{hour}.{minute:02}",
        f"{twelve}:{minute:02} {half}",
        f"{twelve}.{minute:02}{half}",
        f"{hour:02}:{minute:02}h",
        f"{twelve}:{minute:02}{half}",
    )
    return lambda rng: rng.choice(ways)


def cents(rng: random.Random, most: int) -> int:
    """An amount in cents, as often round as not."""
    euros = rng.choice((rng.randint(5, 99), rng.randint(100, 999), rng.randint(1000, most)))
    return euros * 100 + rng.choice((0, 0, 50, rng.randint(1, 99)))


def house_money(amount: int) -> str:
    return f"EUR {amount / 100:,.2f}"


def money(amount: int) -> Write:
    euros, rest = divmod(amount, 100)
    decimals = f".{rest:02}" if rest else ""
    plain, grouped = f"{euros}{decimals}", f"{euros:,}{decimals}"
    comma = plain.replace(".", ",")
    spaced = grouped.replace(",", " ").replace(".", ",")
    short = f"{euros}.{rest // 10}" if rest and rest % 10 == 0 else plain
    ways = (
        f"EUR {grouped}",
        f"€{plain}",
        f"€ {grouped}",
        f"{plain} euros",
        f"{grouped} EUR",
        f"{comma} euro",
        f"{short} EUR",
        f"{spaced} euro",
        f"€{short}",
    )
    return lambda rng: rng.choice(ways)


def number(value: int) -> Write:
    """Up to twelve often in words."""
    ways = [str(value), f"{value:,}"]
    if value < len(_WORDS):
        ways += [_WORDS[value]] * 2
    return lambda rng: rng.choice(ways)


def large(value: int) -> Write:
    ways = (str(value), f"{value:,}", f"{value:,}".replace(",", " "))
    return lambda rng: rng.choice(ways)


def percent(tenths: int) -> Write:
    text = f"{tenths / 10:.1f}".removesuffix(".0")
    ways = (f"{text}%", f"{text} percent", f"{text} %", f"{text.replace('.', ',')} %")
    return lambda rng: rng.choice(ways)


def order(digits: int) -> Write:
    ways = (
        f"HR-{digits}",
        f"HR {digits}",
        f"hr-{digits}",
        str(digits),
        f"#{digits}",
        f"HR{digits}",
    )
    return lambda rng: rng.choice(ways)


def store(name: str) -> Write:
    ways = (name, name, name.translate(_ASCII), name.upper())
    return lambda rng: rng.choice(ways)


def product(title: str) -> Write:
    short = PRODUCTS[title]
    ways = (title, title, title.lower(), short, short.lower())
    return lambda rng: rng.choice(ways)


def person(name: str) -> Write:
    """Now and then without capitals, as in a chat."""
    ways = (name, name, name, name.lower())
    return lambda rng: rng.choice(ways)


def as_is(text: str) -> Write:
    return lambda _: text


def invented(rng: random.Random, count: int, known: Collection[str]) -> list[str]:
    """Names beside those known: a model that knows none by heart learns to copy letters."""
    made: set[str] = set()
    while len(made) < count:
        syllables = (rng.choice(_ONSETS) + rng.choice(_NUCLEI) for _ in range(rng.randint(1, 3)))
        made |= {("".join(syllables) + rng.choice(_CODAS)).capitalize()} - set(known)
    return sorted(made)


def recombined(rng: random.Random, steps: Sequence[str], known: Collection[str]) -> list[str]:
    """As many tasks again, each the verb of one and the rest of another: what to copy, not guess.

    One verb in four is done over again, undone or overdone, which a reader must not mend.
    """
    verbs = [step.split(" ", 1)[0] for step in steps]
    rests = [step.split(" ", 1)[1] for step in steps]
    made: set[str] = set()
    while len(made) < len(steps):
        prefix = rng.choice(("re", "un", "over")) if rng.random() < 0.25 else ""
        made |= {f"{prefix}{rng.choice(verbs)} {rng.choice(rests)}"} - set(known)
    return sorted(made)


def name(rng: random.Random, first: Sequence[str], last: Sequence[str]) -> str:
    """A first name, more often than not with a second."""
    given = rng.choice(first)
    return given if rng.random() < 0.4 else f"{given} {rng.choice(last)}"

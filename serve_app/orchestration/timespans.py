"""Time expressions of an English question as explicit spans, for filters in retrieval.

Deterministic on purpose, and shy: a span that is missed costs a wider search, one that is made up
hides the evidence. So a bare name or number counts only where its neighbours show it to be a time.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

_Bounds = tuple[datetime, datetime]
_Words = dict[str, str]  # the named groups of a match that took part, lower case, single spaces

# Units go by their first two letters, which tell "minute" from "month".
_SECONDS = {"se": 1, "mi": 60, "ho": 3600}
_DAYS_AND_MONTHS = {"da": (1, 0), "we": (7, 0), "mo": (0, 1), "qu": (0, 3), "ye": (0, 12)}
_SHORT = {"s": "se", "m": "mi", "h": "ho", "hr": "ho", "d": "da", "w": "we", "y": "ye", "yr": "ye"}
_FLOORS: dict[str, Callable[[date], date]] = {
    "da": lambda day: day,
    "we": lambda day: day - timedelta(day.weekday()),
    "mo": lambda day: day.replace(day=1),
    "qu": lambda day: day.replace(month=(day.month - 1) // 3 * 3 + 1, day=1),
    "ye": lambda day: day.replace(month=1, day=1),
}
_COUNTS = "one two three four five six seven eight nine ten eleven twelve".split()
_NUMBERS: dict[str, Fraction | int] = {word: number for number, word in enumerate(_COUNTS, 1)}
_NUMBERS |= {"fifteen": 15, "twenty": 20, "thirty": 30, "sixty": 60, "ninety": 90}
_NUMBERS |= {"a": 1, "an": 1, "couple": 2, "few": 3, "half": Fraction(1, 2)}
_ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4}
# Seven characters a month, so that a name or number of one also tells its place.
_MONTHS = "jan 01 feb 02 mar 03 apr 04 may 05 jun 06 jul 07 aug 08 sep 09 oct 10 nov 11 dec 12"
_WEEKDAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
_DAYS_BACK = {"day before yesterday": 2, "yesterday": 1, "last": 1}
_PARTS = {"morning": (0, 12), "afternoon": (12, 18), "evening": (18, 24), "night": (18, 30)}


_LONGEST = 10_000  # characters


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """Half-open [start, end), both aware datetimes in UTC; `words` is the expression as written."""

    start: datetime
    end: datetime
    words: str


@dataclass(frozen=True, slots=True)
class _Clock:
    """The moment of asking, in UTC, and its day in the asker's zone."""

    now: datetime
    today: date
    zone: ZoneInfo

    def at(self, day: date, hour: int = 0, minute: int = 0) -> datetime:
        """A time of a local day, in UTC; hours from 24 on are the next day's."""
        wall = datetime.combine(day + timedelta(hour // 24), time(hour % 24, minute), self.zone)
        return wall.astimezone(UTC)

    def back(self, amount: Fraction, unit: str) -> datetime:
        """The moment so long ago, in UTC; from days on, at the same time by the wall clock."""
        if unit in _SECONDS:
            return self.now - timedelta(microseconds=int(amount * _SECONDS[unit] * 10**6))
        wall = self.now.astimezone(self.zone).timetz()
        return datetime.combine(_shift(self.today, unit, -amount), wall).astimezone(UTC)

    def period(self, day: date, unit: str) -> _Bounds:
        """The local calendar unit (day, ISO week, ..., year) around a day."""
        first = _FLOORS[unit](day)
        return self.at(first), self.at(_shift(first, unit, 1))


def find(text: str, now: datetime, zone: ZoneInfo) -> TimeSpan | None:
    """The first (leftmost, then longest) expression of time in `text`, read in `zone`.

    None when there is none, or when it only bounds a time ("before March", "from X to Y"). A span
    that holds `now` (aware, else ValueError) ends there; one wholly in the future stands as it is.
    None too in a text of more than `_LONGEST` characters: that is a document that is asked about.
    """
    if now.tzinfo is None:
        raise ValueError("`now` must be aware")
    if len(text) > _LONGEST:
        return None
    clock = _Clock(now.astimezone(UTC), now.astimezone(zone).date(), zone)
    matches = [(match, read) for rule, read in _RULES for match in rule.finditer(text)]
    matches.sort(key=lambda found: (found[0].start("core"), -found[0].end()))
    cursor = 0
    for match, read in matches:
        if match.start("core") < cursor:
            continue
        cursor = match.end()
        given = {name: group for name, group in match.groupdict().items() if group}
        words = {name: " ".join(group.lower().split()) for name, group in given.items()}
        if "away" in words:
            return None
        # No such moment ("30 February 2026", "last 9999 years"): not an expression of time.
        with suppress(ValueError, OverflowError):
            start, end = read(words, clock)
            if start <= clock.now:
                end = clock.now if "since" in words else min(end, clock.now)
            if start <= clock.now or "since" not in words:
                return TimeSpan(start, end, match["core"])
    return None


def _shift(day: date, unit: str, amount: Fraction | int) -> date:
    """A day so many units later; the 31st becomes the last of a shorter month."""
    days, months = (amount * step for step in _DAYS_AND_MONTHS[unit])
    if days != int(days) or months != int(months):
        raise ValueError(f"{amount} of {unit} is no whole number of days or months")
    year, month = divmod(day.year * 12 + day.month - 1 + int(months), 12)
    clamped = date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))
    return clamped + timedelta(int(days))


def _year(words: _Words, clock: _Clock, ahead: bool) -> int:
    """The year that is named; else this one, or the one before if what is named lies ahead."""
    year = words.get("year") or words.get("early")
    if year is None:
        return clock.today.year - ahead
    if year.endswith("year"):
        return clock.today.year - (not year.startswith("this"))
    return int(year) if year.isdigit() else 2000 + int(year[1:])


def _back(words: _Words, clock: _Clock) -> _Bounds:
    """The last 3 days, up to now; "3 days ago": the calendar unit around then, from days on."""
    number, unit = words.get("n", "one"), words.get("short") or words["unit"][:2]
    amount, unit = Fraction(_NUMBERS.get(number) or number), _SHORT.get(unit, unit)
    if not amount:
        raise ValueError("no time at all")
    if unit not in _SECONDS and words["core"].endswith("ago"):
        return clock.period(_shift(clock.today, unit, -amount), unit)
    return clock.back(amount, unit), clock.now


def _unit(words: _Words, clock: _Clock) -> _Bounds:
    """This week, last quarter, month to date, YTD: the end is clipped to now."""
    unit = next(key for key in _FLOORS if key[0] == words["unit"][0])
    back = words.get("which", "this") not in ("this", "current")
    return clock.period(_shift(clock.today, unit, -back), unit)


def _day(words: _Words, clock: _Clock) -> _Bounds:
    name, part = words["day"], words.get("part", "")
    back = _DAYS_BACK.get(name, 0)
    if name in _WEEKDAYS:
        back = (clock.today.weekday() - _WEEKDAYS.index(name) - 1) % 7 + 1
    first, last = _PARTS.get("night" if name == "tonight" else part, (0, 24))
    day = clock.today - timedelta(back)
    return clock.at(day, first), clock.at(day, last)


def _hour(words: _Words, clock: _Clock) -> _Bounds:
    """A time of today; of yesterday, if today's is still to come."""
    hour, minute = int(words["hour"]), int(words.get("minute", 0))
    if half := words.get("half"):
        hour = hour % 12 + 12 * (half == "pm")
    start = clock.at(clock.today, hour, minute)
    start = start if start <= clock.now else clock.at(clock.today - timedelta(1), hour, minute)
    return start, clock.now


def _named(words: _Words, clock: _Clock) -> _Bounds:
    """A quarter, a month or a year."""
    unit, month, current = "ye", 1, clock.today.month
    if nth := words.get("nth"):
        unit, month = "qu", 3 * (_ORDINALS.get(nth) or int(nth[0])) - 2
    elif "month" in words:
        unit, month = "mo", _MONTHS.index(words["month"][:3]) // 7 + 1
    ahead = month > current or ("last" in words and month == current)
    return clock.period(date(_year(words, clock, ahead), month, 1), unit)


def _date(words: _Words, clock: _Clock) -> _Bounds:
    month, day = _MONTHS.index(words["month"][:3]) // 7 + 1, int(words["dom"])
    ahead = (month, day) > (clock.today.month, clock.today.day)
    return clock.period(date(_year(words, clock, ahead), month, day), "da")


def _rule(lead: str, core: str, not_before: str = "(?!)") -> re.Pattern[str]:
    """What leads to an expression, the expression, what may not follow it; " " is any gap."""
    core = f"(?P<core>(?:(?P<since>since) (?:the )?)?{core})"
    ends = rf"(?![\w%]|[-./:,]?[0-9]|-\w)(?!{not_before})"
    rule = rf"(?<![\w:./-])(?<![0-9],)(?:{lead}){core}{ends}".replace(" ", r"[\s\xa0\u202f]+")
    return re.compile(rule, re.IGNORECASE | re.ASCII)


def _any(bounds: str = "(?!)") -> str:
    """A lead that need not be there; after `bounds` and such words an expression is no span."""
    other = f"now|today|yesterday|last|this|q?[0-9]|{_NAMES}"
    plain = rf"before|until|till|by|after|between|from(?= (?:\S+ ){{1,4}}(?:to|until) (?:{other}))"
    return f"(?P<away>{plain}|{bounds}) (?:the )?|"


_LAST = "(?:last|past|previous|prior)"
_UNIT = "(?P<unit>(?:sec(?:ond)?|min(?:ute)?|hour|hr|day|week|month|quarter|year|yr)s?)"
_AMOUNT = (
    rf"(?:an? (?=few|couple|half))?(?P<n>[0-9]{{1,6}}(?:\.[0-9]{{1,3}})?|{'|'.join(_NUMBERS)})"
    rf"(?: of| an?)?(?:(?: |(?<=[0-9])){_UNIT}|(?<=[0-9])(?P<short>[smhdwy]))"
)
_THIS = f"(?P<which>this|current|{_LAST}) (?:calendar )?(?P<unit>week|month|quarter|year)"
_TO_DATE = "(?P<unit>year|month|quarter|week|[ymqw](?=td))(?:td|(?: |-)to(?: |-)date)"
_PART = f"(?: (?P<part>{'|'.join(_PARTS)}))?"
_DAY = f"day before yesterday|yesterday|today|tonight|(?:this|last)(?= (?:{'|'.join(_PARTS)}))"
_WEEKDAY = f"(?:{_LAST} )?(?P<day>{'|'.join(_WEEKDAYS)}){_PART}"
_TIME = "(?P<hour>[01]?[0-9]|2[0-3])(?::(?P<minute>[0-5][0-9])|(?=(?: )?[ap]m))"
_Y = "(?:19|20)[0-9]{2}"
_YEAR = f"(?P<year>{_Y}|['’][0-9]{{2}}|(?:last|this|previous) year)"
_NAMES = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    "|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?|(?-i:May|MAY)"
)
_MONTH = f"(?P<month>{_NAMES}|may(?=(?: [0-9]{{1,2}}[a-z]*)?,? {_Y}))"
_DOM = "(?P<dom>[0-9]{1,2})(?:st|nd|rd|th)?"
_NTH = "q?(?P<nth>(?<=q)[1-4]|(?:first|second|third|fourth|1st|2nd|3rd|4th)(?= quarter))"
_QUARTER = f"(?:(?P<early>{_Y})(?: |-|/)?)?{_NTH}(?: quarter)?(?:(?: |-|/)?(?:of |in )?{_YEAR})?"
_OVER_THE = "(?:in|over|during|within|for|from) the |(?=since )"
_IN_OR = f"(?=(?:since|{_LAST}) )|(?:in|during|throughout) "
_OF_MONTH = "(?:of|for)(?= (?:[a-z]{4}|(?-i:May|MAY)))"
# "Will the battery last 10 hours?" asks about a span of any time; "last month of 2025" is past.
_IT = r"(?: (?:it|they|this|that|(?:the|an?|my|your|our|these) \w+(?: \w+)?))?"
_LASTS = f"(?:to|(?:will|would|can|could|should|must|may|might|do|does|did){_IT})(?= last)"
_OF = rf" of (?:the|an?|my|your|each|every|last|this|purchase|delivery|[0-9]\w*|{_NAMES})\b"
# "For 2000 customers", "in 2000 words" are no years; "for 2025 in Norway" is one.
_PLAIN = "and|or|vs|versus|compared|was|were|is|are|in|by|to|from|with|than|across|so|as|at|on|we"
_OF_YEAR = rf"(?:of|for)(?= [0-9]{{4}}(?! (?!(?:{_PLAIN})\b)\w))"
_THINGS = r" (?:words|tokens|characters|steps|units|items|pieces|people|euros?|eur|usd|nok|kr)\b"
_RULES: tuple[tuple[re.Pattern[str], Callable[[_Words, _Clock], _Bounds]], ...] = (
    (_rule(_any(_LASTS), f"{_LAST} {_AMOUNT}", f"{_OF}| ago"), _back),
    (_rule(_any(), "(?:past|last(?= hour)) (?P<unit>hour|week|month|quarter|year)", _OF), _back),
    (_rule(_OVER_THE, "(?:last|past) (?P<unit>second|minute|day|week|month|year)", _OF), _back),
    (_rule(_any("over|at least|(?:more|less|longer|older) than"), f"{_AMOUNT} ago"), _back),
    (_rule(_any(), _THIS, _OF), _unit),
    (_rule(_any(), _TO_DATE), _unit),
    (_rule(_any(), f"(?P<day>{_DAY}){_PART}"), _day),
    (_rule(f"{_IN_OR}|(?:on|of|for) ", _WEEKDAY, " of "), _day),
    (_rule("(?=since )", f"{_TIME}(?:(?: )?(?P<half>[ap]m))?"), _hour),
    (_rule(_any(), _QUARTER, "(?: )?FY|:"), _named),
    (_rule(_any(), rf"{_MONTH}\.?,? (?:of |in )?{_YEAR}"), _named),
    (_rule(f"{_IN_OR}|{_OF_MONTH} ", f"(?:(?P<last>{_LAST}) )?{_MONTH}"), _named),
    (_rule(f"{_IN_OR}|{_OF_YEAR} ", f"(?:the year )?(?P<year>{_Y})", _THINGS), _named),
    (_rule(_any(), f"(?P<year>{_Y})[-/](?P<month>0[1-9]|1[0-2])[-/](?P<dom>[0-9]{{2}})"), _date),
    (_rule(_any(), rf"{_DOM} (?:of )?{_MONTH}(?:\.?,? {_YEAR})?"), _date),
    (_rule(_any(), rf"{_MONTH}\.? (?:the )?{_DOM}(?:,? {_YEAR})?"), _date),
)

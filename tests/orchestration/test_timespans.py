from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serve_app.orchestration.timespans import TimeSpan, find

OSLO, NEW_YORK = ZoneInfo("Europe/Oslo"), ZoneInfo("America/New_York")
NOW = datetime(2026, 11, 24, 10, 30, tzinfo=OSLO)  # a Tuesday; 04:30 in New York
NOW_WORDS = "2026-11-24 10:30"

_PIECES = st.sampled_from(
    "last past the in on since of for a an few couple half one two 0 1 7 15 24h 31 2024 2026 9999 "
    "minutes hours days weeks months quarters years ago today yesterday this morning night week "
    "month quarter year Monday friday March may May Feb 29 30 Q3 q4 third 2026-02-30 2025-03-14 "
    "to date ytd 9:00 9am before from until laſt wee\u212a \u00a0 , . ' 's".split(" ")
)
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
    st.lists(_PIECES, max_size=14).map(" ".join),
)
MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2099, 12, 1), timezones=st.just(UTC))
ZONES = st.sampled_from([OSLO, NEW_YORK, ZoneInfo("Australia/Lord_Howe"), ZoneInfo("Asia/Beirut")])


def wall(text: str, zone: ZoneInfo = OSLO) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)


def found(text: str, now: datetime = NOW, zone: ZoneInfo = OSLO) -> TimeSpan:
    span = find(text, now, zone)
    assert span is not None, text
    return span


@pytest.mark.parametrize(
    ("text", "start", "words"),
    [
        ("What was our revenue in the last 15 minutes?", "2026-11-24 10:15", "last 15 minutes"),
        ("orders over the past two hours", "2026-11-24 08:30", "past two hours"),
        ("errors in the last hour", "2026-11-24 09:30", "last hour"),
        ("errors last 24h", "2026-11-23 10:30", "last 24h"),
        ("last 90 min", "2026-11-24 09:00", "last 90 min"),
        ("last 90\u00a0 min", "2026-11-24 09:00", "last 90\u00a0 min"),
        ("the last half an hour", "2026-11-24 10:00", "last half an hour"),
        ("last 1.5 hours", "2026-11-24 09:00", "last 1.5 hours"),
        ("last thirty seconds", "2026-11-24 10:29:30", "last thirty seconds"),
        ("over the last few days", "2026-11-21 10:30", "last few days"),
        ("the last couple of weeks", "2026-11-10 10:30", "last couple of weeks"),
        ("past 3 months", "2026-08-24 10:30", "past 3 months"),
        ("last two quarters", "2026-05-24 10:30", "last two quarters"),
        ("last half year", "2026-05-24 10:30", "last half year"),
        ("previous 2 years", "2024-11-24 10:30", "previous 2 years"),
        ("in the last minute", "2026-11-24 10:29", "last minute"),
        ("over the last week", "2026-11-17 10:30", "last week"),
        ("the past year", "2025-11-24 10:30", "past year"),
        ("20 minutes ago", "2026-11-24 10:10", "20 minutes ago"),
        ("what changed half an hour ago?", "2026-11-24 10:00", "half an hour ago"),
        ("a couple of hours ago", "2026-11-24 08:30", "a couple of hours ago"),
        ("TODAY's sales", "2026-11-24 00:00", "TODAY"),
        ("this morning", "2026-11-24 00:00", "this morning"),
        ("this week", "2026-11-23 00:00", "this week"),
        ("this month", "2026-11-01 00:00", "this month"),
        ("the current quarter", "2026-10-01 00:00", "current quarter"),
        ("this calendar year", "2026-01-01 00:00", "this calendar year"),
        ("revenue year to date", "2026-01-01 00:00", "year to date"),
        ("YTD", "2026-01-01 00:00", "YTD"),
        ("month-to-date", "2026-11-01 00:00", "month-to-date"),
        ("mtd", "2026-11-01 00:00", "mtd"),
        ("qtd", "2026-10-01 00:00", "qtd"),
        ("since yesterday", "2026-11-23 00:00", "since yesterday"),
        ("since Monday", "2026-11-23 00:00", "since Monday"),
        ("since last Tuesday", "2026-11-17 00:00", "since last Tuesday"),
        ("since 9:00", "2026-11-24 09:00", "since 9:00"),
        ("since 9am", "2026-11-24 09:00", "since 9am"),
        ("since 12 am", "2026-11-24 00:00", "since 12 am"),
        ("since 9 pm", "2026-11-23 21:00", "since 9 pm"),
        ("since March", "2026-03-01 00:00", "since March"),
        ("since December", "2025-12-01 00:00", "since December"),
        ("since 2024", "2024-01-01 00:00", "since 2024"),
        ("since Q2", "2026-04-01 00:00", "since Q2"),
        ("since the third quarter", "2026-07-01 00:00", "since the third quarter"),
        ("since 14 March 2025", "2025-03-14 00:00", "since 14 March 2025"),
        ("since 3 days ago", "2026-11-21 00:00", "since 3 days ago"),
        ("Q4", "2026-10-01 00:00", "Q4"),
        ("in November", "2026-11-01 00:00", "November"),
        ("in 2026", "2026-01-01 00:00", "2026"),
    ],
)
def test_spans_up_to_now(text: str, start: str, words: str) -> None:
    assert found(text) == TimeSpan(wall(start), wall(NOW_WORDS), words)


@pytest.mark.parametrize(
    ("text", "start", "end", "words"),
    [
        ("yesterday", "2026-11-23", "2026-11-24", "yesterday"),
        ("the day before yesterday", "2026-11-22", "2026-11-23", "day before yesterday"),
        ("yesterday evening", "2026-11-23 18:00", "2026-11-24", "yesterday evening"),
        ("last night", "2026-11-23 18:00", "2026-11-24 06:00", "last night"),
        ("3 days ago", "2026-11-21", "2026-11-22", "3 days ago"),
        ("two weeks ago", "2026-11-09", "2026-11-16", "two weeks ago"),
        ("three months ago", "2026-08-01", "2026-09-01", "three months ago"),
        ("a year ago", "2025-01-01", "2026-01-01", "a year ago"),
        ("last week", "2026-11-16", "2026-11-23", "last week"),
        ("previous month", "2026-10-01", "2026-11-01", "previous month"),
        ("in the last quarter", "2026-07-01", "2026-10-01", "last quarter"),
        ("last year", "2025-01-01", "2026-01-01", "last year"),
        ("on Monday", "2026-11-23", "2026-11-24", "Monday"),
        ("last Tuesday", "2026-11-17", "2026-11-18", "last Tuesday"),
        ("on Wednesday morning", "2026-11-18", "2026-11-18 12:00", "Wednesday morning"),
        ("Q3", "2026-07-01", "2026-10-01", "Q3"),
        ("Q3 2025", "2025-07-01", "2025-10-01", "Q3 2025"),
        ("Q3'25", "2025-07-01", "2025-10-01", "Q3'25"),
        ("2025-Q3", "2025-07-01", "2025-10-01", "2025-Q3"),
        ("Q4 last year", "2025-10-01", "2026-01-01", "Q4 last year"),
        ("third quarter of 2025", "2025-07-01", "2025-10-01", "third quarter of 2025"),
        ("the 3rd quarter", "2026-07-01", "2026-10-01", "3rd quarter"),
        ("sales in March", "2026-03-01", "2026-04-01", "March"),
        ("sales for December", "2025-12-01", "2026-01-01", "December"),
        ("last November", "2025-11-01", "2025-12-01", "last November"),
        ("March 2025", "2025-03-01", "2025-04-01", "March 2025"),
        ("in Mar 2025", "2025-03-01", "2025-04-01", "Mar 2025"),
        ("in May", "2026-05-01", "2026-06-01", "May"),
        ("may 2025", "2025-05-01", "2025-06-01", "may 2025"),
        ("in 2024", "2024-01-01", "2025-01-01", "2024"),
        ("In 2024 revenue grew", "2024-01-01", "2025-01-01", "2024"),
        ("during 2023", "2023-01-01", "2024-01-01", "2023"),
        ("in the year 2023", "2023-01-01", "2024-01-01", "the year 2023"),
        ("revenue for 2025 in Norway", "2025-01-01", "2026-01-01", "2025"),
        ("on 2026-03-14", "2026-03-14", "2026-03-15", "2026-03-14"),
        ("14 March 2026", "2026-03-14", "2026-03-15", "14 March 2026"),
        ("the 14th of March", "2026-03-14", "2026-03-15", "14th of March"),
        ("March 14", "2026-03-14", "2026-03-15", "March 14"),
        ("March 14, 2025", "2025-03-14", "2025-03-15", "March 14, 2025"),
        ("Dec 24th", "2025-12-24", "2025-12-25", "Dec 24th"),
        ("29 February 2024", "2024-02-29", "2024-03-01", "29 February 2024"),
        ("February 2024", "2024-02-01", "2024-03-01", "February 2024"),
        ("last 3 months of 2025", "2025-01-01", "2026-01-01", "2025"),
        ("How does it compare to last month?", "2026-10-01", "2026-11-01", "last month"),
        ("this afternoon", "2026-11-24 12:00", "2026-11-24 18:00", "this afternoon"),
        ("tonight", "2026-11-24 18:00", "2026-11-25 06:00", "tonight"),
        ("in 2031", "2031-01-01", "2032-01-01", "2031"),
        ("in December 2026", "2026-12-01", "2027-01-01", "December 2026"),
    ],
)
def test_spans_that_lie_elsewhere(text: str, start: str, end: str, words: str) -> None:
    assert found(text) == TimeSpan(wall(start), wall(end), words)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Is there a 30 day return window?",
        "Can I return it within 14 days?",
        "the 14-day trial",
        "a 2 year warranty",
        "I rented it for 3 months",
        "reports every week",
        "rooms cost EUR 190 per day",
        "a quarter of our customers",
        "the second place",
        "open on Mondays",
        "next week",
        "What is the status right now?",
        "How many are currently open, at the moment?",
        "show live orders",
        "May I return it?",
        "we may need it in may",
        "the soldiers march on",
        "Does the battery last 10 hours?",
        "It should last 3 years",
        "How long does it last? 3 hours?",
        "a last-minute booking",
        "What is the last day to return it?",
        "past 30 days of purchase",
        "I bought it more than 30 days ago",
        "orders before yesterday",
        "from 1 March 2026 to 14 March 2026",
        "between last week and this week",
        "Write it in 2000 words",
        "a list of 2048 tokens",
        "room for 2000 customers",
        "order ORD-2024, 2026-03-14-0001",
        "Q1: what is this?",
        "the Q4_K_M model",
        "Q3 FY25",
        "at last as I said",
        "last 0 minutes",
        "last 9999 years",
        "last 999999 quarters",
        "half a week ago",
        "31 February 2026",
        "2026-13-01",
        "since 2031",
        "since 25:00",
    ],
)
def test_no_span(text: str) -> None:
    assert find(text, NOW, OSLO) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("today and yesterday", "today"),
        ("31 February 2026, or rather yesterday", "yesterday"),
        ("on 14 March 2026", "14 March 2026"),
        ("Monday of last week", "last week"),
        ("compare March 2025 with last week", "March 2025"),
    ],
)
def test_leftmost_then_longest(text: str, words: str) -> None:
    assert found(text).words == words


@pytest.mark.parametrize(
    ("text", "now", "start", "end"),
    [
        ("last month", "2026-03-31 12:00", "2026-02-01", "2026-03-01"),
        ("last month", "2026-01-15 12:00", "2025-12-01", "2026-01-01"),
        ("last quarter", "2026-01-15 12:00", "2025-10-01", "2026-01-01"),
        ("last 1 month", "2026-03-31 12:00", "2026-02-28 12:00", "2026-03-31 12:00"),
        ("last 1 month", "2028-03-31 12:00", "2028-02-29 12:00", "2028-03-31 12:00"),
        ("last 1 year", "2028-02-29 12:00", "2027-02-28 12:00", "2028-02-29 12:00"),
        ("a month ago", "2026-03-31 12:00", "2026-02-01", "2026-03-01"),
        ("last week", "2026-01-01 12:00", "2025-12-22", "2025-12-29"),
        ("this week", "2026-01-01 12:00", "2025-12-29", "2026-01-01 12:00"),
        ("since 29 February 2024", "2024-02-29 12:00", "2024-02-29", "2024-02-29 12:00"),
        ("today", "2026-01-01 00:00", "2026-01-01", "2026-01-01"),
        ("Q1", "2026-01-01 00:00", "2026-01-01", "2026-01-01"),
    ],
)
def test_ends_of_months_and_years(text: str, now: str, start: str, end: str) -> None:
    span = found(text, wall(now))
    assert (span.start, span.end) == (wall(start), wall(end))


@pytest.mark.parametrize(
    ("text", "now", "zone", "hours"),
    [
        ("yesterday", "2026-03-30 12:00", OSLO, 23),
        ("yesterday", "2026-10-26 12:00", OSLO, 25),
        ("yesterday", "2026-03-09 12:00", NEW_YORK, 23),
        ("yesterday", "2026-11-02 12:00", NEW_YORK, 25),
        ("yesterday", "2026-03-30 12:00", NEW_YORK, 24),
        ("today", "2026-03-29 12:00", OSLO, 11),
        ("last 24 hours", "2026-03-29 12:00", OSLO, 24),
        ("last 1 day", "2026-03-29 12:00", OSLO, 23),
        ("last 1 day", "2026-10-25 12:00", OSLO, 25),
        ("last 7 days", "2026-10-27 12:00", OSLO, 7 * 24 + 1),
        ("since 1:00", "2026-03-29 12:00", OSLO, 10),
        ("last week", "2026-11-03 12:00", NEW_YORK, 7 * 24 + 1),
        ("in March 2026", "2026-11-03 12:00", OSLO, 31 * 24 - 1),
    ],
)
def test_clocks_that_change(text: str, now: str, zone: ZoneInfo, hours: int) -> None:
    span = found(text, wall(now, zone), zone)
    assert span.end - span.start == timedelta(hours=hours)


def test_days_are_those_of_the_zone() -> None:
    now = datetime(2026, 11, 24, 2, 0, tzinfo=UTC)  # still the 23rd in New York
    assert found("today", now, OSLO).start == wall("2026-11-24")
    span = found("today", now, NEW_YORK)
    assert (span.start, span.end) == (wall("2026-11-23", NEW_YORK), now)
    assert span.start.tzinfo is UTC
    assert span.end.tzinfo is UTC


def test_now_must_be_aware() -> None:
    with pytest.raises(ValueError, match="aware"):
        find("today", datetime(2026, 11, 24), OSLO)


@given(TEXTS, MOMENTS, ZONES)
@example("laſt 5 minutes", NOW, OSLO)
@example("last 5 wee\u212as", NOW, OSLO)
def test_any_text_gives_an_ordered_span_or_none(text: str, now: datetime, zone: ZoneInfo) -> None:
    span = find(text, now, zone)
    if span is not None:
        assert span.words
        assert span.words in text
        assert span.start <= span.end
        assert span.end <= now or span.start > now


@given(st.integers(1, 99_999), MOMENTS, ZONES)
def test_the_last_minutes_are_as_many(count: int, now: datetime, zone: ZoneInfo) -> None:
    span = found(f"orders in the last {count} minutes", now, zone)
    assert (span.start, span.end) == (now - timedelta(minutes=count), now)


@given(MOMENTS, ZONES)
def test_days_weeks_and_months_join(now: datetime, zone: ZoneInfo) -> None:
    assert found("yesterday", now, zone).end == found("today", now, zone).start
    assert found("day before yesterday", now, zone).end == found("yesterday", now, zone).start
    for unit in ("week", "month", "quarter", "year"):
        assert found(f"last {unit}", now, zone).end == found(f"this {unit}", now, zone).start


def test_a_document_that_is_asked_about_has_no_span() -> None:
    assert find("in the last hour", NOW, OSLO)
    assert find("in the last hour " + "and so on " * 2000, NOW, OSLO) is None

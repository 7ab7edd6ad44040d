"""Faithfulness: what an input supports, in whichever way it is written."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.evaluation.support import Source, Support

RULE = Support(closed=["EUR", "High", "Severity", "Late", "delivery"], spelled={"OSL": ["Oslo"]})


@pytest.mark.parametrize(
    ("value", "source"),
    [
        ("2026-07-03", "on the 3rd of July 2026"),
        ("2026-07-03", "July 3, 2026"),
        ("2026-07-03", "3/7/26"),
        ("2026-07-03", "03.07.2026."),
        ("2026-07-13", "07/13/2026"),
        ("14:05", "at 2.05pm"),
        ("14:05", "14:05h"),
        ("00:30", "12:30 am"),
        ("EUR 1,234.50", "1 234,50 euro"),
        ("EUR 1,234.50", "€1234.5"),
        ("EUR 1,234.00", "1.234 euros"),
        ("-4", "four are missing"),
        ("+5.6%", "up 5,6 %"),
        ("HR-104233", "order #104233"),
        ("Leila Berg", "reported by leila berg"),
        ("Åse", "from Ase"),
        ("OSL", "our OSLO shop"),
        ("High", "she broke her arm"),
        ("call the vendor (Leila, 2026-07-03)", "Leila calls on 3 July 2026"),
    ],
)
def test_a_value_is_supported_however_it_is_written(value: str, source: str) -> None:
    assert RULE.unsupported([value], Source(source)) == []


@pytest.mark.parametrize(
    ("value", "source", "missing"),
    [
        ("2026-07-04", "on 3 July 2026", "2026-07-04"),
        ("2026-07-03", "week 7, 3 orders, 2026", "2026-07-03"),
        ("02:05", "at 2.05pm", "02:05"),
        ("EUR 1,234.50", "1,234.05 euros", "1,234.50"),
        ("HR-104234", "order 104233", "HR-104234"),
        ("Leila Berg", "reported by Leila", "Berg"),
        ("OSL", "our Bergen shop", "OSL"),
        ("-5", "four are missing", "5"),
    ],
)
def test_what_the_input_does_not_say_is_named(value: str, source: str, missing: str) -> None:
    assert RULE.unsupported([value], Source(source)) == [missing]


@given(st.dates(datetime.date(1990, 1, 1), datetime.date(2068, 12, 31)), st.integers(0, 5))
def test_every_date_is_found_in_each_way_of_writing_it(day: datetime.date, way: int) -> None:
    written = [
        day.isoformat(),
        f"{day:%d.%m.%Y}",
        f"{day.day}/{day.month}/{day.year}",
        f"{day.day} {day:%B} {day.year}",
        f"{day:%b} {day.day}, {day.year}",
        f"the {day.day}th of {day:%B}, {day.year}",
    ][way]
    assert (day.year, day.month, day.day) in Source(f"It was {written}, at noon.").dates


@given(st.integers(0, 10**8), st.sampled_from(["{:,.2f}", "{:.2f}", "{: .2f}"]))
def test_every_amount_is_found_in_each_way_of_writing_it(cents: int, style: str) -> None:
    written = style.format(cents / 100)
    for text in (written, written.replace(",", " ").replace(".", ",")):
        assert RULE.unsupported([f"EUR {cents / 100:,.2f}"], Source(f"it cost {text} euro")) == []


@given(st.text(), st.text())
def test_any_text_can_be_held_against_any_other(value: str, source: str) -> None:
    RULE.unsupported([value], Source(source))

"""A picture is held for by what providers publish, at the size that its own header says."""

from __future__ import annotations

import base64
import io

import PIL.Image
import pytest

from serve_app.domain import Image
from serve_app.ledger.vision import most_tokens

UNKNOWN = 49_152


def picture(width: int, height: int, form: str = "PNG") -> str:
    held = io.BytesIO()
    PIL.Image.new("1" if form == "PNG" else "L", (width, height)).save(held, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(held.getvalue()).decode()}"


# Published examples: OpenAI's for tiles and patches, Anthropic's ceil(w/28) * ceil(h/28).
@pytest.mark.parametrize(
    ("width", "height", "model", "billed"),
    [
        (1024, 1024, "gpt-4o", 765),
        (2048, 4096, "gpt-4o", 1105),
        (1024, 1024, "gpt-4.1-nano", 2520),
        (1024, 1024, "gpt-4o-mini", 25_501),
        (2048, 4096, "gpt-4o-mini", 36_835),
        (1092, 1092, "claude-opus-4-7", 1521),
        (2576, 1456, "claude-opus-4-7", 4784),
    ],
)
def test_no_published_bill_is_above_the_bound(
    width: int, height: int, model: str, billed: int
) -> None:
    assert billed <= most_tokens(Image(picture(width, height)), [model]) < UNKNOWN


def test_the_dearest_of_the_models_that_may_answer_counts() -> None:
    shown = Image(picture(512, 512))
    assert most_tokens(shown, ["gpt-4o", "gpt-4o-mini"]) > most_tokens(shown, ["gpt-4o"])
    low = Image(picture(2048, 2048), "low")
    assert most_tokens(low, ["gpt-4o-mini"]) < 2 * most_tokens(Image(low.url), ["gpt-4o-mini"]) / 3


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
def test_the_size_is_read_from_every_format_that_providers_take(form: str) -> None:
    small, large = (most_tokens(Image(picture(n, n, form)), []) for n in (64, 3000))
    assert small < large < UNKNOWN


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png",
        "data:image/png;base64,",
        "data:image/png;base64," + "A" * 1_000_000,
        "data:image/png;base64,?",
        "data:image/png,raw",
        "DATA:image/svg+xml;base64,PHN2Zz4=",
    ],
)
def test_a_picture_of_unknown_size_may_be_of_any(url: str) -> None:
    assert most_tokens(Image(url), []) == UNKNOWN


def test_what_claims_to_be_gigantic_is_of_unknown_size() -> None:
    whole = base64.b64decode(picture(8, 8).partition(",")[2])
    lying = whole[:16] + (10**6).to_bytes(4) * 2 + whole[24:]
    url = "data:image/png;base64," + base64.b64encode(lying).decode()
    assert most_tokens(Image(url), []) == UNKNOWN

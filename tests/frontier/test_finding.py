"""Quick looks at a text spare expressions, and miss nothing that those find."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.frontier import finding
from serve_app.settings import MaskSettings

PARTS = st.one_of(
    st.sampled_from(
        [
            *finding._KEY_BEGINS,
            *("4111 1111 1111 1111", "4111-1111-1111-1111", "378282246310005", "xoxb-", "eyJ"),
            *("eyJhbGciOi.eyJzdWIiOi.SflKxwRJSMeK", "NO93 8601 1117 947", "+47 22 12 34 56"),
            *(" ", "-", "_", ".", "\n", "?", "é", "Å", "\u200b", "日本", "𝟜", "٤"),
        ]
    ),
    st.text("0123456789 -", max_size=24),
    st.text("abcXYZ019_-é", max_size=48),
)
TEXTS = st.lists(PARTS, max_size=8).map("".join)


@pytest.mark.parametrize("kind", ["secret", "card"])
@given(text=TEXTS)
def test_a_quick_look_misses_nothing(kind: str, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        quick = list(finding.finders(MaskSettings())[kind](text))
        patch.setattr(finding, "_has_run", lambda *_: True)
        patch.setattr(finding, "_KEY_BEGINS", ("",))
        assert quick == list(finding.finders(MaskSettings())[kind](text))

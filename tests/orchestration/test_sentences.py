"""Where sentences begin and end."""

from __future__ import annotations

from hypothesis import given

from serve_app.orchestration.sentences import sentences
from tests.orchestration.test_evidence import TEXTS


@given(TEXTS)
def test_nothing_is_lost_between_sentences(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


def test_what_is_written_without_blanks_is_told_apart() -> None:
    text = "退货期限为30天。商店星期六营业到18点。"
    assert sentences(text) == ["退货期限为30天。", "商店星期六营业到18点。"]
    assert sentences("他说：“好。”然后走了。") == ["他说：“好。”然后走了。"]

"""The preflight's look at the settings: with what the pods are given, not with what is set here."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.cluster import declared
from serve_app.cluster.findings import Plan
from serve_app.errors import SettingsError
from serve_app.settings import from_text
from tests.helm.chart import PROFILES, of_profile, render

pytestmark = pytest.mark.usefixtures("clean_environment")


def failed(*arguments: str) -> list[str]:
    nobody: Any = None  # is asked
    found = declared.settings(Plan(nobody, "trivium", render(*arguments)))
    return [each.message for each in found if each.level == "failed"]


@pytest.mark.parametrize("profile", PROFILES)
def test_keys_that_a_secret_gives_need_not_be_here(profile: str) -> None:
    assert failed(*of_profile(profile)) == []


def test_a_key_that_no_pod_is_given_is_missed_though_it_is_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTHER_KEY", "of this machine")
    text = "frontier: { provider: anthropic, model: claude-sonnet-5, key_from: OTHER_KEY }"
    assert from_text(text, "settings", {"OTHER_KEY"}).frontier.provider == "anthropic"
    with pytest.raises(SettingsError, match=r"frontier: .* set the environment's OTHER_KEY$"):
        from_text(text, "settings", {"ANTHROPIC_API_KEY"})

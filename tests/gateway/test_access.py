from __future__ import annotations

import hashlib

import pytest

from serve_app.errors import Overloaded, PermissionDenied, Unauthenticated
from serve_app.gateway.access import Admission, Keyring
from serve_app.settings import ApiKey


def key(secret: str) -> ApiKey:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return ApiKey(name=secret, sha256=digest, tenant=f"tenant of {secret}")


def test_house_without_keys_is_open() -> None:
    principal = Keyring(()).principal(None)
    principal.require("chat")
    principal.require("ingest")
    assert principal.tenant == "default"


def test_key_is_known_by_its_hash_and_has_its_scopes_only() -> None:
    keyring = Keyring((key("one"), key("two")))
    principal = keyring.principal("Bearer two")
    assert (principal.name, principal.tenant) == ("two", "tenant of two")
    principal.require("chat")
    with pytest.raises(PermissionDenied, match="ingest"):
        principal.require("ingest")
    with pytest.raises(Unauthenticated):
        keyring.principal(f"Bearer {key('one').sha256}")


def test_place_is_given_back_even_after_a_failure() -> None:
    admission = Admission(1)
    with pytest.raises(ZeroDivisionError), admission.admitted():
        raise ZeroDivisionError
    with admission.admitted(), pytest.raises(Overloaded), admission.admitted():
        pass
    with admission.admitted():
        pass

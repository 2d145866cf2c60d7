"""Reading the identity provider's keys: once for all who wait, and never where nobody may wait."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import jwt
import pytest

from executions.gateway.keyset import KeySet
from portal.accounts.oidc import provider as provider_module
from portal.accounts.oidc.provider import Kept, ProviderUnavailable, as_known, provider
from tests.deadlines import DEADLINE
from tests.fakes.idp import FakeIdp


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(provider_module, "time", SimpleNamespace(monotonic=lambda: now.now))
    return now


def test_one_that_hangs_is_asked_again_only_after_the_pause(clock: SimpleNamespace) -> None:
    asked = []

    def hangs() -> dict[str, Any]:
        asked.append(clock.now)
        clock.now += provider_module.RETRY_SECONDS * 2
        raise ProviderUnavailable("no answer")

    kept = Kept(hangs, 600)
    for _ in range(3):
        with pytest.raises(ProviderUnavailable, match="no answer"):
            kept.get()
    assert (len(asked), kept.is_due()) == (1, False)
    clock.now += provider_module.FIRST_RETRY_SECONDS
    assert kept.is_due()
    with pytest.raises(ProviderUnavailable):
        kept.get()
    assert len(asked) == 2


def test_where_nobody_may_wait_only_what_is_known_counts(clock: SimpleNamespace) -> None:
    asked = []

    def read() -> dict[str, Any]:
        asked.append(clock.now)
        return {"number": len(asked)}

    kept = Kept(read, 600)
    with as_known(), pytest.raises(ProviderUnavailable):
        kept.get()
    assert kept.get() == {"number": 1}
    clock.now += 601
    with as_known():
        assert kept.get() == kept.get(renewed_within=0) == {"number": 1}
    assert kept.get() == {"number": 2}


async def test_many_who_wait_have_it_asked_once(idp: FakeIdp) -> None:
    token = idp.access_token(idp.person("olga", roles=["user"]))
    keyset = KeySet()
    await asyncio.gather(*(keyset.ready(token) for _ in range(30)))
    assert (idp.asked["openid-configuration"], idp.asked["certs"]) == (1, 1)
    assert provider().knows(idp.keys[0].id, "RS256")


async def test_a_known_key_goes_on_while_it_is_read_again(idp: FakeIdp, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr("executions.gateway.keyset.PATIENCE", DEADLINE)
    monkeypatch.setattr(provider_module, "RETRY_SECONDS", 0)
    token = idp.access_token(idp.person("olga", roles=["user"]))
    keyset = KeySet()
    await keyset.ready(token)
    monkeypatch.setattr(provider()._keys, "_seconds", 0)  # they are old now
    monkeypatch.setattr(provider()._keys, "_read", lambda: {"keys": []} if gate.wait(DEADLINE) else {})
    first = asyncio.ensure_future(keyset.ready(token))
    await asyncio.sleep(0)
    await asyncio.wait_for(keyset.ready(token), DEADLINE / 2)
    assert not first.done()
    gate.set()
    await first
    assert not provider().knows(idp.keys[0].id, "RS256")


@pytest.mark.parametrize(
    "token",
    [
        "ap_00000000_x",
        "eyJ",
        "..",
        "e30.e30.",
        "W10.W10.W10",
        jwt.encode({}, "a secret that is long enough for it", headers={"kid": "k"}),
    ],
)
async def test_for_what_is_refused_unread_nobody_is_asked(idp: FakeIdp, token: str) -> None:
    await KeySet().ready(token)
    assert not idp.asked

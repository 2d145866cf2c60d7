"""`manage.py rotate_keys`: everything comes under the new key, beside writers, and the old key can go."""

import threading

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from crews.models import LLMProvider
from portal.accounts.models import SecondFactor, Session
from portal.accounts.oidc import renewal
from portal.accounts.oidc.renewal import KeptTokens
from portal.accounts.sessions import FACTS, SessionStore
from portal.lib import rotation
from portal.lib.crypto import EncryptedTextField, Unreadable
from tests.deadlines import DEADLINE
from tests.factories.accounts import UserFactory
from tests.factories.crews import LLMProviderFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def secrets(settings):
    """Three values under the old key; the new one now stands first."""
    settings.ENCRYPTION_KEYS = ["the-old-key"]
    LLMProviderFactory(name="A", api_key="sk-of-provider-a")
    LLMProviderFactory(name="B", api_key="sk-of-provider-b")
    LLMProviderFactory(name="none", api_key="")
    SecondFactor.objects.create(user=UserFactory(), secret="JBSWY3DPEHPK3PXP")
    settings.ENCRYPTION_KEYS = ["the-new-key", "the-old-key"]


def run(*arguments):
    import io

    out = io.StringIO()
    call_command("rotate_keys", *arguments, stdout=out)
    return out.getvalue()


def test_every_encrypted_field_of_every_model_is_found():
    wanted = {
        (model, field.attname)
        for model in apps.get_models()
        for field in model._meta.local_fields
        if isinstance(field, EncryptedTextField)
    }
    found = list(rotation.places())
    assert {(place.model, place.name) for place in found if isinstance(place, rotation.Column)} == wanted
    assert [place.label for place in found if not isinstance(place, rotation.Column)] == [KeptTokens.label]
    assert {(LLMProvider, "api_key"), (SecondFactor, "secret")} <= wanted


def test_the_old_key_can_go_afterwards(secrets, settings):
    with pytest.raises(CommandError, match="older key"):
        run("--check")
    said = run()
    assert "crews.LLMProvider.api_key: 2 stored, 2 encrypted anew, 0 under an older key" in said
    assert "accounts.SecondFactor.secret: 1 stored, 1 encrypted anew, 0 under an older key" in said
    assert "0 encrypted anew" in run("--check")
    settings.ENCRYPTION_KEYS = ["the-new-key"]
    keys = set(LLMProvider.objects.values_list("api_key", flat=True))
    assert keys == {"sk-of-provider-a", "sk-of-provider-b", ""}
    assert SecondFactor.objects.get().secret == "JBSWY3DPEHPK3PXP"
    settings.ENCRYPTION_KEYS = ["the-old-key"]
    assert isinstance(LLMProvider.objects.get(name="A").api_key, Unreadable)


def test_it_goes_on_where_it_was_ended_and_looks_at_small_batches(secrets, monkeypatch):
    monkeypatch.setattr(rotation, "BATCH", 1)
    real, keys = rotation.encrypt, rotation.Column(LLMProvider, "api_key")
    calls = []

    def breaks_off(text):
        if calls:
            raise KeyboardInterrupt
        calls.append(text)
        return real(text)

    monkeypatch.setattr(rotation, "encrypt", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        rotation.rotate(keys)
    assert rotation.look(keys).old == 1
    monkeypatch.setattr(rotation, "encrypt", real)
    changed, found = rotation.rotate(keys)
    assert (changed, found.values, found.old) == (1, 2, 1)
    assert rotation.look(keys).old == 0


def test_a_value_under_a_key_that_is_missing_is_told_and_left(secrets, settings):
    settings.ENCRYPTION_KEYS = ["the-new-key"]
    with pytest.raises(CommandError, match="put the key that wrote them back"):
        run()
    settings.ENCRYPTION_KEYS = ["the-new-key", "the-old-key"]
    run()
    assert LLMProvider.objects.get(name="A").api_key == "sk-of-provider-a"


@pytest.mark.django_db(transaction=True)
def test_who_writes_at_the_same_moment_wins(secrets, monkeypatch):
    """Between reading a value and storing it anew, somebody gives the provider another key."""
    real = rotation.encrypt

    def slow(text):
        if text == "sk-of-provider-a" and LLMProvider.objects.get(name="A").api_key == text:
            writer = threading.Thread(target=write)
            writer.start()
            writer.join(DEADLINE)
        return real(text)

    def write():
        try:
            with transaction.atomic():
                provider = LLMProvider.objects.get(name="A")
                provider.api_key = "sk-given-just-now"
                provider.save(update_fields=["api_key"])
        finally:
            connection.close()

    monkeypatch.setattr(rotation, "encrypt", slow)
    run()
    assert LLMProvider.objects.get(name="A").api_key == "sk-given-just-now"
    assert LLMProvider.objects.get(name="B").api_key == "sk-of-provider-b"


def session_of_the_provider(refresh_token):
    store = SessionStore()
    store[FACTS] = {"method": Session.Method.OIDC}
    renewal.keep(store, {"refresh_token": refresh_token, "id_token": "of olga"})
    store.save()
    return store.session_key


def tokens_in(key):
    return renewal.kept(SessionStore(key))


def test_tokens_in_sessions_come_under_the_new_key_too(settings, monkeypatch):
    monkeypatch.setattr(rotation, "BATCH", 2)
    settings.ENCRYPTION_KEYS = ["a-key-that-is-lost"]
    lost = session_of_the_provider("lost")
    settings.ENCRYPTION_KEYS = ["the-old-key"]
    keys = [session_of_the_provider(f"refresh-{number}") for number in range(5)]
    SessionStore().save()  # of who came with a password
    before = dict(Session.objects.values_list("pk", "expire_date"))
    settings.ENCRYPTION_KEYS = ["the-new-key", "the-old-key"]
    with pytest.raises(CommandError, match="older key"):
        run("--check")
    # A session that no key opens ends by itself: nobody has to look for its key.
    assert f"{KeptTokens.label}: 5 stored, 5 encrypted anew, 0 under an older key" in run()
    run("--check")
    settings.ENCRYPTION_KEYS = ["the-new-key"]
    assert [tokens_in(key)["refresh_token"] for key in keys] == [f"refresh-{number}" for number in range(5)]
    assert tokens_in(keys[0])["id_token"] == "of olga"
    assert tokens_in(lost) == {}
    assert dict(Session.objects.values_list("pk", "expire_date")) == before


def test_a_session_that_is_renewed_meanwhile_keeps_what_is_newer(settings):
    settings.ENCRYPTION_KEYS = ["the-old-key"]
    key = session_of_the_provider("first")
    settings.ENCRYPTION_KEYS = ["the-new-key", "the-old-key"]
    ((pk, token),) = KeptTokens().values()
    store = SessionStore(key)
    renewal.keep(store, {"refresh_token": "second"})
    store.save()
    assert KeptTokens().replace(pk, token, "stale") == 0
    Session.objects.filter(pk=key).delete()
    assert KeptTokens().replace(pk, token, "stale") == 0
    assert not Session.objects.exists()

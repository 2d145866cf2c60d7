"""Keys of providers at rest: unreadable in the database, readable after a rotation."""

import pytest
from django.conf import LazySettings
from django.db import connection

from crews.models import LLMProvider
from portal.lib.crypto import DecryptionFailed, Unreadable, decrypt, encrypt
from tests.factories.crews import LLMProviderFactory


def test_what_is_encrypted_comes_back() -> None:
    assert decrypt(encrypt("sk-12345 열쇠")) == "sk-12345 열쇠"
    assert encrypt("same") != encrypt("same")


def test_an_old_key_still_opens_and_a_removed_one_does_not(settings: LazySettings) -> None:
    settings.ENCRYPTION_KEYS = ["old"]
    token = encrypt("secret")
    settings.ENCRYPTION_KEYS = ["new", "old"]
    assert decrypt(token) == "secret"
    renewed = encrypt("secret")
    settings.ENCRYPTION_KEYS = ["new"]
    assert decrypt(renewed) == "secret"
    with pytest.raises(DecryptionFailed):
        decrypt(token)


@pytest.mark.django_db
def test_a_provider_key_stands_encrypted_in_the_database() -> None:
    provider = LLMProviderFactory(api_key="sk-very-secret")
    with connection.cursor() as cursor:
        cursor.execute("SELECT api_key FROM crews_llmprovider")
        (stored,) = cursor.fetchone()
    assert "sk-very-secret" not in stored
    assert LLMProvider.objects.get(pk=provider.pk).api_key == "sk-very-secret"
    assert LLMProvider.objects.get(pk=provider.pk).has_key
    assert not LLMProviderFactory(api_key="").has_key


@pytest.mark.django_db
def test_what_cannot_be_opened_spoils_nothing_else_and_is_kept(settings: LazySettings) -> None:
    settings.ENCRYPTION_KEYS = ["lost"]
    pk = LLMProviderFactory(api_key="sk-very-secret").pk
    settings.ENCRYPTION_KEYS = ["new"]
    provider = LLMProvider.objects.get(pk=pk)
    assert isinstance(provider.api_key, Unreadable)
    assert (provider.has_key, provider.has_unreadable_key) == (False, True)
    assert provider.api_key.token not in repr(provider.api_key)
    with pytest.raises(DecryptionFailed):
        f"Bearer {provider.api_key}"
    provider.name = "renamed"
    provider.full_clean()
    provider.save()
    settings.ENCRYPTION_KEYS = ["new", "lost"]
    assert LLMProvider.objects.get(name="renamed").api_key == "sk-very-secret"


@pytest.mark.django_db
def test_another_key_heals_it_and_another_host_does_not_get_it(settings: LazySettings) -> None:
    settings.ENCRYPTION_KEYS = ["lost"]
    healed, moved = (LLMProviderFactory(api_key="sk-very-secret", api_base="https://a.example/v1").pk for _ in range(2))
    settings.ENCRYPTION_KEYS = ["new"]
    provider = LLMProvider.objects.get(pk=healed)
    provider.api_key = "sk-another"
    provider.save()
    assert LLMProvider.objects.get(pk=healed).api_key == "sk-another"
    provider = LLMProvider.objects.get(pk=moved)
    provider.api_base = "https://b.example/v1"
    provider.full_clean()
    assert (provider.api_key, provider.key_was_dropped) == ("", True)

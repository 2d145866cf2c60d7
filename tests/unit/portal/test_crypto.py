"""Keys of providers at rest: unreadable in the database, readable after a rotation."""

import pytest
from django.conf import LazySettings
from django.db import connection

from crews.models import LLMProvider
from portal.lib.crypto import DecryptionFailed, decrypt, encrypt
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

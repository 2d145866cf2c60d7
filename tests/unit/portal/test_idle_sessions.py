"""A browser that nobody uses is signed out, long before its session would end by itself."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from portal.accounts.models import Session
from tests.factories.accounts import UserFactory


@pytest.mark.django_db
def test_a_session_that_is_not_used_ends(settings):
    settings.SESSION_IDLE_SECONDS = 3600
    client = Client()
    client.force_login(UserFactory())
    assert client.get("/crews").status_code == 200
    Session.objects.update(last_seen_at=timezone.now() - timedelta(seconds=3500))
    assert client.get("/crews").status_code == 200
    Session.objects.update(last_seen_at=timezone.now() - timedelta(seconds=3700))
    answer = client.get("/crews")
    assert answer.status_code == 302
    assert answer["Location"].startswith("/sign-in")
    assert client.get("/api/crews").status_code == 401

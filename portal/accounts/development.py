"""The development switch: with PORTAL_DEVELOPMENT_USER everybody who has not signed in is that user.

For work on pages and scripts, on the own machine. The settings refuse it without DEBUG, and nothing
here works without it either.
"""

from django.conf import settings

from portal.accounts.credentials import Credential
from portal.accounts.models import User

CREDENTIAL = Credential("development", "", "development")


def user() -> User | None:
    """Who a stranger is taken for; None where the switch is off, or names nobody who could sign in."""
    if not (settings.DEBUG and settings.DEVELOPMENT_USER):
        return None
    return User.objects.filter(username=settings.DEVELOPMENT_USER, is_active=True, is_service=False).first()

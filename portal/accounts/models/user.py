"""People and service accounts, each with one role."""

import uuid
from typing import Any, Self

from django.conf import settings
from django.contrib.auth.hashers import UNUSABLE_PASSWORD_PREFIX
from django.contrib.auth.models import AbstractUser, UserManager
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _


class Role(models.TextChoices):
    """What a person may do at most; the table is in `portal.accounts.permissions`."""

    VIEWER = "viewer", _("Viewer")
    USER = "user", _("User")
    ADMIN = "admin", _("Admin")

    @property
    def rank(self) -> int:
        return list(Role).index(self)


class PortalUserManager(UserManager["User"]):
    def create_superuser(
        self, username: str, email: str | None = None, password: str | None = None, **extra: Any
    ) -> "User":
        return super().create_superuser(username, email, password, **{"role": Role.ADMIN, **extra})


class User(AbstractUser):
    """A person, or a service account for scripts, with one role.

    A service account has no password and never signs in to pages; it acts by API keys or by tokens of
    the identity provider.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    role = models.CharField(_("role"), max_length=10, choices=Role.choices, default=Role.USER)
    language = models.CharField(
        _("language"), max_length=5, choices=settings.LANGUAGES, blank=True, help_text=_("Empty: as the browser asks.")
    )
    is_service = models.BooleanField(
        _("service account"), default=False, help_text=_("For scripts: has keys, and no password.")
    )

    objects = PortalUserManager()  # type: ignore[misc]

    # What the credential of this request allows at most, whatever the stored role; never saved.
    role_cap: Role | None = None

    class Meta:
        ordering = ["username"]
        constraints = [
            models.CheckConstraint(condition=Q(role__in=Role.values), name="user_role_is_known"),
            models.CheckConstraint(
                condition=Q(is_service=False) | Q(password__startswith=UNUSABLE_PASSWORD_PREFIX),
                name="service_accounts_have_no_password",
            ),
        ]

    @property
    def effective_role(self) -> Role:
        """The stored role, or what the credential allows where that is less."""
        stored = Role(self.role)
        return stored if self.role_cap is None else min(stored, self.role_cap, key=lambda role: role.rank)

    def has_role(self, role: Role) -> bool:
        """Whether this person, with the credential they came with, acts as `role` or above it."""
        return self.is_active and self.effective_role.rank >= role.rank

    def acting_as(self, cap: Role | None) -> Self:
        """This user, held to `cap` for one request: an API key without the scope `admin` never acts as an admin."""
        self.role_cap = cap
        return self

    # Django admin asks these; the role answers, so that nobody keeps rights of a second kind.
    def has_perm(self, perm: str, obj: Any = None) -> bool:
        return self.has_role(Role.ADMIN)

    def has_module_perms(self, app_label: str) -> bool:
        return self.has_role(Role.ADMIN)

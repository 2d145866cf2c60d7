"""Users, and the access lists that everything ownable points to."""

import uuid
from typing import TYPE_CHECKING, Any, Self

from django.conf import settings
from django.contrib.auth.models import AbstractUser, UserManager
from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from django.contrib.auth.models import AnonymousUser


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
    """A person (or, later, a service account) with one role."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    role = models.CharField(_("role"), max_length=10, choices=Role.choices, default=Role.USER)
    language = models.CharField(
        _("language"), max_length=5, choices=settings.LANGUAGES, blank=True, help_text=_("Empty: as the browser asks.")
    )

    objects = PortalUserManager()  # type: ignore[misc]

    class Meta:
        ordering = ["username"]
        constraints = [models.CheckConstraint(condition=Q(role__in=Role.values), name="user_role_is_known")]

    def has_role(self, role: Role) -> bool:
        """Whether this person's role is `role` or above it."""
        return self.is_active and Role(self.role).rank >= role.rank

    # Django admin asks these; the role answers, so that nobody keeps rights of a second kind.
    def has_perm(self, perm: str, obj: Any = None) -> bool:
        return self.has_role(Role.ADMIN)

    def has_module_perms(self, app_label: str) -> bool:
        return self.has_role(Role.ADMIN)


class Visibility(models.TextChoices):
    PRIVATE = "private", _("Private")
    SHARED = "shared", _("Shared")


class AccessList(models.Model):
    """Who owns a thing, who else may see or edit it, and whether everybody may see it.

    Crews, agents, executions and projects each point to one; an execution of a project points to
    the project's, so that one question answers for all of it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+", verbose_name=_("owner"))
    visibility = models.CharField(
        _("visibility"), max_length=10, choices=Visibility.choices, default=Visibility.PRIVATE, db_index=True
    )

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(visibility__in=Visibility.values), name="access_visibility_is_known")
        ]

    def __str__(self) -> str:
        return f"{self.owner} ({self.get_visibility_display()})"


class AccessGrant(models.Model):
    """A person other than the owner who may see or edit what an access list guards."""

    class Level(models.TextChoices):
        EDITOR = "editor", _("Editor")
        VIEWER = "viewer", _("Viewer")

    access = models.ForeignKey(AccessList, on_delete=models.CASCADE, related_name="grants")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="grants")
    level = models.CharField(_("level"), max_length=10, choices=Level.choices)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["access", "user"], name="one_grant_a_person"),
            models.CheckConstraint(condition=Q(level__in=["editor", "viewer"]), name="grant_level_is_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user}: {self.level}"


class AccessQuerySet(models.QuerySet[Any]):
    """Rows that point to an access list, narrowed to what a person may see or change: one query."""

    def visible_to(self, user: "User | AnonymousUser") -> Self:
        if not isinstance(user, User) or not user.is_active:
            return self.none()
        if user.has_role(Role.ADMIN):
            return self
        granted = AccessGrant.objects.filter(access=OuterRef("access"), user=user)
        return self.filter(Q(access__owner=user) | Q(access__visibility=Visibility.SHARED) | Exists(granted))

    def editable_by(self, user: "User | AnonymousUser") -> Self:
        if not isinstance(user, User) or not user.has_role(Role.USER):
            return self.none()
        if user.has_role(Role.ADMIN):
            return self
        granted = AccessGrant.objects.filter(access=OuterRef("access"), user=user, level=AccessGrant.Level.EDITOR)
        return self.filter(Q(access__owner=user) | Exists(granted))


class Guarded(models.Model):
    """Base of everything that has an owner: an access list of its own, made with it and deleted with it."""

    access = models.ForeignKey(AccessList, on_delete=models.PROTECT, related_name="+", verbose_name=_("access"))

    class Meta:
        abstract = True

    @property
    def owner(self) -> User:
        return self.access.owner

    @property
    def visibility(self) -> str:
        return self.access.visibility

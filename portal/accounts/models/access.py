"""Access lists: who owns a thing, and who else may see or edit it."""

import uuid
from typing import TYPE_CHECKING, Any, Self

from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.accounts.models.user import Role, User

if TYPE_CHECKING:
    from django.contrib.auth.models import AnonymousUser


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


class Invitation(models.Model):
    """An offer to join an access list at a level: to somebody who is here, or to whoever holds a mailed link.

    Open until it is accepted, declined, withdrawn or past `expires_at`. Only the digest of the link's
    token is stored.
    """

    class Answer(models.TextChoices):
        ACCEPTED = "accepted", _("Accepted")
        DECLINED = "declined", _("Declined")
        WITHDRAWN = "withdrawn", _("Withdrawn")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    access = models.ForeignKey(AccessList, on_delete=models.CASCADE, related_name="invitations")
    level = models.CharField(_("level"), max_length=10, choices=AccessGrant.Level.choices)
    thing = models.CharField(max_length=200, help_text=_("What it is an invitation to, in words."))
    user = models.ForeignKey(User, on_delete=models.CASCADE, null=True, related_name="invitations")
    email = models.EmailField(_("email address"), blank=True)
    token_digest = models.CharField(max_length=64, unique=True, help_text=_("SHA-256 of the link's token."))
    invited_by = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    answer = models.CharField(max_length=10, choices=Answer.choices, blank=True)
    answered_at = models.DateTimeField(null=True)
    answered_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")

    class Meta:
        ordering = ["-created_at", "id"]
        constraints = [
            models.CheckConstraint(condition=Q(level__in=["editor", "viewer"]), name="invitation_level_is_known"),
            models.CheckConstraint(condition=Q(user__isnull=False) | ~Q(email=""), name="invitation_is_for_somebody"),
            models.CheckConstraint(
                condition=Q(answer="", answered_at__isnull=True) | (~Q(answer="") & Q(answered_at__isnull=False)),
                name="invitation_answered_at_a_time",
            ),
            models.UniqueConstraint(
                fields=["access", "user"],
                condition=Q(answer="", user__isnull=False),
                name="one_open_invitation_a_person",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.thing}: {self.level}"

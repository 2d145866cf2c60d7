"""What people and scripts show at the door: sessions, API keys, identities elsewhere, second factors."""

import itertools
import uuid

from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.accounts.models.user import Role, User
from portal.lib.crypto import EncryptedTextField


class Scope(models.TextChoices):
    """What an API key may be used for; never more than its owner may do. Each also allows reading."""

    READ = "read", _("Read")
    RUN = "run", _("Run, stop and answer; call models")
    WRITE = "write", _("Create, change and delete")
    ADMIN = "admin", _("All that its owner may do, as an admin too")

    @property
    def cap(self) -> Role:
        """The role above which a key with this scope alone never acts."""
        return {Scope.READ: Role.VIEWER, Scope.ADMIN: Role.ADMIN}.get(self, Role.USER)


_SCOPE_SETS = [
    " ".join(chosen) for size in range(1, len(Scope) + 1) for chosen in itertools.combinations(Scope.values, size)
]


class ApiKey(models.Model):
    """A key for scripts: `ap_<prefix>_<secret>`, shown once. Stored is the prefix and a digest of the whole."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_keys", verbose_name=_("owner"))
    name = models.CharField(_("name"), max_length=100)
    prefix = models.CharField(_("prefix"), max_length=12, unique=True)
    digest = models.CharField(max_length=64, help_text=_("SHA-256 of the key; it is long and random."))
    scopes = models.CharField(
        _("scopes"), max_length=20, choices=[(s, s) for s in _SCOPE_SETS], help_text=_("In their order, with blanks.")
    )
    requests_per_minute = models.PositiveIntegerField(_("requests a minute, at most"), default=600)
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    revoked_at = models.DateTimeField(_("revoked"), null=True)
    last_used_at = models.DateTimeField(_("last used"), null=True)
    last_used_from = models.GenericIPAddressField(null=True)

    class Meta:
        ordering = ["-created_at", "id"]
        verbose_name = _("API key")
        constraints = [
            models.CheckConstraint(condition=Q(scopes__in=_SCOPE_SETS), name="api_key_scopes_are_known"),
            models.CheckConstraint(condition=Q(requests_per_minute__gt=0), name="api_key_has_a_rate"),
        ]

    def __str__(self) -> str:
        return f"{self.name} (ap_{self.prefix}…)"

    @property
    def scope_set(self) -> frozenset[Scope]:
        return frozenset(map(Scope, self.scopes.split()))

    @property
    def is_usable(self) -> bool:
        """Neither revoked nor expired; whether its owner is active is asked apart."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > timezone.now())


class Session(AbstractBaseSession):
    """A signed-in browser: whose it is, since when, and from where. Deleting the row signs it out at once."""

    class Method(models.TextChoices):
        PASSWORD = "password", _("Password")
        OIDC = "oidc", _("Single sign-on")
        DEVELOPMENT = "development", _("Development switch")

    user = models.ForeignKey(User, on_delete=models.CASCADE, null=True, related_name="sessions")
    public_id = models.UUIDField(
        default=uuid.uuid4, unique=True, help_text=_("Names it in pages; its key is a secret.")
    )
    method = models.CharField(max_length=12, choices=Method.choices, blank=True)
    address = models.GenericIPAddressField(null=True)
    user_agent = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    last_seen_at = models.DateTimeField(default=timezone.now)
    # Of the identity provider that opened it: back-channel logout names these.
    oidc_issuer = models.CharField(max_length=500, blank=True)
    oidc_sid = models.CharField(max_length=255, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["user", "-last_seen_at"]),
            models.Index(fields=["oidc_issuer", "oidc_sid"], condition=~Q(oidc_sid=""), name="session_of_the_idp"),
        ]

    @classmethod
    def get_session_store_class(cls) -> type:
        from portal.accounts.sessions import SessionStore

        return SessionStore


class Identity(models.Model):
    """Who a user is at an identity provider: issuer and subject, never the mail address."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="identities")
    issuer = models.CharField(max_length=500)
    subject = models.CharField(max_length=255)
    roles = models.JSONField(default=list, help_text=_("As the provider last said."))
    groups = models.JSONField(default=list, help_text=_("As the provider last said."))
    linked_by = models.ForeignKey(
        User, on_delete=models.SET_NULL, null=True, related_name="+", help_text=_("The admin who linked it by hand.")
    )
    created_at = models.DateTimeField(default=timezone.now)
    last_sign_in_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name_plural = "identities"
        constraints = [models.UniqueConstraint(fields=["issuer", "subject"], name="one_user_a_subject")]

    def __str__(self) -> str:
        return f"{self.user} ({self.issuer})"


class UsedToken(models.Model):
    """A token that may be used once and was (a logout token of the identity provider); kept until it expires."""

    digest = models.CharField(primary_key=True, max_length=64, help_text=_("SHA-256 of issuer and token id."))
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return self.digest[:12]


class SecondFactor(models.Model):
    """The app on a person's telephone (TOTP, RFC 6238). Asked for once it is confirmed."""

    user = models.OneToOneField(User, on_delete=models.CASCADE, related_name="second_factor")
    secret = EncryptedTextField()
    confirmed_at = models.DateTimeField(null=True)
    last_step = models.BigIntegerField(
        default=0, help_text=_("The time step of the last code taken: none works twice.")
    )
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return str(self.user)


class RecoveryCode(models.Model):
    """Signs in once where the second factor is lost."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="recovery_codes")
    digest = models.CharField(max_length=64)
    used_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "digest"], name="recovery_codes_differ")]

    def __str__(self) -> str:
        return str(self.user)


class RateWindow(models.Model):
    """How often something happened since a moment: the counter of a limit, shared by all processes."""

    key = models.CharField(primary_key=True, max_length=100)
    started_at = models.DateTimeField()
    count = models.PositiveIntegerField(default=0)

    class Meta:
        indexes = [models.Index(fields=["started_at"])]

    def __str__(self) -> str:
        return f"{self.key}: {self.count}"

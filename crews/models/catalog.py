"""The LLM catalog: providers, and the models that roles are mapped to."""

import uuid
from decimal import Decimal
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from crews.llm_config import validate_llm_config
from portal.lib import outgoing
from portal.lib.crypto import EncryptedTextField, Unreadable

EMBEDDED = "embedded"


def validate_route(route: str) -> None:
    """A litellm route is `prefix/name`, without blanks."""
    prefix, _slash, name = route.partition("/")
    if not prefix or not name or any(character.isspace() for character in route):
        raise ValidationError(_("Write it as litellm does, with the provider first: openai/gpt-4o"), code="bad_route")


def validate_api_base(address: str) -> None:
    """An http(s) address of a host, by whatever name: `http://ollama:11434/v1` too. No password in it.

    Only its form: whether requests may go there is said with the provider's `allow_private`.
    """
    try:
        parts = urlsplit(address)
        extras = parts.username or parts.password or parts.query or parts.fragment
    except ValueError:  # a port that is no number, or half an IPv6 address
        extras = None
    if extras:
        raise ValidationError(_("Only the address: a key has a field of its own."), code="bad_address")
    try:
        outgoing.parse(address)
    except outgoing.BadAddress as exc:
        raise ValidationError(str(exc), code="bad_address") from exc


class LLMProvider(models.Model):
    """Where models are reached: an address, a key and how to speak to it."""

    class Kind(models.TextChoices):
        EMBEDDED = "embedded", _("Embedded local model")
        OPENAI_COMPATIBLE = "openai_compatible", _("OpenAI-compatible")
        LITELLM = "litellm", _("Translated by litellm")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(_("name"), max_length=100, unique=True)
    kind = models.CharField(_("kind"), max_length=20, choices=Kind.choices, default=Kind.OPENAI_COMPATIBLE)
    api_base = models.CharField(
        _("API base"),
        blank=True,
        max_length=500,
        validators=[validate_api_base],
        help_text=_("For example https://api.openai.com/v1"),
    )
    api_key = EncryptedTextField(_("API key"), blank=True, default="")
    needs_key = models.BooleanField(_("needs a key"), default=True)
    enabled = models.BooleanField(_("enabled"), default=True)
    allow_private = models.BooleanField(
        _("in a private network"),
        default=False,
        help_text=_("Requests may go to loopback and private addresses. Elsewhere they are refused."),
    )
    created_at = models.DateTimeField(auto_now_add=True)

    # What `clean` did beside checking; and for which origin `allow_private` is meant, where that is known.
    key_was_dropped = private_was_dropped = False
    private_given_for = ""

    class Meta:
        ordering = ["name"]
        verbose_name = _("LLM provider")
        constraints = [
            models.CheckConstraint(
                condition=~Q(kind="openai_compatible") | ~Q(api_base=""), name="openai_compatible_has_an_address"
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def has_key(self) -> bool:
        """Whether there is a key to send."""
        return bool(self.api_key) and not self.has_unreadable_key

    @property
    def has_unreadable_key(self) -> bool:
        """Whether a key is stored that cannot be opened any more; giving another one heals it."""
        return isinstance(self.api_key, Unreadable)

    @property
    def origin(self) -> str:
        """Scheme, host and port to which the key goes; empty where the route alone says it."""
        try:
            where = outgoing.parse(self.api_base)
        except outgoing.BadAddress:  # what is stored from before it was checked, or is being refused
            return self.api_base
        return f"{where.scheme}://{where.host}:{where.port}"

    @property
    def may_go_private(self) -> bool:
        """Whether requests may go to loopback and private addresses; the embedded model is the portal's own."""
        return self.allow_private or self.kind == self.Kind.EMBEDDED

    def clean(self) -> None:
        """An address where one is needed and may be, one embedded provider, and nothing that follows to another host.

        A key was given for the host it was given for: when the host changes and the key does not, it
        is dropped, and `key_was_dropped` says so. So is the leave to go to private networks, unless it
        was given for the new host (`private_given_for`).
        """
        super().clean()
        stored = None if self._state.adding else LLMProvider.objects.filter(pk=self.pk).first()
        self.api_base = self.api_base.strip().rstrip("/")
        if self.kind == self.Kind.OPENAI_COMPATIBLE and not self.api_base:
            message = gettext("Say where it is: the address of its API.")
            raise ValidationError({"api_base": ValidationError(message, code="required")})
        if self.kind == self.Kind.EMBEDDED and (stored is None or stored.kind != self.kind):
            message = gettext("The embedded model has its provider already.")
            raise ValidationError({"kind": ValidationError(message, code="embedded_exists")})
        if stored and stored.kind == self.Kind.EMBEDDED and self.kind != stored.kind:
            message = gettext("The embedded model's provider stays what it is.")
            raise ValidationError({"kind": ValidationError(message, code="embedded_stays")})
        if stored and stored.origin != self.origin and self.api_key and self.api_key == stored.api_key:
            self.api_key = ""
            self.key_was_dropped = True
        if stored and stored.origin != self.origin and stored.allow_private and self.allow_private:
            self.private_was_dropped = self.private_given_for != self.origin
            self.allow_private = not self.private_was_dropped
        self._check_reach()

    def _check_reach(self) -> None:
        """Refuse an address that requests would be refused to, as far as that shows without a name server."""
        if not self.api_base or self.kind == self.Kind.EMBEDDED:
            return
        try:
            outgoing.check(self.api_base, allow_private=self.allow_private)
        except outgoing.BadAddress:
            return  # the field says so itself
        except outgoing.Refused as exc:
            raise ValidationError({"api_base": ValidationError(str(exc), code="private_address")}) from exc


class LLMModel(models.Model):
    """An entry of the catalog: what a role is mapped to. Its id is its name (`gpt-4o`)."""

    class Health(models.TextChoices):
        UNKNOWN = "unknown", _("Not checked")
        OK = "ok", _("Reachable")
        DOWN = "down", _("Not reachable")

    id = models.CharField(
        _("id"),
        primary_key=True,
        max_length=100,
        validators=[RegexValidator(r"^[A-Za-z0-9][\w.\-]*$", _("Letters, digits, dots, dashes and underscores only."))],
    )
    name = models.CharField(_("name"), max_length=100)
    description = models.TextField(_("description"), blank=True)
    provider = models.ForeignKey(
        LLMProvider, on_delete=models.PROTECT, related_name="llm_models", verbose_name=_("provider")
    )
    route = models.CharField(
        _("route"),
        max_length=200,
        validators=[validate_route],
        help_text=_("As litellm writes it: openai/gpt-4o, anthropic/claude-3-haiku-20240307"),
    )
    context_window = models.PositiveIntegerField(_("context window, tokens"), default=8192)
    max_concurrency = models.PositiveSmallIntegerField(
        _("requests at once"), default=8, validators=[MinValueValidator(1), MaxValueValidator(1000)]
    )
    price_in = models.DecimalField(
        _("price of a million tokens read, US$"), max_digits=12, decimal_places=6, null=True, blank=True,
        help_text=_("Empty: unpriced."), validators=[MinValueValidator(Decimal(0))],
    )  # fmt: skip
    price_out = models.DecimalField(
        _("price of a million tokens written, US$"), max_digits=12, decimal_places=6, null=True, blank=True,
        help_text=_("Empty: unpriced."), validators=[MinValueValidator(Decimal(0))],
    )  # fmt: skip
    is_local = models.BooleanField(_("local"), default=False)
    native_tools = models.BooleanField(
        _("native tool calls"), default=True, help_text=_("Off: the gateway turns tools into a constrained schema.")
    )
    good_for = models.JSONField(_("good for"), default=list, blank=True)
    defaults = models.JSONField(
        _("default parameters"),
        default=dict,
        blank=True,
        validators=[validate_llm_config],
        help_text=_("Sent when a caller names none: temperature…"),
    )
    fallbacks = models.ManyToManyField(
        "self", symmetrical=False, blank=True, through="LLMFallback", verbose_name=_("fallbacks")
    )
    enabled = models.BooleanField(_("enabled"), default=True)
    health = models.CharField(_("health"), max_length=10, choices=Health.choices, default=Health.UNKNOWN)
    health_detail = models.CharField(_("health detail"), max_length=500, blank=True)
    health_checked_at = models.DateTimeField(_("checked at"), null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        verbose_name = _("LLM model")
        constraints = [
            models.CheckConstraint(
                condition=Q(price_in__isnull=True, price_out__isnull=True)
                | Q(price_in__isnull=False, price_out__isnull=False),
                name="model_has_both_prices_or_none",
            ),
            models.CheckConstraint(condition=Q(max_concurrency__gte=1), name="model_takes_a_request"),
        ]

    def __str__(self) -> str:
        return self.id

    def clean(self) -> None:
        """Both prices or none; purposes are words; the embedded model stays with its provider."""
        super().clean()
        if (self.price_in is None) != (self.price_out is None):
            message = gettext("Give both prices, or none: a model without prices is unpriced.")
            field = "price_in" if self.price_in is None else "price_out"
            raise ValidationError({field: ValidationError(message, code="one_price")})
        if not isinstance(self.good_for, list) or not all(isinstance(word, str) and word for word in self.good_for):
            raise ValidationError({"good_for": ValidationError(gettext("Give a list of words."), code="not_words")})
        if self.provider_id and (self.provider.kind == LLMProvider.Kind.EMBEDDED) != (self.pk == EMBEDDED):
            message = gettext("The model “embedded”, and no other, belongs to the embedded provider.")
            raise ValidationError({"provider": ValidationError(message, code="embedded_stays")})

    @property
    def why_not_runnable(self) -> str:
        """Why no run can use this model now, in a sentence; empty when one can. Reads `provider`."""
        if not self.enabled:
            return str(_("This model is switched off."))
        if not self.provider.enabled:
            return str(_("Its provider is switched off."))
        if self.provider.has_unreadable_key:
            return str(_("Its provider's API key cannot be opened. It has to be given again."))
        if self.provider.needs_key and not self.provider.has_key:
            return str(_("Its provider has no API key yet."))
        return ""

    @property
    def upstream_name(self) -> str:
        """The model's name in a request to a server that speaks OpenAI's protocol itself."""
        return self.route.partition("/")[2]

    @property
    def is_runnable(self) -> bool:
        return not self.why_not_runnable


class LLMFallback(models.Model):
    """The model to try next when one cannot answer, in order."""

    model = models.ForeignKey(LLMModel, on_delete=models.CASCADE, related_name="fallback_rows")
    fallback = models.ForeignKey(LLMModel, on_delete=models.CASCADE, related_name="+")
    position = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["model", "fallback"], name="one_fallback_once"),
            models.CheckConstraint(condition=~Q(model=models.F("fallback")), name="no_fallback_to_itself"),
        ]

    def __str__(self) -> str:
        return f"{self.model_id} → {self.fallback_id}"

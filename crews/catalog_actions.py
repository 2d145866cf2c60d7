"""Changes of the LLM catalog that span rows."""

from collections.abc import Iterable

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import ProtectedError
from django.utils.translation import gettext as _

from crews import providers
from crews.models import EMBEDDED, Agent, Crew, LLMFallback, LLMModel, LLMProvider
from portal.accounts import audit
from portal.accounts.models import User
from portal.lib.problems import Conflict


def save_model(model: LLMModel, *, fallbacks: Iterable[LLMModel] | None = None) -> LLMModel:
    """Check and save a model, and what to fall back on, in order, unless that is None. Raises `ValidationError`."""
    with transaction.atomic():
        model.full_clean()
        model.save()
        if fallbacks is not None:
            set_fallbacks(model=model, fallbacks=fallbacks)
    return model


def set_fallbacks(*, model: LLMModel, fallbacks: Iterable[LLMModel]) -> None:
    """Make `fallbacks` the models to try, in that order, when `model` cannot answer. Raises `ValidationError`."""
    wanted = list({fallback.pk: fallback for fallback in fallbacks}.values())
    if model in wanted:
        message = _("A model cannot stand in for itself.")
        raise ValidationError({"fallbacks": ValidationError(message, code="falls_back_on_itself")})
    with transaction.atomic():
        model.fallback_rows.exclude(fallback__in=wanted).delete()
        for position, fallback in enumerate(wanted):
            LLMFallback.objects.update_or_create(model=model, fallback=fallback, defaults={"position": position})


def delete_model(*, model: LLMModel) -> None:
    """Take a model out of the catalog. Raises `Conflict` while agents or crews are mapped to it."""
    if model.pk == EMBEDDED:
        raise Conflict(
            _("The embedded model stays: it is what runs when nothing else can."), hint=_("Switch it off instead.")
        )
    agents = Agent.objects.filter(llm_model=model).count()
    crews = Crew.objects.filter(manager_llm_model=model).count()
    if agents or crews:
        raise Conflict(
            _("%(agents)d agents and %(crews)d crews use the model %(model)s.")
            % {"agents": agents, "crews": crews, "model": model},
            code="model_in_use",
            hint=_("Give them another model first, or switch this one off."),
        )
    try:
        model.delete()
    except ProtectedError as exc:
        raise Conflict(
            _("Runs have used the model %(model)s.") % {"model": model},
            code="model_in_use",
            hint=_("Switch it off instead, so that their history stays whole."),
        ) from exc


def test_provider(provider: LLMProvider, *, by: User) -> providers.Report:
    """Reach the provider with its key; the health of its models follows."""
    report = providers.test(provider)
    audit.record("provider.tested", by=by, target=provider, after={"ok": report.ok, "detail": report.detail})
    return report


def delete_provider(*, provider: LLMProvider) -> None:
    """Delete a provider. Raises `Conflict` while the catalog has models of it."""
    if models := list(provider.llm_models.values_list("pk", flat=True)):
        raise Conflict(
            _("%(provider)s still serves: %(models)s.") % {"provider": provider, "models": ", ".join(models)},
            code="provider_in_use",
            hint=_("Delete these models first, or switch the provider off."),
        )
    provider.delete()

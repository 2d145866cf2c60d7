"""The LLM catalog for everybody; its providers for admins."""

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from crews import catalog_actions
from crews.embedded import files
from crews.embedded.serve import Serving, serving
from crews.embedded.specs import SPECS, ModelSpec
from crews.forms import ModelForm, ProviderForm
from crews.models import EMBEDDED, LLMModel, LLMProvider
from crews.views.crews import status_of
from portal.accounts.models import Role
from portal.accounts.permissions import allow, person
from portal.lib.problems import Problem


@dataclass(frozen=True)
class Embedded:
    """The embedded model: the catalog's row, the file it is, and what its process is doing."""

    row: LLMModel
    spec: ModelSpec
    serving: Serving | None

    @property
    def is_other_than_wanted(self) -> bool:
        """Whether the small stand-in is served because the wanted file could not be had."""
        return self.spec.key != files.wanted().key

    @property
    def percent(self) -> int | None:
        """How much of the file has been fetched."""
        now = self.serving
        return 100 * now.done // now.total if now and now.state == "fetching" and now.total else None


def embedded() -> Embedded | None:
    """The embedded model as it stands now; None when the catalog has none. One query."""
    row = LLMModel.objects.select_related("provider").filter(pk=EMBEDDED).first()
    if row is None:
        return None
    now = serving()
    return Embedded(row, SPECS[now.model] if now and now.model in SPECS else files.wanted(), now)


@allow(Role.VIEWER)
@require_GET
def model_list(request: HttpRequest) -> HttpResponse:
    """Every model of the catalog: what it costs, and whether it can be used now."""
    models = LLMModel.objects.select_related("provider").exclude(pk=EMBEDDED)
    usable = [model for model in models if model.is_runnable]
    others = [model for model in models if not model.is_runnable]
    return render(request, "crews/model_list.html", {"embedded": embedded(), "usable": usable, "others": others})


@allow(Role.ADMIN)
@require_http_methods(["GET", "POST"])
def model_edit(request: HttpRequest, pk: str) -> HttpResponse:
    """Change an entry of the catalog: price, limits, whether it is offered."""
    model = get_object_or_404(LLMModel, pk=pk)
    form = ModelForm(request.POST or None, instance=model)
    if request.method == "POST" and form.is_valid() and form.save_model():
        messages.success(request, _("Saved."))
        return redirect("crews:model-list")
    return render(request, "crews/model_form.html", {"form": form, "model": model}, status=status_of(request))


@allow(Role.ADMIN)
@require_GET
def provider_list(request: HttpRequest) -> HttpResponse:
    """Where models are reached, and with which keys."""
    listed = LLMProvider.objects.prefetch_related("llm_models")
    return render(request, "crews/provider_list.html", {"providers": listed})


@allow(Role.ADMIN)
@sensitive_post_parameters("api_key")
@require_http_methods(["GET", "POST"])
def provider_create(request: HttpRequest) -> HttpResponse:
    """Add a provider."""
    return _provider_form(request, None)


@allow(Role.ADMIN)
@sensitive_post_parameters("api_key")
@require_http_methods(["GET", "POST"])
def provider_edit(request: HttpRequest, pk: Any) -> HttpResponse:
    """Change a provider or its key."""
    return _provider_form(request, get_object_or_404(LLMProvider, pk=pk))


def _provider_form(request: HttpRequest, provider: LLMProvider | None) -> HttpResponse:
    form = ProviderForm(request.POST or None, instance=provider)
    if request.method == "POST" and form.is_valid():
        saved = form.save()
        messages.success(request, _("Saved."))
        if getattr(saved, "key_was_dropped", False):
            messages.warning(request, _("The address changed, so the stored key was dropped. Give the key again."))
            return redirect("crews:provider-edit", saved.pk)
        return redirect("crews:provider-list")
    context = {"form": form, "provider": provider}
    return render(request, "crews/provider_form.html", context, status=status_of(request))


@allow(Role.ADMIN)
@require_POST
def provider_test(request: HttpRequest, pk: Any) -> HttpResponse:
    """Reach the provider with its key; the health of its models follows."""
    provider = get_object_or_404(LLMProvider, pk=pk)
    report = catalog_actions.test_provider(provider, by=person(request))
    say = {True: messages.success, False: messages.error, None: messages.info}[report.ok]
    say(request, f"{provider.name}: {report.detail}")
    return redirect("crews:provider-list")


@allow(Role.ADMIN)
@require_POST
def provider_delete(request: HttpRequest, pk: Any) -> HttpResponse:
    """Delete a provider that serves no model of the catalog."""
    provider = get_object_or_404(LLMProvider, pk=pk)
    if provider.kind == LLMProvider.Kind.EMBEDDED:
        raise Http404
    try:
        catalog_actions.delete_provider(provider=provider)
    except Problem as problem:
        messages.error(request, problem.sentence)
    else:
        messages.success(request, _("The provider “%(name)s” was deleted.") % {"name": provider.name})
    return redirect("crews:provider-list")

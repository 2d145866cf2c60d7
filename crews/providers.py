"""Asking a provider whether it can be reached and what it serves."""

import json
from dataclasses import dataclass, field, replace

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext as _

from crews.models import LLMModel, LLMProvider
from portal.lib import outgoing
from portal.lib.redaction import redact

TIMEOUT = 10.0  # seconds for each step of a request
MAX_MODELS = 500

# Providers that litellm translates for and that can say what they serve: route prefix → address and key header.
_ANTHROPIC = ("https://api.anthropic.com/v1/models?limit=1000", "x-api-key", {"anthropic-version": "2023-06-01"})
_GEMINI: tuple[str, str, dict[str, str]] = (
    "https://generativelanguage.googleapis.com/v1beta/models?pageSize=1000",
    "x-goog-api-key",
    {},
)
_TRANSLATED = {"anthropic": _ANTHROPIC, "gemini": _GEMINI}


@dataclass(frozen=True)
class Report:
    """What trying a provider showed. `ok` is None when it cannot be tried without a run."""

    ok: bool | None
    detail: str
    models: list[str] = field(default_factory=list)


def test(provider: LLMProvider) -> Report:
    """Reach the provider with its key, and write what was found to the health of its models."""
    report = _report(provider)
    # Some servers repeat the key that they refuse.
    report = replace(report, detail=redact(str(report.detail)))
    now = timezone.now()
    models = list(provider.llm_models.all())
    for model in models:
        model.health, model.health_detail = _health(model, report)
        model.health_checked_at = now
    LLMModel.objects.bulk_update(models, ["health", "health_detail", "health_checked_at"])
    return report


def api_base(provider: LLMProvider) -> str:
    """Where the provider speaks OpenAI's protocol, without a slash at the end; empty when it does not."""
    if provider.kind == LLMProvider.Kind.EMBEDDED:
        return f"{settings.MODEL_URL}/v1"
    return provider.api_base.rstrip("/") if provider.kind == LLMProvider.Kind.OPENAI_COMPATIBLE else ""


def _report(provider: LLMProvider) -> Report:
    if provider.has_unreadable_key:
        return Report(False, _("Its API key cannot be opened. It has to be given again."))
    if provider.needs_key and not provider.has_key:
        return Report(False, _("It has no API key yet."))
    base = api_base(provider)
    if base:
        headers = {"Authorization": f"Bearer {provider.api_key}"} if provider.has_key else {}
        return _ask(f"{base}/models", headers, allow_private=provider.may_go_private)
    prefixes = {model.route.partition("/")[0] for model in provider.llm_models.all()} & _TRANSLATED.keys()
    if not prefixes or provider.api_base:
        return Report(None, _("This provider cannot be asked what it serves: start a run with one of its models."))
    address, key_header, headers = _TRANSLATED[prefixes.pop()]
    return _ask(address, {**headers, key_header: provider.api_key})


def _ask(url: str, headers: dict[str, str], *, allow_private: bool = False) -> Report:
    try:
        answer = outgoing.get(url, headers=headers, allow_private=allow_private, timeout=TIMEOUT)
    except outgoing.Unreachable as exc:
        return Report(False, str(exc))
    if answer.status in {401, 403}:
        return Report(False, _("The provider refuses the API key (HTTP %(status)d).") % {"status": answer.status})
    if answer.status == 404:
        return Report(False, _("There is no list of models at %(url)s (HTTP 404). Check the address.") % {"url": url})
    if answer.status != 200:
        return Report(False, _("The provider answered HTTP %(status)d.") % {"status": answer.status})
    try:
        models = _model_names(json.loads(answer.content))
    except (ValueError, TypeError, AttributeError):
        return Report(False, _("What answers at %(url)s is no model provider.") % {"url": url})
    return Report(True, _("Reached; it serves %(n)d models.") % {"n": len(models)}, models[:MAX_MODELS])


def _model_names(body: dict[str, list[dict[str, str]]]) -> list[str]:
    # OpenAI's and Anthropic's lists are called "data" with "id"; Google's "models" with "name".
    rows = body.get("data") if "data" in body else body.get("models")
    if rows is None:
        raise ValueError("no list of models")
    return sorted(str(row.get("id") or row.get("name", "")).removeprefix("models/") for row in rows)


def _health(model: LLMModel, report: Report) -> tuple[str, str]:
    if report.ok is None:
        return LLMModel.Health.UNKNOWN, ""
    if not report.ok:
        return LLMModel.Health.DOWN, report.detail[:500]
    names = {model.upstream_name, model.route.partition("/")[2]}
    if model.is_local or not report.models or names & set(report.models):
        return LLMModel.Health.OK, ""
    return LLMModel.Health.UNKNOWN, _("The provider answers, but does not list this model.")

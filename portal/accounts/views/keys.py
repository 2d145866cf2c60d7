"""A person's own API keys."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from portal.accounts import keys
from portal.accounts.credential_forms import KeyForm
from portal.accounts.models import ApiKey, Role
from portal.accounts.permissions import allow, person
from portal.accounts.views.profile import status_of
from portal.lib.forms import errors_on


@allow(Role.VIEWER)
@never_cache
@require_http_methods(["GET", "POST"])
def key_list(request: HttpRequest) -> HttpResponse:
    """The person's keys; a new one's text stands in the answer to its making, and never again."""
    user = person(request)
    form = KeyForm(request.POST or None, owner=user)
    context: dict[str, Any] = {"tab": "keys", "form": form}
    status = status_of(request)
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            made, text = form.save(by=user)
            context |= {"made": made, "text": text, "form": KeyForm(owner=user)}
            status = 201
    context["keys"] = list(user.api_keys.all())
    return render(request, "accounts/profile/keys.html", context, status=status)


@allow(Role.VIEWER)
@require_http_methods(["GET", "POST"])
def key_revoke(request: HttpRequest, pk: Any) -> HttpResponse:
    """Ask, then take a key back for good."""
    key = get_object_or_404(ApiKey.objects.select_related("user"), pk=pk, user=person(request))
    if request.method == "POST":
        keys.revoke(key, by=person(request))
        messages.success(request, _("The key “%(name)s” was revoked.") % {"name": key.name})
        return redirect("accounts:keys")
    return render(request, "accounts/profile/key_revoke.html", {"tab": "keys", "key": key})

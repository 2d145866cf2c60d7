"""Single sign-on in the browser: there, back, and out."""

import logging
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST
from mozilla_django_oidc.views import OIDCAuthenticationCallbackView, OIDCAuthenticationRequestView

from portal.accounts import limits
from portal.accounts.entering import SignInRefused, enter
from portal.accounts.models import Session
from portal.accounts.oidc import logout, renewal, tokens
from portal.accounts.oidc.backend import ProviderAway, SignInFailed, callback_url, library_setting
from portal.accounts.oidc.provider import ProviderUnavailable, provider
from portal.accounts.permissions import public
from portal.lib.addresses import address_of
from portal.lib.problems import Problem

logger = logging.getLogger(__name__)

A_MINUTE = 60  # sign-ins begun from one address in a minute, at most: each one makes a session
LOGOUTS_A_MINUTE = 600  # the provider is one address for everybody


class _Begin(OIDCAuthenticationRequestView):
    """Leads to the provider, with state, nonce and PKCE."""

    get_settings = staticmethod(library_setting)

    def get_extra_params(self, request: HttpRequest) -> dict[str, str]:
        # Whom the portal refused must be able to come as somebody else, though the provider still knows them.
        again = {"prompt": "login"} if "again" in request.GET else {}
        return {"redirect_uri": callback_url(), **again}


class _Return(OIDCAuthenticationCallbackView):
    """Where the provider leads back to, with a code."""

    get_settings = staticmethod(library_setting)

    def get(self, request: HttpRequest) -> HttpResponse:
        if "error" in request.GET:
            # Whoever follows a link with an error in it is not signed out by that, as the library would have it.
            states = request.session.get("oidc_states", {})
            if states.pop(request.GET.get("state", ""), None) is not None:
                request.session.modified = True
            why = request.GET["error"][:60]
            raise SignInFailed(_("The sign-in service did not let you in (%(why)s).") % {"why": why})
        try:
            answer: HttpResponse = super().get(request)
        except SuspiciousOperation as exc:
            raise _unknown_sign_in() from exc
        return answer

    def login_success(self) -> HttpResponse:
        # Read before the session may be another one.
        target = self.success_url
        sid = self.request.oidc_sid
        enter(self.request, self.user, method=Session.Method.OIDC, issuer=provider().issuer, sid=sid)
        renewal.keep(self.request.session, self.request.oidc_tokens)
        return HttpResponseRedirect(target)

    def login_failure(self) -> HttpResponse:
        raise _unknown_sign_in()


def _unknown_sign_in() -> SignInFailed:
    return SignInFailed(
        _("This sign-in was not begun in this browser, or a while ago."), hint=_("Begin again from the sign-in page.")
    )


def _page(view: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """A page of single sign-on: nothing where none is set up, and a plain page that says what went wrong."""

    def shown(request: HttpRequest) -> HttpResponse:
        if not settings.OIDC_ISSUER:
            raise Http404("No identity provider is set up.")
        try:
            return view(request)
        except ProviderUnavailable as exc:
            logger.warning("sign-in: %s", exc)
            problem: Problem = ProviderAway()
        except Problem as exc:
            problem = exc
        if isinstance(problem, SignInRefused):
            problem.hint = _("Ask an admin.")
        return render(request, "accounts/sign_in_refused.html", {"problem": problem}, status=problem.status)

    return public(never_cache(require_GET(shown)))


@_page
def authenticate(request: HttpRequest) -> HttpResponse:
    """Begin to sign in at the provider; `?next=` is where to go afterwards."""
    limits.hit(f"oidc-begin:{limits.network_of(address_of(request.META))}", limit=A_MINUTE, seconds=60)
    if not request.build_absolute_uri("/").startswith(f"{settings.PORTAL_URL}/"):
        # The session that waits for the answer must be of the host that the provider leads back to.
        return HttpResponseRedirect(settings.PORTAL_URL + request.get_full_path())
    return _view(_Begin, request)


@_page
def callback(request: HttpRequest) -> HttpResponse:
    """Come back from the provider, and go on as the user it names."""
    return _view(_Return, request)


def _view(cls: Any, request: HttpRequest) -> HttpResponse:
    answer: HttpResponse = cls.as_view()(request)
    return answer


@public
@csrf_exempt
@require_POST
@never_cache
def backchannel_logout(request: HttpRequest) -> HttpResponse:
    """The provider says that a session ended there: it ends here too (OpenID Connect Back-Channel Logout 1.0)."""
    if not settings.OIDC_ISSUER:
        raise Http404("No identity provider is set up.")
    try:
        limits.hit(f"oidc-logout:{address_of(request.META)}", limit=LOGOUTS_A_MINUTE, seconds=60)
        claims = tokens.logout_claims(request.POST.get("logout_token", ""))
        logout.end_sessions(claims)
    except tokens.TokenRefused as exc:
        logger.warning("a logout token is refused: %s", exc)
        return JsonResponse(
            {"error": "invalid_request", "error_description": "The logout token is refused."}, status=400
        )
    except ProviderUnavailable as exc:
        logger.warning("a logout token cannot be checked: %s", exc)
        return JsonResponse({"error": "temporarily_unavailable"}, status=503)
    except limits.TooMany as exc:
        return JsonResponse({"error": "slow_down"}, status=429, headers={"Retry-After": str(exc.wait)})
    return HttpResponse(status=200)

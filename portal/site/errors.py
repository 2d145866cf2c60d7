"""What a bug looks like from outside."""

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.views.defaults import bad_request as bad_request_page
from django.views.defaults import server_error as server_error_page

from portal.lib.problems import Problem, problem_response


def server_error(request: HttpRequest) -> HttpResponse:
    """A problem document under /api, a page elsewhere; the log has the rest."""
    if not request.path.startswith("/api/"):
        return server_error_page(request)
    detail = _("Something went wrong on our side.")
    hint = _("Try again. If it stays, tell your admin: the log of the portal says more.")
    return problem_response(Problem(detail, status=500, code="internal", hint=hint))


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """What no view could read: an unknown host, too many fields. A problem document under /api, a page elsewhere."""
    if not request.path.startswith("/api/"):
        return bad_request_page(request, exception)
    return problem_response(Problem(_("The request cannot be read.")))

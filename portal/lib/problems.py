"""Errors people can act on, and their one form on the wire: RFC 9457 problem documents.

    {type, title, status, code, detail, hint?, errors?: [{field, code, detail}]}

Domain code raises a `Problem` (or a subclass); HTML views, the API and commands each show it their
way. `exception_handler` is the single place where an exception becomes an API response.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS, PermissionDenied
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import IntegrityError
from django.http import Http404, JsonResponse
from django.utils.translation import gettext as _
from rest_framework import exceptions
from rest_framework.response import Response

logger = logging.getLogger(__name__)
CONTENT_TYPE = "application/problem+json"


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field; `field` is a dotted path, empty for the whole."""

    field: str
    code: str
    detail: str


class Problem(Exception):
    """Something a caller can understand and mend.

    `code` is stable and for programs, `detail` one plain sentence, `hint` says what to do next,
    `errors` lists what is wrong field by field.
    """

    status = 400
    code = "invalid"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        hint: str = "",
        status: int | None = None,
        errors: Iterable[FieldError] = (),
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.errors = list(errors)
        self.code = code or self.code
        self.status = status or self.status

    @property
    def sentence(self) -> str:
        """For people: what is wrong, and what to do."""
        return f"{self.detail} {self.hint}".strip()

    def as_dict(self) -> dict[str, Any]:
        return problem(self.status, self.code, self.detail, hint=self.hint, errors=self.errors)


class Conflict(Problem):
    """The thing is not in a state in which this can be done."""

    status = 409
    code = "conflict"


class InvalidValues(Problem):
    """What was given breaks a rule; `errors` names each fault."""

    def __init__(self, errors: Iterable[FieldError]) -> None:
        super().__init__(_("Some values cannot be used."), errors=errors)


def problem(
    status: int, code: str, detail: str, *, hint: str = "", errors: Iterable[FieldError] = ()
) -> dict[str, Any]:
    """A problem document as a plain dict."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    if hint:
        body["hint"] = hint
    if listed := [asdict(error) for error in errors]:
        body["errors"] = listed
    return body


def problem_response(problem: Problem) -> JsonResponse:
    """For plain Django views (middleware, 404 pages under /api)."""
    return JsonResponse(problem.as_dict(), status=problem.status, content_type=CONTENT_TYPE)


def field_errors(detail: Any, path: str = "") -> list[FieldError]:
    """DRF's nested error details, flattened to dotted field paths."""
    if isinstance(detail, dict):
        found = []
        for name, value in detail.items():
            step = "" if name in {"non_field_errors", NON_FIELD_ERRORS} else str(name)
            found += field_errors(value, ".".join(filter(None, [path, step])))
        return found
    if isinstance(detail, list):
        found = []
        for index, value in enumerate(detail):
            nested = isinstance(value, dict | list)
            found += field_errors(value, f"{path}.{index}".strip(".") if nested else path)
        return found
    return [FieldError(path, getattr(detail, "code", "invalid"), str(detail))]


def model_errors(exc: DjangoValidationError, names: Mapping[str, str] | None = None) -> list[FieldError]:
    """What a model's `clean` found, field by field, with its codes; `names` maps model fields to others."""
    by_field = exc.error_dict if hasattr(exc, "error_dict") else {NON_FIELD_ERRORS: exc.error_list}
    return [
        FieldError("" if name == NON_FIELD_ERRORS else (names or {}).get(name, name), error.code or "invalid", message)
        for name, errors in by_field.items()
        for error in errors
        for message in error.messages
    ]


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's hook: every error that a caller caused leaves as a problem document; bugs stay bugs (None)."""
    # Importing it imports the classes that the settings name, and those raise problems.
    from rest_framework.views import set_rollback

    headers: dict[str, str] = {}
    if isinstance(exc, Problem):
        body = exc.as_dict()
        if wait := getattr(exc, "wait", None):
            headers["Retry-After"] = str(wait)
    elif isinstance(exc, Http404):
        body = problem(404, "not_found", _("There is nothing here that you may see."))
    elif isinstance(exc, PermissionDenied):
        body = problem(403, "forbidden", str(exc) or _("You may see this, but not do this."))
    elif isinstance(exc, DjangoValidationError):
        body = InvalidValues(model_errors(exc)).as_dict()
    elif isinstance(exc, exceptions.ValidationError):
        body = InvalidValues(field_errors(exc.detail)).as_dict()
    elif isinstance(exc, exceptions.APIException):
        code = exc.get_codes()
        hint = getattr(exc, "hint", "")
        if exc.status_code == 401:
            hint = hint or _("Sign in, or send credentials that are valid.")
        body = problem(exc.status_code, code if isinstance(code, str) else "error", str(exc.detail), hint=hint)
        if challenge := getattr(exc, "auth_header", None):
            headers["WWW-Authenticate"] = challenge
        if wait := getattr(exc, "wait", None):
            headers["Retry-After"] = str(int(wait) + 1)
    elif isinstance(exc, IntegrityError):
        # Two requests at once passed the checks and only the database could tell; logged, lest it hide a bug.
        logger.warning("A write was refused by the database", exc_info=exc)
        hint = _("Read it again and repeat the change.")
        body = problem(409, "conflict", _("This collides with another change made at the same moment."), hint=hint)
    else:
        return None
    set_rollback()
    return Response(body, status=body["status"], headers=headers, content_type=CONTENT_TYPE)

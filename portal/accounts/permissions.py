"""The one place that answers "may this person?".

Everything a request does is settled here, for pages, API, WebSockets and commands alike:

- a route names the least role that may use it (`allow`, or `public`); a route that names none is
  refused by `middleware.DenyByDefault` and fails `manage.py check`;
- a thing is looked up with `find`, which answers 404 for what a person may not see and 403 for
  what they may see but not do.

The table is SPEC's: viewers see, users also make, run and change their own, admins do everything.
"""

import enum
from collections.abc import Callable
from typing import Any, TypeVar

from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ObjectDoesNotExist, PermissionDenied, ValidationError
from django.db import models
from django.http import Http404
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from portal.accounts.audit import refusals
from portal.accounts.models import AccessGrant, AccessList, Role, User, Visibility

V = TypeVar("V", bound=Callable[..., Any])
M = TypeVar("M", bound=models.Model)

PUBLIC = "public"
OWNER = "owner"
NOT_ALLOWED = gettext_lazy("You may see this, but not do this. Ask its owner or an admin.")


class Action(enum.Enum):
    """What a person may want to do with a thing that has an access list."""

    SEE = "see"
    RUN = "run"
    CHANGE = "change"
    DELETE = "delete"
    SHARE = "share"
    STOP = "stop"
    ANSWER = "answer"


def allow(role: Role) -> Callable[[V], V]:
    """Declare the least role that may use a view."""

    def declare(view: V) -> V:
        view.portal_access = role  # type: ignore[attr-defined]
        return view

    return declare


def public(view: V) -> V:
    """Declare that a view needs no sign-in."""
    view.portal_access = PUBLIC  # type: ignore[attr-defined]
    return view


def person(request: Any) -> User:
    """Who asks; the role that the view declares has made sure that it is somebody."""
    assert isinstance(request.user, User)  # noqa: S101 - tells the type checker
    return request.user


def can(user: User | AnonymousUser, action: Action, thing: Any) -> bool:
    """Whether `user` may do `action` with `thing`, a row that points to an access list."""
    return _allows(user, action, _level(user, thing))


def _level(user: User | AnonymousUser, thing: Any) -> str:
    """What a person is to a thing: its owner (or an admin), an editor, a viewer, or nobody to it (""). One query."""
    if not isinstance(user, User) or not user.is_active:
        return ""
    level = level_without_grant(user, thing.access)
    if level == OWNER:
        return level
    grant = AccessGrant.objects.filter(access=thing.access, user=user).values_list("level", flat=True).first()
    return grant or level


def level_without_grant(user: User, access: AccessList) -> str:
    """What an active person is to what `access` guards, if nobody gave them more."""
    if user.has_role(Role.ADMIN) or access.owner_id == user.pk:
        return OWNER
    return AccessGrant.Level.VIEWER if access.visibility == Visibility.SHARED else ""


def _allows(user: User | AnonymousUser, action: Action, level: str) -> bool:
    if not level or not isinstance(user, User):
        return False
    if action is Action.SEE:
        return True
    if not user.has_role(Role.USER):
        return False
    if action is Action.RUN:
        return True
    if action in {Action.CHANGE, Action.STOP, Action.ANSWER}:
        return level in {OWNER, AccessGrant.Level.EDITOR}
    return level == OWNER


def find(queryset: models.QuerySet[M], user: User | AnonymousUser, action: Action, **lookup: Any) -> M:
    """The one row of `queryset` that matches, if `user` may do `action` with it. One query for its owner.

    Raises `Http404` for what they may not see, `PermissionDenied` for what they may see but not do.
    """
    try:
        thing = queryset.select_related("access__owner").get(**lookup)
    except (ObjectDoesNotExist, ValidationError, ValueError) as exc:
        raise Http404 from exc
    level = _level(user, thing)
    if not _allows(user, action, level):
        refusals.about(thing)
    if not _allows(user, Action.SEE, level):
        raise Http404
    if not _allows(user, action, level):
        raise PermissionDenied(NOT_ALLOWED)
    return thing


def require(user: User | AnonymousUser, action: Action, thing: Any) -> None:
    """Raise `PermissionDenied` unless `user` may do `action` with `thing`."""
    if not can(user, action, thing):
        refusals.about(thing)
        raise PermissionDenied(NOT_ALLOWED)


def require_role(user: User | AnonymousUser, role: Role) -> None:
    """Raise `PermissionDenied` unless the person's role is `role` or above."""
    if not (isinstance(user, User) and user.has_role(role)):
        raise PermissionDenied(_("This needs the role “%(role)s”. Ask an admin.") % {"role": role.label})

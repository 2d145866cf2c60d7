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

from portal.accounts.models import AccessGrant, Role, User, Visibility

V = TypeVar("V", bound=Callable[..., Any])
M = TypeVar("M", bound=models.Model)

PUBLIC = "public"


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


def can(user: User | AnonymousUser, action: Action, thing: Any) -> bool:
    """Whether `user` may do `action` with `thing`, a row that points to an access list."""
    if not isinstance(user, User) or not user.is_active:
        return False
    if user.has_role(Role.ADMIN):
        return True
    access = thing.access
    level = "owner" if access.owner_id == user.pk else None
    if level is None:
        grant = AccessGrant.objects.filter(access=access, user=user).values_list("level", flat=True).first()
        level = grant or ("shared" if access.visibility == Visibility.SHARED else None)
    if level is None:
        return False
    if action is Action.SEE:
        return True
    if not user.has_role(Role.USER):
        return False
    if action is Action.RUN:
        return True
    if action in {Action.CHANGE, Action.STOP, Action.ANSWER}:
        return level in {"owner", "editor"}
    return level == "owner"


def find(queryset: models.QuerySet[M], user: User | AnonymousUser, action: Action, **lookup: Any) -> M:
    """The one row of `queryset` that matches, if `user` may do `action` with it.

    `queryset` needs `visible_to`. Raises `Http404` for what they may not see, `PermissionDenied`
    for what they may see but not do.
    """
    try:
        thing = queryset.visible_to(user).select_related("access__owner").get(**lookup)  # type: ignore[attr-defined]
    except (ObjectDoesNotExist, ValidationError, ValueError) as exc:
        raise Http404 from exc
    require(user, action, thing)
    return thing


def require(user: User | AnonymousUser, action: Action, thing: Any) -> None:
    """Raise `PermissionDenied` unless `user` may do `action` with `thing`."""
    if not can(user, action, thing):
        raise PermissionDenied(_("You may see this, but not do this. Ask its owner or an admin."))


def require_role(user: User | AnonymousUser, role: Role) -> None:
    """Raise `PermissionDenied` unless the person's role is `role` or above."""
    if not (isinstance(user, User) and user.has_role(role)):
        raise PermissionDenied(_("This needs the role “%(role)s”. Ask an admin.") % {"role": role.label})

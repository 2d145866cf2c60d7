"""Who may do what: SPEC's table for one thing, for lists, and for routes that declare nothing."""

import pytest
from channels.generic.websocket import AsyncWebsocketConsumer
from django.contrib.auth.models import AnonymousUser
from django.core.checks import Error
from django.core.exceptions import PermissionDenied
from django.core.management import CommandError
from django.http import Http404, HttpResponse
from django.test import RequestFactory
from django.urls import get_resolver
from rest_framework.authentication import BasicAuthentication
from rest_framework.permissions import AllowAny
from rest_framework.views import APIView

from crews.models import Crew
from portal.accounts.middleware import DenyByDefault
from portal.accounts.models import AccessGrant, Role, Scope, User
from portal.accounts.permissions import Action, allow, can, find, public
from portal.site.checks import every_route_declares_its_access, faults, walk
from portal.site.management.commands.web import refuse_open_doors
from tests.factories.accounts import UserFactory
from tests.factories.crews import CrewFactory

ALL = set(Action)
# What each person may do with a crew of somebody else, by how they stand to it.
EXPECTED = {
    "owner": ALL,
    "admin": ALL,
    "editor": {Action.SEE, Action.RUN, Action.CHANGE, Action.STOP, Action.ANSWER},
    "granted viewer": {Action.SEE, Action.RUN},
    "user, shared": {Action.SEE, Action.RUN},
    "user, private": set(),
    "viewer, shared": {Action.SEE},
    "viewer who owns": {Action.SEE},
    "viewer as editor": {Action.SEE},
    "switched off": set(),
    "stranger, shared": set(),
}


def person_and_crew(who: str) -> tuple[User | AnonymousUser, Crew]:
    crew = CrewFactory(shared=True) if "shared" in who else CrewFactory()
    if who == "owner":
        return crew.owner, crew
    if who == "admin":
        return UserFactory(admin=True), crew
    if who == "viewer who owns":
        crew.owner.role = Role.VIEWER
        crew.owner.save()
        return crew.owner, crew
    if who == "switched off":
        crew.owner.is_active = False
        return crew.owner, crew
    if who.startswith("stranger"):
        return AnonymousUser(), crew
    user = UserFactory(viewer=True) if who.startswith("viewer") else UserFactory()
    if "editor" in who:
        AccessGrant.objects.create(access=crew.access, user=user, level=AccessGrant.Level.EDITOR)
    elif who == "granted viewer":
        AccessGrant.objects.create(access=crew.access, user=user, level=AccessGrant.Level.VIEWER)
    return user, crew


@pytest.mark.django_db
@pytest.mark.parametrize("who", EXPECTED)
def test_what_a_person_may_do_with_a_thing(who: str) -> None:
    user, crew = person_and_crew(who)
    assert {action for action in Action if can(user, action, crew)} == EXPECTED[who]


@pytest.mark.django_db
@pytest.mark.parametrize("who", EXPECTED)
def test_lists_agree_with_single_things(who: str) -> None:
    user, crew = person_and_crew(who)
    CrewFactory()  # of somebody else, never in sight
    seen = set(Crew.objects.visible_to(user)) - (set(Crew.objects.exclude(pk=crew.pk)) if who == "admin" else set())
    assert seen == ({crew} if Action.SEE in EXPECTED[who] else set())
    assert (crew in Crew.objects.editable_by(user)) == (Action.CHANGE in EXPECTED[who])


@pytest.mark.django_db
@pytest.mark.parametrize("who", EXPECTED)
def test_a_list_is_one_query(who: str, django_assert_max_num_queries: object) -> None:
    user, _ = person_and_crew(who)
    with django_assert_max_num_queries(1):  # type: ignore[operator]
        list(Crew.objects.visible_to(user))


@pytest.mark.django_db
def test_what_may_not_be_seen_is_not_found_and_what_may_not_be_done_is_forbidden() -> None:
    shared, private = CrewFactory(shared=True), CrewFactory()
    user = UserFactory()
    assert find(Crew.objects.all(), user, Action.RUN, pk=shared.pk) == shared
    with pytest.raises(PermissionDenied):
        find(Crew.objects.all(), user, Action.CHANGE, pk=shared.pk)
    for pk in (private.pk, "00000000-0000-0000-0000-000000000000", "no id at all"):
        with pytest.raises(Http404):
            find(Crew.objects.all(), user, Action.SEE, pk=pk)


@pytest.mark.parametrize(
    ("role", "least", "may"),
    [
        (Role.VIEWER, Role.VIEWER, True),
        (Role.VIEWER, Role.USER, False),
        (Role.USER, Role.VIEWER, True),
        (Role.USER, Role.ADMIN, False),
        (Role.ADMIN, Role.USER, True),
    ],
)
def test_roles_contain_those_below(role: Role, least: Role, may: bool) -> None:
    assert User(role=role).has_role(least) is may
    assert not User(role=role, is_active=False).has_role(least)


# --- Routes -------------------------------------------------------------------------------------------


def test_every_route_of_the_site_declares_who_may_use_it() -> None:
    routes = list(walk(get_resolver()))
    assert len(routes) > 30
    assert every_route_declares_its_access() == []


class _Declared(APIView):
    read_role, write_role = Role.VIEWER, Role.USER


class _WithoutWriting(APIView):
    read_role = Role.VIEWER


class _Text(_Declared):
    write_role = "admin"  # a text is no role


class _WrongScope(_Declared):
    write_scope = "run"


class _UnknownAction(_Declared):
    action_scopes = {"kick_off": Scope.RUN}


class _OtherDoor(_Declared):
    authentication_classes = [BasicAuthentication]


class _NoDoor(_Declared):
    permission_classes = [AllowAny]


class _Socket(AsyncWebsocketConsumer):
    pass


def test_a_route_that_declares_nothing_or_nonsense_is_named() -> None:
    assert not list(faults(_Declared.as_view()))
    wrong = {
        "a page": lambda request: HttpResponse(),
        "an API view": APIView.as_view(),
        "one that does not say who writes": _WithoutWriting.as_view(),
        "a role that is a text": _Text.as_view(),
        "a scope that is a text": _WrongScope.as_view(),
        "an action that is not there": _UnknownAction.as_view(),
        "another way in": _OtherDoor.as_view(),
        "another way in, by the route": _Declared.as_view(authentication_classes=[BasicAuthentication]),
        "nobody looks": _NoDoor.as_view(),
        "a socket": _Socket.as_asgi(),
    }
    assert [what for what, view in wrong.items() if not list(faults(view))] == []


def test_nothing_is_served_with_an_open_door() -> None:
    refuse_open_doors([])
    with pytest.raises(CommandError, match="The route /x declares no permission"):
        refuse_open_doors([Error("The route /x declares no permission.")])


def refuse(view: object, user: User | AnonymousUser, **headers: str) -> object:
    request = RequestFactory().get("/crews", headers=headers)
    request.user = user
    request.resolver_match = None
    return DenyByDefault(lambda _: HttpResponse()).process_view(request, view, (), {})


def test_a_view_that_declares_nothing_is_reached_by_nobody() -> None:
    with pytest.raises(PermissionDenied, match="declares no permission"):
        refuse(lambda request: HttpResponse(), User(role=Role.ADMIN))


def test_declared_views_let_their_people_through() -> None:
    view = allow(Role.USER)(lambda request: HttpResponse())
    assert refuse(view, User(role=Role.USER)) is None
    with pytest.raises(PermissionDenied):
        refuse(view, User(role=Role.VIEWER))
    assert refuse(public(lambda request: HttpResponse()), AnonymousUser()) is None


def test_a_stranger_is_led_to_the_sign_in_page_and_back() -> None:
    view = allow(Role.VIEWER)(lambda request: HttpResponse())
    answer = refuse(view, AnonymousUser())
    assert (answer.status_code, answer.headers["Location"]) == (302, "/sign-in?next=/crews")  # type: ignore[attr-defined]
    fragment = refuse(view, AnonymousUser(), HX_Request="true")
    assert fragment.headers["HX-Redirect"] == "/sign-in"  # type: ignore[attr-defined]

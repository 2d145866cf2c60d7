"""Errors leave in one form, whoever raised them; lists in one form, whatever they hold."""

import pytest
from django.core.exceptions import PermissionDenied
from django.core.exceptions import ValidationError as DjangoValidationError
from django.http import Http404
from django.test import Client
from rest_framework import exceptions
from rest_framework.serializers import CharField, ListSerializer, Serializer

from portal.lib.problems import CONTENT_TYPE, Conflict, FieldError, Problem, exception_handler
from tests.factories.accounts import UserFactory
from tests.factories.crews import CrewFactory


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Problem("It is wrong."), 400, "invalid"),
        (Problem("Not like this.", status=422, code="odd"), 422, "odd"),
        (Conflict("Not now."), 409, "conflict"),
        (Http404(), 404, "not_found"),
        (PermissionDenied("No."), 403, "forbidden"),
        (DjangoValidationError("Wrong."), 400, "invalid"),
        (exceptions.ValidationError({"name": ["Too long."]}), 400, "invalid"),
        (exceptions.NotAuthenticated(), 401, "not_authenticated"),
        (exceptions.MethodNotAllowed("PUT"), 405, "method_not_allowed"),
        (exceptions.Throttled(wait=3), 429, "throttled"),
    ],
)
def test_every_error_becomes_a_problem_document(error: Exception, status: int, code: str) -> None:
    answer = exception_handler(error, {})
    assert answer is not None
    assert (answer.status_code, answer.data["status"], answer.data["code"]) == (status, status, code)
    assert {"type", "title", "status", "code", "detail"} <= set(answer.data)
    assert answer.content_type == CONTENT_TYPE


def test_what_is_wrong_is_named_field_by_field() -> None:
    class Item(Serializer):  # type: ignore[type-arg]
        name = CharField(max_length=3)

    class Whole(Serializer):  # type: ignore[type-arg]
        items = ListSerializer(child=Item())

    data = Whole(data={"items": [{"name": "fine"[:3]}, {"name": "too long"}, {}]})
    with pytest.raises(exceptions.ValidationError) as raised:
        data.is_valid(raise_exception=True)
    answer = exception_handler(raised.value, {})
    assert answer is not None
    assert [(error["field"], error["code"]) for error in answer.data["errors"]] == [
        ("items.1.name", "max_length"),
        ("items.2.name", "required"),
    ]


def test_a_problem_says_what_to_do() -> None:
    found = Problem("No.", hint="Do this.", errors=[FieldError("a", "b", "c")]).as_dict()
    assert (found["hint"], found["errors"]) == ("Do this.", [{"field": "a", "code": "b", "detail": "c"}])
    assert not {"hint", "errors"} & set(Problem("No.").as_dict())


@pytest.mark.django_db
def test_every_crew_is_listed_once_however_small_the_page(client: Client) -> None:
    user = UserFactory(admin=True)
    crews = {str(CrewFactory(name="The same name").pk) for _ in range(7)}
    client.force_login(user)
    seen: list[str] = []
    address = "/api/crews?page_size=2&ordering=name&count=1"
    while address:
        page = client.get(address).json()
        assert page["count"] == len(crews)
        seen += [crew["id"] for crew in page["results"]]
        address = page["next"]
    assert len(seen) == len(set(seen))
    assert set(seen) == crews


@pytest.mark.django_db
def test_paths_answer_with_and_without_a_slash_and_never_by_redirect(client: Client) -> None:
    client.force_login(UserFactory())
    for path in ("/api/crews", "/api/crews/", "/crews", "/crews/", "/runs/"):
        assert client.get(path).status_code == 200, path
    assert "count" not in client.get("/api/crews").json()

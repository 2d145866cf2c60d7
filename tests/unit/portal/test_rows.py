"""Rows written with prepared statements are those that the ORM would have written."""

import uuid
from decimal import Decimal

import pytest
from django.utils import timezone

from executions.models import EventStream, ExecutionEvent, LLMCall, ToolCall
from portal.lib import rows
from tests.factories.executions import ExecutionFactory, StreamFactory

pytestmark = pytest.mark.django_db


def test_a_row_is_stored_as_the_orm_stores_it() -> None:
    execution = ExecutionFactory()
    call = LLMCall(
        call_id=uuid.uuid4(), execution=execution, user=execution.created_by, model="m", provider="100 % own",
        cost_usd=Decimal("0.00001234"), text="안녕 'x'", opened_at=timezone.now(),
    )  # fmt: skip
    rows.insert([call])
    stored = LLMCall.objects.get(pk=call.pk)
    assert {f.attname: getattr(stored, f.attname) for f in LLMCall._meta.concrete_fields} == {
        f.attname: getattr(call, f.attname) for f in LLMCall._meta.concrete_fields
    }
    call.text = "changed"
    call.save()
    assert LLMCall.objects.count() == 1


def test_json_and_several_rows() -> None:
    stream = StreamFactory()
    made = [
        ExecutionEvent(stream=stream, seq=n, type="log", at=timezone.now(), data={"n": n, "s": "%s 한"}) for n in (1, 2)
    ]
    rows.insert(made)
    assert [event.data for event in ExecutionEvent.objects.all()] == [event.data for event in made]
    assert list(ExecutionEvent.objects.filter(data__n=2).values_list("seq", flat=True)) == [2]
    rows.insert([])


def test_a_key_of_its_own_is_kept() -> None:
    stream = EventStream()
    rows.insert([stream])
    assert EventStream.objects.get() == stream


def test_an_update_changes_what_the_condition_picks_and_counts_it() -> None:
    made = [ToolCall(tool=name, at=timezone.now()) for name in ("a", "b")]
    rows.insert(made)
    changes = {"arguments": {"x": [1]}, "is_ok": True}
    assert rows.update(ToolCall, changes, "tool = %s", ["a"]) == 1
    assert list(ToolCall.objects.order_by("tool").values_list("is_ok", "arguments")) == [
        (True, {"x": [1]}),
        (False, {}),
    ]
    assert rows.update(ToolCall, changes, "tool = %s", ["c"]) == 0

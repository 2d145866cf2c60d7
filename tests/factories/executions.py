"""Executions, and what hangs on them."""

import uuid
from datetime import timedelta
from typing import Any

import factory
from django.utils import timezone
from factory.django import DjangoModelFactory

from executions.errors import ErrorCode, Failure
from executions.models import Approval, EventStream, Execution, LLMCall, TaskRun
from executions.status import Status
from tests.factories.accounts import AccessListFactory

LEASE = timedelta(minutes=5)


class StreamFactory(DjangoModelFactory):
    class Meta:
        model = EventStream


class ExecutionFactory(DjangoModelFactory):
    """A pending execution without a crew; its stream has the same id, as kickoff makes it."""

    class Meta:
        model = Execution

    id = factory.LazyFunction(uuid.uuid4)
    stream = factory.SubFactory(StreamFactory, id=factory.SelfAttribute("..id"))
    access = factory.SubFactory(AccessListFactory)
    created_by = factory.SelfAttribute("access.owner")
    name = factory.Sequence(lambda n: f"Crew {n}")
    engine = "crewai"
    snapshot = factory.LazyFunction(dict)


class TaskRunFactory(DjangoModelFactory):
    class Meta:
        model = TaskRun

    execution = factory.SubFactory(ExecutionFactory)
    task = factory.LazyFunction(lambda: str(uuid.uuid4()))
    name = factory.Sequence(lambda n: f"Task {n}")
    position = factory.Sequence(lambda n: n)


class ApprovalFactory(DjangoModelFactory):
    """An open question about a task of an execution."""

    class Meta:
        model = Approval

    execution = factory.SubFactory(ExecutionFactory)
    task = factory.LazyFunction(lambda: str(uuid.uuid4()))
    name = factory.Sequence(lambda n: f"Task {n}")
    output = "A draft."
    requested_at = factory.LazyFunction(timezone.now)


class LLMCallFactory(DjangoModelFactory):
    """An open request to a model."""

    class Meta:
        model = LLMCall

    execution = factory.SubFactory(ExecutionFactory)
    model = "fake"
    provider = "Fake"
    opened_at = factory.LazyFunction(timezone.now)


def execution_in(status: Status, **fields: Any) -> Execution:
    """An execution that came to `status` by the moves the model permits, where there are such moves."""
    execution = ExecutionFactory(**fields)
    if status == Status.PENDING:
        return execution
    execution.start(worker="machine", lease=LEASE)
    if status == Status.COMPLETED:
        execution.complete("The result.")
    elif status == Status.FAILED:
        execution.fail(Failure(ErrorCode.INTERNAL))
    elif status == Status.STOPPED:
        execution.stop()
    elif status == Status.PAUSED:
        execution.request_pause(by=execution.created_by)
        execution.pause()
    elif status == Status.WAITING:
        ApprovalFactory(execution=execution, attempt=execution.attempt)
        execution.wait_for_people()
    return execution

"""Starting a run, and removing what is left of one."""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from crews import validation
from crews.inputs import InputFile
from crews.models import Crew, LLMModel
from executions import budgets, events, workspace
from executions.models import EventStream, Execution, RoleModel, TaskRun
from executions.snapshot import Snapshot, freeze
from executions.tasks import ring_soon
from portal.accounts.models import AccessList, User
from portal.lib import rows
from portal.lib.problems import Conflict

IDEMPOTENCY_KEPT = timedelta(hours=24)


def inputs_folder(execution_id: uuid.UUID) -> Path:
    """Where the files that a run was started with are kept: one folder an input."""
    return Path(settings.MEDIA_ROOT) / "executions" / str(execution_id)


@contextmanager
def kept_files(execution_id: uuid.UUID, files: Mapping[str, InputFile]) -> Iterator[None]:
    """Keep the files that a run is started with, unless what follows fails."""
    folder = inputs_folder(execution_id)
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        for field, file in files.items():
            (folder / field).mkdir(parents=True)
            (folder / field / file.name).write_bytes(file.content)
        yield
        undo.pop_all()


def kept_file(execution: Execution, field: str) -> InputFile | None:
    """The file that a run was started with as its input `field`; None when there was none."""
    name = execution.inputs.get(field)
    path = inputs_folder(execution.pk) / field / str(name)
    return InputFile(str(name), path.read_bytes()) if name and path.is_file() else None


def kickoff(
    *,
    crew: Crew,
    inputs: Mapping[str, Any],
    by: User,
    model: LLMModel | None = None,
    priority: int = 5,
    budget_usd: Decimal | None = None,
    budget_tokens: int | None = None,
    trigger: str = Execution.Trigger.MANUAL,
    idempotency_key: str = "",
) -> Execution:
    """Start a run: freeze the crew, queue the execution, and ring for a runner once it is stored.

    `inputs` are raw values by field name; `model` takes every role's place; `priority` 1 to 9, 9
    first; `budget_usd` and `budget_tokens` limit what the run may use. With an `idempotency_key` that
    this person used in the last 24 hours, the run of that time comes back instead.

    Raises `validation.CrewNotRunnable` and `validation.InvalidInputs`, which name what is wrong
    before anything is stored, `budgets.ModelUnpriced` for a model without a price under a budget of
    money, and `Conflict` when the key came with other values before.
    """
    request_hash = hash_of(crew.pk, dict(inputs), model, priority, budget_usd, budget_tokens) if idempotency_key else ""
    if idempotency_key and (earlier := started_with(by, idempotency_key, request_hash)):
        return earlier
    crew = validation.require_runnable(crew, model=model)
    cleaned = validation.clean_inputs(crew, inputs)
    snapshot = freeze(crew, cleaned.values, model)
    budgets.require_priced(user=by, models=[role.llm_model for role in snapshot.roles], budget_usd=budget_usd)
    execution_id = uuid.uuid4()
    try:
        with kept_files(execution_id, cleaned.files), transaction.atomic():
            stream, access = EventStream(id=execution_id), AccessList(owner=by)
            rows.insert([stream])
            rows.insert([access])
            now = timezone.now()
            execution = Execution(
                id=execution_id,
                stream=stream,
                access=access,
                crew=crew,
                name=crew.name,
                engine=crew.engine,
                inputs=cleaned.values,
                snapshot=snapshot.as_json(),
                priority=priority,
                trigger=trigger,
                created_by=by,
                idempotency_key=idempotency_key,
                request_hash=request_hash,
                budget_usd=budget_usd,
                budget_tokens=budget_tokens,
                max_llm_calls=crew.max_llm_calls,
                created_at=now,
                queue_rank=Execution.rank(priority, now),
            )
            rows.insert([execution])
            _lay_out(execution, snapshot)
            queued = {"name": crew.name, "priority": priority, "trigger": trigger}
            events.append(execution_id, [events.NewEvent("execution.queued", data=queued)])
            transaction.on_commit(ring_soon)
    except IntegrityError:
        # The same key came twice at once: the other request won.
        if idempotency_key and (earlier := started_with(by, idempotency_key, request_hash)):
            return earlier
        raise
    return execution


def _lay_out(execution: Execution, snapshot: Snapshot) -> None:
    roles = {role.key: role.name for role in snapshot.roles}
    rows.insert(
        [
            TaskRun(
                execution=execution,
                task=task["key"],
                name=task["name"],
                role=roles.get(task["agent"] or "", ""),
                position=position,
            )
            for position, task in enumerate(snapshot.spec["tasks"])
        ]
    )
    rows.insert(
        [
            RoleModel(execution=execution, key=role.key, role=role.name, llm_model=role.llm_model)
            for role in snapshot.roles
        ]
    )


def hash_of(*request: Any) -> str:
    """What tells two requests of one idempotency key apart."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()


def started_with(by: User, key: str, request_hash: str) -> Execution | None:
    """The run that this key started in the last 24 hours; an older key is free again.

    Raises `Conflict` when the key came with another request.
    """
    earlier = Execution.objects.filter(created_by=by, idempotency_key=key).first()
    if earlier is None:
        return None
    if earlier.created_at < timezone.now() - IDEMPOTENCY_KEPT:
        Execution.objects.filter(pk=earlier.pk).update(idempotency_key="")
        return None
    if earlier.request_hash != request_hash:
        raise Conflict(
            "This Idempotency-Key was used with other values.",
            code="idempotency_conflict",
            hint="Send the same body again, or choose a new key.",
        )
    return earlier


def delete(*, execution: Execution) -> None:
    """Delete a run and its content; what it used stays in the ledger.

    Raises `Conflict` while it is active.
    """
    if execution.is_active:
        raise Conflict("This run is still active.", code="run_active", hint="Stop it first, then delete it.")
    execution_id, stream, access = execution.pk, execution.stream, execution.access
    with transaction.atomic():
        execution.delete()
        stream.delete()
        if not Execution.objects.filter(access=access).exists():
            access.delete()
    shutil.rmtree(inputs_folder(execution_id), ignore_errors=True)
    shutil.rmtree(Path(settings.RUNS_DIR) / str(execution_id), ignore_errors=True)
    workspace.forget(execution_id)

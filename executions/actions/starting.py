"""Starting a run, and removing what is left of one."""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError
from django.utils import timezone

from crews import validation
from crews.inputs import InputFile
from crews.models import Crew, LLMModel
from executions import budgets, events, hooks, workspace
from executions.models import EventStream, Execution, RoleModel, TaskRun
from executions.snapshot import Snapshot, freeze
from executions.tasks import ring_soon
from portal.accounts import audit
from portal.accounts.models import AccessList, User
from portal.lib import rows
from portal.lib.problems import Conflict

IDEMPOTENCY_KEPT = timedelta(hours=24)
MAX_LLM_CALLS = 200  # of a run whose starter sets no other limit


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
    api_key_id: uuid.UUID | None = None,
) -> Execution:
    """Start a run of a crew: freeze it, and `launch` what came of it.

    `inputs` are raw values by field name; `model` takes every role's place; the others are as in `launch`.
    With an `idempotency_key` that this person used in the last 24 hours, the run of that time comes back instead.

    Raises `validation.CrewNotRunnable` and `validation.InvalidInputs`, which name what is wrong
    before anything is stored, and what `launch` raises.
    """
    request_hash = hash_of(crew.pk, dict(inputs), model, priority, budget_usd, budget_tokens) if idempotency_key else ""
    if idempotency_key and (earlier := started_with(by, idempotency_key, request_hash)):
        return earlier
    crew = validation.require_runnable(crew, model=model)
    cleaned = validation.clean_inputs(crew, inputs)
    return launch(
        snapshot=freeze(crew, cleaned.values, model),
        name=crew.name,
        engine=crew.engine,
        by=by,
        crew=crew,
        inputs=cleaned.values,
        priority=priority,
        budget_usd=budget_usd,
        budget_tokens=budget_tokens,
        trigger=trigger,
        api_key_id=api_key_id,
        max_llm_calls=crew.max_llm_calls,
        idempotency_key=idempotency_key,
        request_hash=request_hash,
        files=cleaned.files,
        told={"model": model.pk} if model else None,
    )


def launch(
    *,
    snapshot: Snapshot,
    name: str,
    engine: str,
    by: User,
    trigger: str,
    access: AccessList | None = None,
    crew: Crew | None = None,
    inputs: Mapping[str, Any] | None = None,
    priority: int = 5,
    budget_usd: Decimal | None = None,
    budget_tokens: int | None = None,
    api_key_id: uuid.UUID | None = None,
    max_llm_calls: int = MAX_LLM_CALLS,
    idempotency_key: str = "",
    request_hash: str = "",
    files: Mapping[str, InputFile] | None = None,
    told: Mapping[str, Any] | None = None,
) -> Execution:
    """Store a frozen run, queue it, and ring for a runner once it is stored; also within a transaction of the caller's.

    `access` is what guards it beside other things, instead of a list of its own that belongs to `by`; `inputs` are
    clean values, and `files` those of them that are files; `priority` 1 to 9, 9 first; `budget_usd` and
    `budget_tokens` limit what the run may use; `api_key_id` is the key that it is started with, which it is
    counted to; `told` is what the audit log says beside the rest. With an `idempotency_key` that came at the same
    time with the same `request_hash`, the run of the other request comes back.

    Raises `budgets.ModelUnpriced` for a model without a price under a budget of money, and `Conflict` when
    the key came with other values before.
    """
    budgets.require_priced(
        user=by,
        models=[role.llm_model for role in snapshot.roles],
        budget_usd=budget_usd,
        api_key=api_key_id,
        access=access.pk if access else None,
    )
    execution_id = uuid.uuid4()
    try:
        with kept_files(execution_id, files or {}), transaction.atomic():
            stream = EventStream(id=execution_id)
            rows.insert([stream])
            if access is None:
                access = AccessList(owner=by)
                rows.insert([access])
            now = timezone.now()
            execution = Execution(
                id=execution_id,
                stream=stream,
                access=access,
                crew=crew,
                name=name,
                engine=engine,
                inputs=dict(inputs or {}),
                snapshot=snapshot.as_json(),
                priority=priority,
                trigger=trigger,
                created_by=by,
                api_key_id=api_key_id,
                idempotency_key=idempotency_key,
                request_hash=request_hash,
                budget_usd=budget_usd,
                budget_tokens=budget_tokens,
                max_llm_calls=max_llm_calls,
                created_at=now,
                queue_rank=Execution.rank(priority, now),
            )
            rows.insert([execution])
            _lay_out(execution, snapshot)
            queued = {"name": name, "priority": priority, "trigger": trigger}
            events.append(execution_id, [events.NewEvent("execution.queued", data=queued)])
            audit.record("execution.started", by=by, target=execution, after={**_told(execution), **(told or {})})
            transaction.on_commit(ring_soon)
    except IntegrityError:
        # The same key came twice at once: the other request won.
        if idempotency_key and (earlier := started_with(by, idempotency_key, request_hash)):
            return earlier
        raise
    return execution


def _told(execution: Execution) -> dict[str, Any]:
    """Of a run that starts, what the audit log says; its inputs stand on the run."""
    told = {
        "crew_id": execution.crew_id,
        "priority": execution.priority,
        "trigger": execution.trigger,
        "budget_usd": execution.budget_usd,
        "budget_tokens": execution.budget_tokens,
    }
    return {name: value for name, value in told.items() if value is not None}


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


def delete(*, execution: Execution, by: User) -> None:
    """Delete a run and its content; what it used stays in the ledger. An access list goes with the last it guards.

    Raises `Conflict` while it is active, or when somebody else still needs it (`executions.hooks`).
    """
    if execution.is_active:
        raise Conflict("This run is still active.", code="run_active", hint="Stop it first, then delete it.")
    hooks.require_deletable(execution)
    execution_id, stream, access = execution.pk, execution.stream, execution.access
    with transaction.atomic():
        told = {"crew_id": execution.crew_id, "status": execution.status, "owner": access.owner.get_username()}
        audit.record("execution.deleted", by=by, target=execution, before=told)
        execution.delete()
        stream.delete()
        with suppress(ProtectedError):  # it guards something else too
            access.delete()
    shutil.rmtree(inputs_folder(execution_id), ignore_errors=True)
    shutil.rmtree(Path(settings.RUNS_DIR) / str(execution_id), ignore_errors=True)
    workspace.forget(execution_id)

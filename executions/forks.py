"""Running a part of a run again, changed: a fork.

A fork is a new execution with a frozen copy of its own. It runs the task that was chosen, whatever
depends on it and whatever had not finished; the outputs of all other tasks are taken over.
"""

import copy
import uuid
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, cast

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from crews.builtin_tools import BUILTIN
from crews.inputs import InputFile, clean_by
from crews.llm_config import validate_llm_config
from crews.models import CrewInput, LLMModel
from crews.placeholders import fill, unknown_names
from executions import budgets, events
from executions.actions.changes import KEPT, Kept, unusable_models
from executions.actions.starting import hash_of, kept_file, kept_files, started_with
from executions.engines import taskgraph
from executions.engines.protocol import RunSpec
from executions.models import EventStream, Execution, JournalEntry, RoleModel, TaskRun
from executions.tasks import ring_soon
from portal.accounts import audit
from portal.accounts.models import AccessList, User
from portal.lib.problems import Conflict, FieldError, InvalidValues

MAX_TEXT = 100_000  # characters of an edited text
MAX_ROLE = 200  # characters of an edited role
TASK_TEXTS = ("description", "expected_output")
AGENT_TEXTS = ("role", "goal", "backstory")
_COPIED_AT_ONCE = 200  # journal entries

Edits = Mapping[str, Mapping[str, Any]]


def runs_again(execution: Execution, task: str, rows: Iterable[TaskRun]) -> set[str]:
    """The tasks (keys) that a fork from `task` runs, as the run's tasks stand in `rows`."""
    spec = cast(RunSpec, execution.snapshot["spec"])
    again = {task, *(row.task for row in rows if row.status != TaskRun.Status.COMPLETED)}
    return again.union(*(taskgraph.dependants(spec, key) for key in again))


def texts(execution: Execution) -> dict[str, dict[str, dict[str, str]]]:
    """The texts of a run that a fork may change, as `{"tasks": {key: {…}}, "agents": {key: {…}}}`.

    `{input}` stands in them for an input, except in runs of an earlier version, whose inputs are filled in.
    """
    if templates := execution.snapshot.get("templates"):
        return cast(dict[str, dict[str, dict[str, str]]], templates)
    spec = execution.snapshot["spec"]
    return {
        "tasks": {task["key"]: {name: task[name] for name in TASK_TEXTS} for task in spec["tasks"]},
        "agents": {agent["key"]: {name: agent[name] for name in AGENT_TEXTS} for agent in spec["agents"]},
    }


def definitions(execution: Execution) -> list[CrewInput]:
    """What a run of this kind asks for, as it was at kickoff; these rows are not stored."""
    return [CrewInput(**fields) for fields in execution.snapshot.get("inputs", [])]


def fork(
    execution: Execution,
    by: User,
    task: str,
    *,
    inputs: Mapping[str, Any] | None = None,
    tasks: Edits | None = None,
    agents: Edits | None = None,
    models: Mapping[str, LLMModel] | None = None,
    model: LLMModel | None = None,
    budget_usd: Decimal | Kept | None = KEPT,
    budget_tokens: int | Kept | None = KEPT,
    priority: int | None = None,
    trigger: str = Execution.Trigger.MANUAL,
    idempotency_key: str = "",
    api_key_id: uuid.UUID | None = None,
) -> Execution:
    """Run `execution` again from its finished task `task` (a key), as a new execution of `by`.

    What may be changed: `inputs` (raw values by name; one that is not named stays), the texts of
    `tasks` that run again (key → description, expected_output), of `agents` (key → role, goal,
    backstory) and their `llm` parameters; texts as templates in which `{input}` is filled in.
    `models` (role or key → model) or `model` for all roles; limits and priority, which are the
    earlier run's unless given; a limit of None is none. It is counted to the key `api_key_id` that it is
    started with, else to the earlier run's, if that is a key of `by`.

    With an `idempotency_key` that this person used in the last 24 hours, the fork of that time comes back.

    Tasks that do not run again keep their texts and outputs, also when an input of theirs changes. In a
    crew that is led, calls of the earlier run that come again in the same words are answered from
    its journal, except those of roles that got another model.

    Raises `Conflict` when `task` has not finished, and `InvalidValues`, `InvalidInputs` and what
    `budgets.require_priced` raises for what cannot be used; nothing is stored then.
    """
    chosen = [(name, llm.pk) for name, llm in sorted((models or {}).items())], model and model.pk
    request_hash = hash_of(execution.pk, task, inputs, tasks, agents, chosen, budget_usd, budget_tokens, priority)
    if idempotency_key and (earlier := started_with(by, idempotency_key, request_hash)):
        return earlier
    snapshot = copy.deepcopy(execution.snapshot)
    rows = {row.task: row for row in execution.task_runs.all()}
    if task not in rows:
        raise InvalidValues([FieldError("task", "unknown_task", _("The run has no such task."))])
    if rows[task].status != TaskRun.Status.COMPLETED:
        raise Conflict(
            _("“%(task)s” has not finished, so nothing can be forked from it.") % {"task": rows[task].name},
            code="task_not_finished",
            hint=_("Choose a finished task, or retry the run."),
        )
    again = runs_again(execution, task, rows.values())
    values, files = _inputs(execution, inputs)
    _edit_texts(execution, snapshot, values, again, tasks or {}, agents or {}, refill=inputs is not None)
    roles = _roles(execution, snapshot, models or {}, model, agents or {})
    budget_usd = execution.budget_usd if budget_usd is KEPT else budget_usd
    key = api_key_id or _own_key(execution, by)
    models_used = [role.llm_model for role in roles]
    budgets.require_priced(user=by, models=models_used, budget_usd=budget_usd, api_key=key)
    execution_id = uuid.uuid4()
    try:
        with kept_files(execution_id, files), transaction.atomic():
            made = Execution.objects.create(
                id=execution_id,
                stream=EventStream.objects.create(id=execution_id),
                access=AccessList.objects.create(owner=by),
                crew=execution.crew,
                name=execution.name,
                engine=execution.engine,
                inputs=values,
                snapshot=snapshot,
                priority=execution.priority if priority is None else priority,
                trigger=trigger,
                created_by=by,
                api_key_id=key,
                budget_usd=budget_usd,
                budget_tokens=execution.budget_tokens if budget_tokens is KEPT else budget_tokens,
                max_llm_calls=execution.max_llm_calls,
                max_attempts=execution.max_attempts,
                idempotency_key=idempotency_key,
                request_hash=request_hash if idempotency_key else "",
                forked_from=execution,
                forked_task=task,
            )
            for role in roles:
                role.execution = made
            RoleModel.objects.bulk_create(roles)
            TaskRun.objects.bulk_create(_task_runs(made, rows.values(), again, roles))
            if snapshot["spec"]["process"] == "hierarchical":
                _copy_journal(execution, made, again, roles)
            data = {
                "name": made.name,
                "priority": made.priority,
                "trigger": trigger,
                "forked_from": str(execution.pk),
                "forked_task": task,
                "inherited": [key for key in rows if key not in again],
            }
            events.append(execution_id, [events.NewEvent("execution.queued", data=data)])
            told = {"forked_from": execution.pk, "task": task, "trigger": trigger}
            audit.record("execution.forked", by=by, target=made, after=told)
            ring_soon()
    except IntegrityError:
        # The same key came twice at once: the other request won.
        if idempotency_key and (earlier := started_with(by, idempotency_key, request_hash)):
            return earlier
        raise
    return made


def _own_key(execution: Execution, by: User) -> uuid.UUID | None:
    """The key that the earlier run is counted to, unless it is somebody else's."""
    key = execution.api_key
    return key.pk if key is not None and key.user_id == by.pk else None


def _inputs(execution: Execution, given: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, InputFile]]:
    """The inputs of the fork, and its files."""
    known = definitions(execution)
    earlier = dict(execution.inputs)
    for definition in known:
        if definition.field_type == CrewInput.Type.FILE:
            earlier[definition.field_name] = kept_file(execution, definition.field_name)
    if given is None:
        return execution.inputs, {name: value for name, value in earlier.items() if isinstance(value, InputFile)}
    if "inputs" not in execution.snapshot:
        raise Conflict(
            _("This run was started by an earlier version, which did not keep what other inputs need."),
            code="inputs_not_kept",
            hint=_("Fork it with the inputs it has, or start a new run."),
        )
    # A form sends an empty field for a file that is to stay.
    named = {name: value for name, value in given.items() if value or not isinstance(earlier.get(name), InputFile)}
    cleaned = clean_by(known, {**earlier, **named})
    return cleaned.values, cleaned.files


def _edit_texts(
    execution: Execution,
    snapshot: dict[str, Any],
    values: Mapping[str, Any],
    again: set[str],
    tasks: Edits,
    agents: Edits,
    *,
    refill: bool,
) -> None:
    """Put the edits into the snapshot's templates and, filled in, into its spec. Raises `InvalidValues`."""
    templates = snapshot["templates"] = copy.deepcopy(texts(execution))
    inputs = {definition.field_name for definition in definitions(execution)}
    spec = snapshot["spec"]
    by_key: dict[str, dict[str, Any]] = {
        "tasks": {task["key"]: task for task in spec["tasks"]},
        "agents": {agent["key"]: agent for agent in spec["agents"]},
    }
    errors = [
        FieldError(f"tasks.{key}", "not_run_again", _("This task does not run again: it keeps its texts."))
        for key in tasks
        if key in by_key["tasks"] and key not in again
    ]
    for kind, edits, fields in (("tasks", tasks, TASK_TEXTS), ("agents", agents, AGENT_TEXTS)):
        for key, edit in edits.items():
            if key not in by_key[kind]:
                errors.append(FieldError(f"{kind}.{key}", "unknown", _("The run has no such part.")))
                continue
            errors += _text_errors(f"{kind}.{key}", edit, fields, inputs)
            templates[kind][key].update({name: edit[name] for name in fields if name in edit})
            if kind == "agents" and "llm" in edit:
                by_key[kind][key]["llm"] = edit["llm"]
    if errors:
        raise InvalidValues(errors)
    for kind, edits in (("tasks", tasks), ("agents", agents)):
        for key, template in templates[kind].items():
            if kind == "tasks" and key not in again:
                continue
            changed = template if refill else edits.get(key, {}).keys() & template.keys()
            by_key[kind][key].update({name: fill(template[name], values) for name in changed})


def _text_errors(field: str, edit: Mapping[str, Any], fields: Iterable[str], inputs: set[str]) -> list[FieldError]:
    """What is wrong with the edits of one task or agent."""
    known = {*fields, *(["llm"] if "role" in fields else [])}
    errors = [
        FieldError(f"{field}.{name}", "unknown", _("This cannot be changed.")) for name in edit if name not in known
    ]
    for name in fields:
        if name not in edit:
            continue
        text, limit = edit[name], MAX_ROLE if name == "role" else MAX_TEXT
        if not isinstance(text, str) or "\x00" in text:
            errors.append(FieldError(f"{field}.{name}", "not_text", _("Give text.")))
        elif not text.strip() and name != "backstory":
            errors.append(FieldError(f"{field}.{name}", "required", _("This may not be empty.")))
        elif len(text) > limit:
            detail = _("At most %(limit)d characters, not %(n)d.") % {"limit": limit, "n": len(text)}
            errors.append(FieldError(f"{field}.{name}", "too_long", detail))
        else:
            errors += unknown_names({f"{field}.{name}": text}, inputs)
    if "llm" in edit and "llm" in known:
        try:
            validate_llm_config(edit["llm"])
        except ValidationError as exc:
            errors += [FieldError(f"{field}.llm", "bad_parameter", message) for message in exc.messages]
    return errors


def _roles(
    execution: Execution,
    snapshot: dict[str, Any],
    models: Mapping[str, LLMModel],
    model: LLMModel | None,
    agents: Edits,
) -> list[RoleModel]:
    """The roles of the fork with their models, not stored yet. Raises `InvalidValues`."""
    earlier = list(execution.role_models.select_related("llm_model__provider").order_by("pk"))
    known = {name for row in earlier for name in (row.key, row.role)}
    errors = [
        FieldError(f"models.{name}", "unknown_role", _("The run has no role “%(name)s”.") % {"name": name})
        for name in models
        if name not in known
    ]
    made = [
        RoleModel(
            key=row.key,
            role=agents.get(row.key, {}).get("role", row.role),
            llm_model=models.get(row.key) or models.get(row.role) or model or row.llm_model,
        )
        for row in earlier
    ]
    errors += unusable_models({f"models.{role.role}": role.llm_model for role in made})
    if errors:
        raise InvalidValues(errors)
    return made


def _task_runs(
    made: Execution, earlier: Iterable[TaskRun], again: set[str], roles: Iterable[RoleModel]
) -> Iterable[TaskRun]:
    agents = {task["key"]: task["agent"] for task in made.snapshot["spec"]["tasks"]}
    names = {role.key: role.role for role in roles}
    for row in earlier:
        new = TaskRun(
            execution=made, task=row.task, name=row.name, role=names.get(agents[row.task], ""), position=row.position
        )
        if row.task not in again:
            new.role, new.status, new.output = row.role, row.status, row.output
            new.started_at, new.ended_at, new.is_inherited = row.started_at, row.ended_at, True
        yield new


def _copy_journal(earlier: Execution, made: Execution, again: set[str], roles: Iterable[RoleModel]) -> None:
    """Give the fork the answers of the tasks that run again, so that what is asked in the same words is not paid twice.

    Not those of roles that got another model, which are to answer anew, nor those of tools with
    effects: what they did, they did in the earlier run.
    """
    before = dict(earlier.role_models.values_list("key", "llm_model_id"))
    changed = [role.key for role in roles if before[role.key] != role.llm_model_id]
    harmless = [name for name, tool in BUILTIN.items() if not tool.has_effects]
    answered = earlier.journal.filter(state=JournalEntry.State.DONE, task__in=again).exclude(role__in=changed)
    answered = answered.exclude(kind=JournalEntry.Kind.TOOL) | answered.filter(
        kind=JournalEntry.Kind.TOOL, model__in=harmless
    )
    batch: list[JournalEntry] = []
    for entry in answered.iterator(_COPIED_AT_ONCE):
        entry.pk, entry.execution, entry.holder, entry.attempt = None, made, "", 0
        batch.append(entry)
        if len(batch) == _COPIED_AT_ONCE:
            JournalEntry.objects.bulk_create(batch)
            batch = []
    JournalEntry.objects.bulk_create(batch)

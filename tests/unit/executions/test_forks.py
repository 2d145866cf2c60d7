"""What a fork takes over, what it runs again, and what it refuses. Real engines: tests/integration/test_forks.py."""

from decimal import Decimal

import pytest
from django.utils import timezone

from crews.models import CrewInput
from executions import actions, events, forks
from executions.budgets import ModelUnpriced
from executions.compare import compare
from executions.errors import ErrorCode, Failure
from executions.models import Execution, JournalEntry, TaskRun
from executions.status import Status
from portal.accounts import keys
from portal.accounts.models import Scope
from portal.lib.problems import Conflict, InvalidValues, Problem
from tests.factories.accounts import UserFactory
from tests.factories.crews import (
    CrewInputFactory,
    LLMModelFactory,
    LLMProviderFactory,
    TaskFactory,
    runnable_crew,
)
from tests.factories.executions import LEASE, LLMCallFactory

pytestmark = pytest.mark.django_db
FILE = {"name": "a.csv", "content": "1,2"}


def crew_of_three(**fields):
    """`Write` takes an input, `Check` takes `Write`, `Draw` takes nothing."""
    crew = runnable_crew(process="parallel", **fields)
    crew.tasks.update(execution_order=1)
    write = crew.tasks.get()
    check = TaskFactory(crew=crew, agent=write.agent, name="Check", execution_order=2, context=[write])
    draw = TaskFactory(crew=crew, agent=write.agent, name="Draw", description="Draw {topic}.", execution_order=3)
    return crew, [str(task.pk) for task in (write, check, draw)]


def ended(crew, finished, *, inputs=None, status=Status.COMPLETED, **fields):
    """A run of `crew` in which the tasks `finished` (keys) gave an output each."""
    run = actions.kickoff(crew=crew, inputs=inputs or {}, by=crew.owner, **fields)
    run.start(worker="machine", lease=LEASE)
    for key in finished:
        run.task_runs.filter(task=key).update(
            status=TaskRun.Status.COMPLETED,
            output=f"Output of {key}.",
            started_at=timezone.now(),
            ended_at=timezone.now(),
        )
    if status == Status.COMPLETED:
        run.complete("The result.")
    elif status == Status.FAILED:
        run.fail(Failure(ErrorCode.INTERNAL))
    elif status == Status.PAUSED:
        run.request_pause(by=crew.owner)
        run.pause()
    elif status == Status.WAITING:
        run.wait_for_budget(sentence="It is used up.")
    return run


def task_spec(run, key):
    return next(task for task in run.snapshot["spec"]["tasks"] if task["key"] == key)


def states(run):
    return {row.task: (row.status, row.is_inherited, row.output) for row in run.task_runs.all()}


class TestWhatRuns:
    def test_the_task_and_what_depends_on_it_run_and_the_rest_is_taken_over(self):
        crew, [write, check, draw] = crew_of_three()
        run = ended(crew, [write, check, draw])
        by = UserFactory()
        made = forks.fork(run, by, write, tasks={write: {"description": "Write a poem about {topic}."}})
        assert (made.forked_from, made.forked_task, made.status) == (run, write, Status.PENDING)
        assert (made.created_by, made.owner, made.crew) == (by, by, crew)
        assert states(made) == {
            write: ("pending", False, ""),
            check: ("pending", False, ""),
            draw: ("completed", True, f"Output of {draw}."),
        }
        assert task_spec(made, write)["description"] == "Write a poem about tea."
        assert task_spec(made, draw) == task_spec(run, draw)
        [queued] = events.read(made.stream_id)
        assert (queued["type"], queued["data"]["inherited"]) == ("execution.queued", [draw])
        run.refresh_from_db()
        assert task_spec(run, write)["description"] == "Write about tea."

    def test_what_had_not_finished_runs_too(self):
        crew, [write, check, draw] = crew_of_three()
        run = ended(crew, [write, draw], status=Status.FAILED)
        made = forks.fork(run, crew.owner, draw)
        assert [key for key, state in states(made).items() if state[1]] == [write]
        assert forks.runs_again(run, draw, run.task_runs.all()) == {check, draw}

    @pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.PAUSED, Status.WAITING, Status.RUNNING])
    def test_a_run_in_any_state_can_be_forked(self, status):
        crew, [write, _check, _draw] = crew_of_three()
        run = ended(crew, [write], status=status)
        made = forks.fork(run, crew.owner, write)
        assert made.status == Status.PENDING
        run.refresh_from_db()
        assert run.status == status

    def test_a_fork_can_be_forked(self):
        crew, [write, check, draw] = crew_of_three()
        run = ended(crew, [write, check, draw])
        first = forks.fork(run, crew.owner, check, tasks={check: {"description": "Check {topic} twice."}})
        second = forks.fork(first, crew.owner, draw, inputs={"topic": "bees"})
        assert task_spec(second, draw)["description"] == "Draw bees."
        assert task_spec(second, check)["description"] == "Check bees twice."  # had not finished in the first fork
        assert task_spec(second, write)["description"] == "Write about tea."
        assert [key for key, state in states(second).items() if state[1]] == [write]

    def test_a_task_that_has_not_finished_is_refused(self):
        crew, [write, check, _draw] = crew_of_three()
        run = ended(crew, [write], status=Status.FAILED)
        with pytest.raises(Conflict) as refused:
            forks.fork(run, crew.owner, check)
        assert refused.value.code == "task_not_finished"
        with pytest.raises(InvalidValues):
            forks.fork(run, crew.owner, "no task")
        assert Execution.objects.count() == 1

    def test_an_unchanged_fork_has_the_same_texts(self):
        crew, [write, check, draw] = crew_of_three()
        run = ended(crew, [write, check, draw], inputs={"topic": "a {topic} of braces"})
        made = forks.fork(run, crew.owner, write)
        assert made.snapshot == run.snapshot
        assert made.inputs == run.inputs


class TestEdits:
    def test_other_inputs_are_filled_in_where_tasks_run_again(self):
        crew, [write, check, draw] = crew_of_three()
        made = forks.fork(ended(crew, [write, check, draw]), crew.owner, write, inputs={"topic": "bees"})
        assert made.inputs == {"topic": "bees"}
        assert task_spec(made, write)["description"] == "Write about bees."
        assert task_spec(made, draw)["description"] == "Draw tea."  # its output was made by that

    def test_inputs_that_are_not_named_stay_and_files_are_copied(self):
        crew, [write, *_] = crew_of_three()
        CrewInputFactory(crew=crew, field_name="sheet", field_type=CrewInput.Type.FILE)
        run = ended(crew, [write], inputs={"topic": "ants", "sheet": FILE})
        for inputs in (None, {"topic": "bees"}, {"sheet": None}):
            made = forks.fork(run, crew.owner, write, inputs=inputs)
            assert made.inputs == {"topic": "bees" if inputs and "topic" in inputs else "ants", "sheet": "a.csv"}
            assert (actions.inputs_folder(made.pk) / "sheet" / "a.csv").read_bytes() == b"1,2"
        other = forks.fork(run, crew.owner, write, inputs={"sheet": {"name": "b.csv", "content": "3"}})
        assert (actions.inputs_folder(other.pk) / "sheet" / "b.csv").read_bytes() == b"3"
        assert not (actions.inputs_folder(other.pk) / "sheet" / "a.csv").exists()

    def test_an_agent_gets_other_texts_and_parameters(self):
        crew, [write, *_] = crew_of_three()
        run = ended(crew, [write])
        [agent] = run.snapshot["spec"]["agents"]
        edit = {"role": "Poet of {topic}", "backstory": "", "llm": {"temperature": 0.5}}
        made = forks.fork(run, crew.owner, write, agents={agent["key"]: edit})
        [new] = made.snapshot["spec"]["agents"]
        assert new == {**agent, "role": "Poet of tea", "backstory": "", "llm": {"temperature": 0.5}}
        assert made.role_models.get().role == "Poet of {topic}"

    def test_other_models_for_all_or_for_one(self):
        crew, [write, *_] = crew_of_three()
        run = ended(crew, [write])
        role, model, other = run.role_models.get(), LLMModelFactory(), LLMModelFactory()
        assert forks.fork(run, crew.owner, write, model=model).role_models.get().llm_model == model
        made = forks.fork(run, crew.owner, write, model=model, models={role.role: other})
        assert made.role_models.get().llm_model == other
        assert forks.fork(run, crew.owner, write).role_models.get().llm_model == role.llm_model

    @pytest.mark.parametrize(
        ("edits", "field", "code"),
        [
            ({"tasks": {"draw": {"description": "Other."}}}, "tasks.draw", "not_run_again"),
            ({"tasks": {"nothing": {}}}, "tasks.nothing", "unknown"),
            ({"tasks": {"write": {"description": " "}}}, "tasks.write.description", "required"),
            ({"tasks": {"write": {"description": "x" * 100_001}}}, "tasks.write.description", "too_long"),
            ({"tasks": {"write": {"description": "a\x00b"}}}, "tasks.write.description", "not_text"),
            ({"tasks": {"write": {"description": "{nobody}"}}}, "tasks.write.description", "unknown_placeholder"),
            ({"tasks": {"write": {"human_input": True}}}, "tasks.write.human_input", "unknown"),
            ({"agents": {"agent": {"role": ""}}}, "agents.agent.role", "required"),
            ({"agents": {"agent": {"llm": {"nonsense": 1}}}}, "agents.agent.llm", "bad_parameter"),
            ({"agents": {"nobody": {"role": "X"}}}, "agents.nobody", "unknown"),
            ({"inputs": {"nothing": 1}}, "inputs.nothing", "unknown_input"),
        ],
    )
    def test_what_cannot_be_used_is_named_and_nothing_is_stored(self, edits, field, code):
        crew, [write, check, draw] = crew_of_three()
        run = ended(crew, [write, check, draw])
        names = {"write": write, "draw": draw, "agent": run.snapshot["spec"]["agents"][0]["key"]}
        edits = {kind: {names.get(key, key): edit for key, edit in given.items()} for kind, given in edits.items()}
        for name, key in names.items():
            field = field.replace(f".{name}", f".{key}")
        with pytest.raises(Problem) as refused:
            forks.fork(run, crew.owner, write, **edits)
        assert [(error.field, error.code) for error in refused.value.errors] == [(field, code)]
        assert Execution.objects.count() == 1

    def test_models_that_cannot_be_used_are_refused(self):
        crew, [write, *_] = crew_of_three()
        run = ended(crew, [write])
        off = LLMModelFactory(provider=LLMProviderFactory(enabled=False))
        for wrong in ({"model": off}, {"models": {"Nobody": LLMModelFactory()}}):
            with pytest.raises(InvalidValues):
                forks.fork(run, crew.owner, write, **wrong)
        with pytest.raises(ModelUnpriced):
            forks.fork(run, crew.owner, write, budget_usd=Decimal(1))

    def test_limits_and_priority_are_the_earlier_runs_unless_given(self):
        crew, [write, *_] = crew_of_three()
        run = ended(crew, [write], priority=7, budget_tokens=500)
        same, other = (
            forks.fork(run, crew.owner, write),
            forks.fork(run, crew.owner, write, budget_tokens=9, priority=1),
        )
        assert (same.priority, same.budget_tokens, same.max_llm_calls) == (7, 500, crew.max_llm_calls)
        assert (other.priority, other.budget_tokens) == (1, 9)
        assert forks.fork(run, crew.owner, write, budget_tokens=None).budget_tokens is None

    def test_it_is_counted_to_its_own_key_else_to_the_earlier_runs_if_that_is_of_the_same_person(self):
        crew, [write, *_rest] = crew_of_three(owner=UserFactory(admin=True))
        first, second = (keys.create(crew.owner, name="x", scopes=[Scope.RUN], by=None)[0] for _ in range(2))
        run = ended(crew, [write], api_key_id=first.pk)
        assert forks.fork(run, crew.owner, write).api_key == first
        assert forks.fork(run, crew.owner, write, api_key_id=second.pk).api_key == second
        assert forks.fork(run, UserFactory(admin=True), write).api_key is None
        failed = ended(crew, [write], status=Status.FAILED, api_key_id=first.pk)
        assert actions.retry(failed, crew.owner).api_key == first

    def test_a_run_of_an_earlier_version_keeps_its_inputs(self):
        crew, [write, *_] = crew_of_three()
        run = ended(crew, [write])
        run.snapshot = {"spec": run.snapshot["spec"], "limits": run.snapshot["limits"]}
        run.save()
        with pytest.raises(Conflict) as refused:
            forks.fork(run, crew.owner, write, inputs={"topic": "bees"})
        assert refused.value.code == "inputs_not_kept"
        made = forks.fork(run, crew.owner, write, tasks={write: {"description": "Other words."}})
        assert task_spec(made, write)["description"] == "Other words."

    def test_a_crew_that_is_gone_can_be_forked_still(self):
        crew, [write, *_] = crew_of_three()
        run = ended(crew, [write])
        by = crew.owner
        Execution.objects.filter(pk=run.pk).update(crew=None)
        crew.delete()
        run.refresh_from_db()
        assert forks.fork(run, by, write, inputs={"topic": "bees"}).crew is None


class TestJournal:
    def entry(self, run, task, role, **fields):
        values = {"kind": "llm", "state": "done", "answer": {"text": "…"}, "holder": "gateway#1", "attempt": 1}
        values |= {"request_hash": f"{run.journal.count():064}", "opened_at": timezone.now(), "model": "m"}
        return JournalEntry.objects.create(execution=run, task=task, role=role, **{**values, **fields})

    def led(self):
        crew, [write, check, draw] = crew_of_three()
        crew.process, crew.manager_llm_model = "hierarchical", LLMModelFactory()
        crew.save()
        run = ended(crew, [write, check, draw])
        agent = run.snapshot["spec"]["agents"][0]["key"]
        self.entry(run, write, "manager")
        self.entry(run, check, "manager")
        self.entry(run, check, agent)
        self.entry(run, check, agent, kind="tool", model="calculator")
        self.entry(run, draw, agent, state="lost", answer=None)
        return crew, run, [write, check, draw], agent

    def test_a_led_crew_gets_the_answers_of_the_tasks_that_run_again(self):
        crew, run, [_write, check, _draw], agent = self.led()
        made = forks.fork(run, crew.owner, check)
        copied = {(entry.task, entry.role, entry.kind) for entry in made.journal.all()}
        assert copied == {(check, "manager", "llm"), (check, agent, "llm"), (check, agent, "tool")}
        assert set(made.journal.values_list("attempt", "holder")) == {(0, "")}
        assert run.journal.count() == 5

    def test_roles_with_another_model_answer_anew(self):
        crew, run, [_write, check, _draw], agent = self.led()
        made = forks.fork(run, crew.owner, check, models={agent: LLMModelFactory()})
        assert set(made.journal.values_list("role", flat=True)) == {"manager"}

    def test_tools_with_effects_are_carried_out_anew(self):
        crew, run, [_write, check, _draw], agent = self.led()
        self.entry(run, check, agent, kind="tool", model="leave_note")
        assert forks.fork(run, crew.owner, check).journal.filter(model="leave_note").count() == 0

    def test_no_other_crew_gets_answers(self):
        crew, [write, *_] = crew_of_three()
        run = ended(crew, [write])
        self.entry(run, write, "a")
        assert forks.fork(run, crew.owner, write).journal.count() == 0


class TestComparing:
    def test_what_differs_is_marked_and_what_does_not_is_not(self):
        crew, [write, check, draw] = crew_of_three()
        run = ended(crew, [write, check, draw])
        LLMCallFactory(
            execution=run,
            task=write,
            status="completed",
            closed_at=timezone.now(),
            prompt_tokens=7,
            cost_usd=Decimal(2),
        )
        LLMCallFactory(execution=run, task=write, status="completed", closed_at=timezone.now())
        model = LLMModelFactory()
        made = forks.fork(run, crew.owner, write, inputs={"topic": "bees"}, model=model)
        made.task_runs.filter(task=write).update(output=f"Output of {write}. And more.", status="completed")
        found = compare(run, made)
        assert [(pair.name, pair.is_same) for pair in found.inputs] == [("topic", False)]
        tasks = {task.key: task for task in found.tasks}
        texts = {pair.name: pair for pair in tasks[write].texts}
        assert {name for name, pair in texts.items() if not pair.is_same} == {"description", "model"}
        assert [(piece.kind, piece.text) for piece in texts["description"].pieces] == [
            ("same", "Write about "), ("removed", "tea"), ("added", "bees"), ("same", "."),
        ]  # fmt: skip
        assert tasks[write].output.pieces[-1].text == " And more."
        used = tasks[write].left_usage
        assert (used.calls, used.prompt_tokens, used.cost_usd, used.unpriced) == (2, 7, Decimal(2), 1)
        assert (tasks[draw].output.is_same, tasks[draw].right_usage.seconds) == (True, None)
        assert found.left_usage.status == "completed"
        assert not found.is_same
        assert compare(run, run).is_same

    def test_runs_of_different_crews_are_matched_by_the_names_of_tasks(self):
        first, _ = crew_of_three()
        second = runnable_crew()
        runs = [ended(crew, [str(task.pk) for task in crew.tasks.all()]) for crew in (first, second)]
        found = compare(*runs)
        assert [(task.name, task.left is None, task.right is None) for task in found.tasks] == [
            ("Write", False, False), ("Check", False, True), ("Draw", False, True),
        ]  # fmt: skip
        assert [task.left is None for task in compare(*reversed(runs)).tasks] == [False, True, True]

    def test_the_number_of_queries_does_not_grow_with_the_tasks(self, django_assert_max_num_queries):
        crew, keys = crew_of_three()
        runs = [ended(crew, keys), ended(crew, keys)]
        with django_assert_max_num_queries(8):
            compare(*runs)

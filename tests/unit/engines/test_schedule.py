import threading
from contextvars import ContextVar

import pytest

from executions.engines import schedule
from executions.engines.output import Unfinished
from tests.deadlines import DEADLINE


def test_independent_tasks_overlap_and_dependent_ones_wait():
    both = threading.Barrier(2, timeout=DEADLINE)
    order = []

    def execute(key):
        if key in {"1", "2"}:
            both.wait()  # breaks unless the other one is running too
        order.append(key)
        return key.upper()

    done = schedule.run(["1", "2", "3"], {"1": frozenset(), "2": frozenset(), "3": frozenset({"1", "2"})}, execute)

    assert done == {"1": "1", "2": "2", "3": "3"}
    assert order[-1] == "3"


def test_threads_see_the_context_of_the_caller():
    place: ContextVar[str] = ContextVar("place", default="nowhere")
    place.set("here")
    seen = schedule.run(["1", "2"], {"1": frozenset(), "2": frozenset()}, lambda key: place.get())
    assert seen == {"1": "here", "2": "here"}


def test_a_lone_task_runs_in_the_thread_of_the_caller():
    seen = schedule.run(["1"], {"1": frozenset()}, lambda key: threading.current_thread())
    assert seen["1"] is threading.current_thread()


def test_after_a_failure_what_runs_may_finish_and_nothing_starts():
    failed = threading.Event()
    done = []

    def execute(key):
        if key == "1":
            failed.set()
            raise LookupError("no")
        assert failed.wait(DEADLINE)
        done.append(key)

    with pytest.raises(LookupError):
        schedule.run(["1", "2", "3"], {"1": frozenset(), "2": frozenset(), "3": frozenset({"2"})}, execute)
    assert done == ["2"]


def test_a_cycle_is_named():
    with pytest.raises(ValueError, match="wait for each other: 1, 2"):
        schedule.run(["1", "2"], {"1": frozenset({"2"}), "2": frozenset({"1"})}, lambda key: None)


def test_a_finished_task_is_not_executed_and_its_result_stands():
    executed = []
    waits = {"1": frozenset(), "2": frozenset({"1"})}
    done = schedule.run(["1", "2"], waits, lambda key: executed.append(key) or key, finished={"1": "kept"})
    assert (done, executed) == ({"1": "kept", "2": "2"}, ["2"])


def test_a_task_that_asks_holds_up_what_waits_for_it_alone():
    executed = []

    def execute(key):
        executed.append(key)
        return None if key == "1" else key

    waits = {"1": frozenset(), "2": frozenset({"1"}), "3": frozenset()}
    with pytest.raises(Unfinished) as caught:
        schedule.run(["1", "2", "3"], waits, execute)
    assert caught.value.why == "waiting"
    assert sorted(executed) == ["1", "3"]


def test_nothing_starts_once_it_may_not_and_that_is_a_pause_unless_all_is_done():
    executed = []
    waits = {"1": frozenset(), "2": frozenset({"1"})}

    def run(keys):
        executed.clear()
        return schedule.run(keys, waits, lambda key: executed.append(key) or key, may_start=lambda: not executed)

    with pytest.raises(Unfinished) as caught:
        run(["1", "2"])
    assert (caught.value.why, executed) == ("paused", ["1"])
    assert run(["1"]) == {"1": "1"}

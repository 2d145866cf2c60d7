from executions.engines import taskgraph
from tests.engines import run_spec, task


def test_parallel_tasks_wait_for_their_context_alone():
    spec = run_spec(process="parallel", tasks=[task("1"), task("2"), task("3", context=["1", "2"]), task("4")])
    assert taskgraph.needs(spec) == {"1": set(), "2": set(), "3": {"1", "2"}, "4": set()}


def test_sequential_tasks_wait_for_all_before_them():
    spec = run_spec(tasks=[task("1"), task("2", context=["1"]), task("3")])
    assert taskgraph.needs(spec) == {"1": set(), "2": {"1"}, "3": {"1", "2"}}


def test_asynchronous_tasks_run_side_by_side_until_a_synchronous_one():
    tasks = [task("1"), task("2", async_execution=True), task("3", async_execution=True), task("4")]
    needs = taskgraph.needs(run_spec(tasks=tasks))
    assert needs == {"1": set(), "2": {"1"}, "3": {"1"}, "4": {"1", "2", "3"}}


def test_an_asynchronous_task_waits_for_an_asynchronous_context():
    tasks = [task("1", async_execution=True), task("2", async_execution=True, context=["1"])]
    assert taskgraph.needs(run_spec(tasks=tasks))["2"] == {"1"}


def test_one_manager_does_one_task_at_a_time():
    tasks = [task("1", async_execution=True), task("2", async_execution=True)]
    assert taskgraph.needs(run_spec(process="hierarchical", tasks=tasks))["2"] == {"1"}


def test_a_task_is_given_what_it_asks_for_in_the_order_of_the_tasks():
    for process in ("sequential", "parallel", "hierarchical"):
        spec = run_spec(process=process, tasks=[task("1"), task("2"), task("3", context=["2", "1"])])
        assert taskgraph.takes(spec)["3"] == ["1", "2"]


def test_a_task_that_asks_for_nothing_is_given_all_before_it_but_in_parallel():
    tasks = [task("1"), task("2", async_execution=True), task("3")]
    assert taskgraph.takes(run_spec(tasks=tasks)) == {"1": [], "2": ["1"], "3": ["1", "2"]}
    assert taskgraph.takes(run_spec(process="parallel", tasks=tasks)) == {"1": [], "2": [], "3": []}


def test_an_asynchronous_task_is_given_the_last_synchronous_one_and_under_a_manager_all():
    tasks = [task("1"), task("2"), task("3", async_execution=True), task("4", async_execution=True)]
    assert taskgraph.takes(run_spec(tasks=tasks))["4"] == ["2"]
    assert taskgraph.takes(run_spec(process="hierarchical", tasks=tasks))["4"] == ["1", "2", "3"]


def test_dependants_are_those_that_take_the_output_at_any_distance():
    tasks = [task("1"), task("2"), task("3", context=["1"]), task("4", context=["3"]), task("5", context=["2"])]
    spec = run_spec(process="parallel", tasks=tasks)
    assert taskgraph.dependants(spec, "1") == {"3", "4"}
    assert taskgraph.dependants(spec, "2") == {"5"}
    assert taskgraph.dependants(spec, "4") == set()
    assert taskgraph.dependants(run_spec(tasks=tasks[:3]), "1") == {"2", "3"}

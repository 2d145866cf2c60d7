"""Internal names of the pinned CrewAI that the adapter uses: a new version must keep them or be adapted to."""

import inspect

import pytest
from crewai import Crew
from crewai.agents.agent_executor import AgentExecutor
from crewai.crews.utils import prepare_task_execution
from crewai.events import crewai_event_bus, stream_context
from crewai.events.types.logging_events import AgentLogsStartedEvent
from crewai.llms import retry
from crewai.llms.providers.openai.completion import OpenAICompletion

from executions.engines.registry import ENGINES


def test_the_version_is_the_pinned_one():
    assert ENGINES["crewai"].version() == "1.15.30"


def test_a_stream_sink_hears_of_events_in_the_emitting_thread():
    heard = []
    token = stream_context.add_stream_sink(lambda source, event: heard.append(event.type))
    try:
        crewai_event_bus.emit(None, AgentLogsStartedEvent(agent_role="Writer"))
    finally:
        stream_context.reset_stream_sinks(token)
    assert "agent_logs_started" in heard


def test_the_names_that_the_adapter_overrides_exist():
    assert list(inspect.signature(Crew._execute_tasks).parameters)[:2] == ["self", "tasks"]
    for name in ("_get_context", "_create_crew_output", "_add_delegation_tools", "_inject_delegation_tools"):
        assert callable(getattr(Crew, name))
    assert "_task_output_handler" in Crew.__private_attributes__
    assert len(inspect.signature(prepare_task_execution).parameters) == 6
    for name in (
        *("_call_completions", "_finalize_streaming_response", "_convert_tools_for_interference"),
        *("_emit_stream_chunk_event", "_build_sync_client", "_build_async_client"),
    ):
        assert callable(getattr(OpenAICompletion, name))
    assert hasattr(AgentExecutor, "_initial_state_t")
    parallel = inspect.signature(AgentExecutor._should_parallelize_native_tool_calls)
    assert list(parallel.parameters) == ["self", "tool_calls"]
    assert isinstance(crewai_event_bus._sync_handlers, dict)
    assert isinstance(crewai_event_bus._async_handlers, dict)


def test_rate_limits_are_not_retried_while_a_retry_is_said_to_be_under_way():
    calls = []

    def refused():
        calls.append(1)
        raise RuntimeError("429 too many requests")

    token = retry._active_llm_rate_limit_retry.set(True)
    try:
        with pytest.raises(RuntimeError):
            retry.run_with_rate_limit_retry(refused)
    finally:
        retry._active_llm_rate_limit_retry.reset(token)
    assert len(calls) == 1

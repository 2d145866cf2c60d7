"""How CrewAI calls models: always the gateway's `role:<agent key>`, saying on whose behalf."""

import ssl
from collections.abc import Callable
from typing import Any

import httpx
from crewai.context import get_current_task_id
from crewai.llms.providers.openai.completion import OpenAICompletion
from openai import OpenAI
from pydantic import PrivateAttr

from executions.engines.crewai import errors
from executions.engines.ordinals import Ordinals
from executions.engines.output import Failed
from executions.engines.protocol import HEADER_ORDINAL, HEADER_ROLE, HEADER_TASK, Gateway

CONNECT_SECONDS = 10.0
# Request parameters that CrewAI knows by name; others go into the request as they are.
_NAMED = frozenset(
    {
        *("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop"),
        *("frequency_penalty", "presence_penalty", "reasoning_effort", "logprobs", "top_logprobs"),
    }
)


class GatewayClient:
    """The run's one connection pool to the gateway, and the headers that say whose call it is.

    `task_keys` maps CrewAI's task ids to ours; it is filled when the tasks are made.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.task_keys: dict[str, str] = {}
        self._ordinals = Ordinals()
        url = gateway["base_url"]
        # Reading the machine's certificates takes 20 ms, which a gateway next door does not need.
        verify: ssl.SSLContext | bool = True if url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.http = httpx.Client(
            verify=verify,
            trust_env=False,
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),  # the gateway has the deadlines
            event_hooks={"request": [self._attribute]},
        )

    def task_key(self) -> str | None:
        """The task that the current thread works on."""
        return self.task_keys.get(get_current_task_id() or "")

    def openai(self, role: str) -> OpenAI:
        return OpenAI(
            base_url=self.gateway["base_url"],
            api_key=self.gateway["token"],
            http_client=self.http,
            max_retries=0,  # the gateway retries; both would multiply
            default_headers={HEADER_ROLE: role},
        )

    def _attribute(self, request: httpx.Request) -> None:
        role = request.headers.get(HEADER_ROLE)
        task = self.task_key()
        if role is None or task is None:
            return
        ordinal = self._ordinals.take(request.method, request.url.path, task, role, request.content)
        request.headers[HEADER_TASK] = task
        request.headers[HEADER_ORDINAL] = str(ordinal)


class RoleLLM(OpenAICompletion):
    """The model of one agent, wherever the gateway finds it."""

    _tools: dict[str, dict[str, Any]] = PrivateAttr(default_factory=dict)
    _on_thought: Callable[[str], None] = PrivateAttr()

    def __init__(
        self,
        client: GatewayClient,
        role: str,
        parameters: dict[str, Any],
        tools: dict[str, dict[str, Any]],
        on_thought: Callable[[str], None],
    ) -> None:
        named = {key: value for key, value in parameters.items() if key in _NAMED}
        other = {key: value for key, value in parameters.items() if key not in _NAMED}
        super().__init__(
            model=f"role:{role}",
            provider="openai",
            custom_openai=True,
            base_url=client.gateway["base_url"],
            api_key=client.gateway["token"],
            max_retries=0,
            stream=True,
            additional_params={"extra_body": other} if other else {},
            **named,
        )
        self._client = client.openai(role)
        self._tools = tools
        self._on_thought = on_thought
        self.is_o1_model = self.is_gpt4_model = False  # guessed from the name, which is not a model's

    def _build_sync_client(self) -> Any:
        return None  # built once it is known whose it is

    def _build_async_client(self) -> Any:
        return None  # nothing here is asynchronous

    def _call_completions(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._call_completions(*args, **kwargs)
        except errors.CALL_ERRORS as exc:
            raise errors.of_call(exc) from exc

    def _convert_tools_for_interference(self, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        # CrewAI's strict form makes every argument required; a tool's own schema says which are.
        found = []
        for tool in tools:
            function = {key: value for key, value in tool["function"].items() if key != "strict"}
            function["parameters"] = self._tools.get(function["name"], function.get("parameters"))
            found.append({"type": "function", "function": function})
        return found

    def _emit_stream_chunk_event(self, *args: Any, **kwargs: Any) -> None:
        """Deltas are the gateway's to report."""

    def _finalize_streaming_response(self, full_response: str, tool_calls: Any, **rest: Any) -> Any:
        if rest.get("finish_reason") is None and rest.get("usage_data") is None:
            raise Failed("The model's answer ended in the middle.", reason="bad_output")
        if not tool_calls and not full_response.strip():
            raise Failed("The model gave an empty answer.", reason="bad_output")
        if tool_calls and full_response.strip():
            self._on_thought(full_response.strip())
        return super()._finalize_streaming_response(full_response=full_response, tool_calls=tool_calls, **rest)

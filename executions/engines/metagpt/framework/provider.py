"""How MetaGPT calls models: always the gateway's `role:<agent key>`, saying on whose behalf."""

from contextvars import ContextVar
from typing import Any

import httpx
from metagpt.configs.llm_config import LLMConfig, LLMType
from metagpt.provider.base_llm import BaseLLM
from metagpt.provider.llm_provider_registry import LLM_REGISTRY
from openai import AsyncOpenAI

from executions.engines import calls
from executions.engines.metagpt import schemas
from executions.engines.metagpt.asking import Answer, Question
from executions.engines.metagpt.schemas import Schema
from executions.engines.ordinals import Ordinals
from executions.engines.output import Failed
from executions.engines.protocol import HEADER_ORDINAL, HEADER_ROLE, HEADER_TASK, AgentSpec, Gateway

CONNECT_SECONDS = 10.0
TEMPERATURE = 0.3  # where the agent has none of its own
HOTTEST = 1.0
# Request parameters that OpenAI's client knows by name; others go into the request as they are.
_NAMED = frozenset(
    {
        *("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed"),
        *("frequency_penalty", "presence_penalty", "reasoning_effort"),
    }
)


class GatewayClient:
    """The gateway as one agent sees it while it works on one task."""

    def __init__(self, gateway: Gateway, ordinals: Ordinals, agent: AgentSpec, task: str) -> None:
        self._ordinals = ordinals
        self._task = task
        self._role = agent["key"]
        self._parameters = agent["llm"]
        self._takes_forms = self._takes_stops = True
        self._openai = AsyncOpenAI(
            base_url=gateway["base_url"],
            api_key=gateway["token"],
            max_retries=0,  # the gateway retries; both would multiply
            http_client=httpx.AsyncClient(
                trust_env=False,
                timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),  # the gateway has the deadlines
                event_hooks={"request": [self._attribute]},
            ),
        )

    async def close(self) -> None:
        await self._openai.close()

    async def put(self, system: str, question: Question) -> Answer:
        """Ask, in a plainer form when the model's provider refuses one. Raises Failed and GatewayLost."""
        while True:
            has_form = question.schema is not None and self._takes_forms
            has_stop = bool(question.stop) and self._takes_stops
            try:
                return await self._call(system, question, has_form=has_form, has_stop=has_stop)
            except calls.Refused:
                if has_form:
                    self._takes_forms = False
                elif has_stop:
                    self._takes_stops = False
                else:
                    raise

    async def _call(self, system: str, question: Question, *, has_form: bool, has_stop: bool) -> Answer:
        prompt = question.prompt
        request: dict[str, Any] = {name: value for name, value in self._parameters.items() if name in _NAMED}
        request["temperature"] = min(request.get("temperature", TEMPERATURE) + question.warmer, HOTTEST)
        if question.schema is not None and has_form:
            request["response_format"] = _form(question.schema)
        elif question.schema is not None:
            prompt += f"\nAnswer with one JSON object of this form and nothing else:\n{schemas.shape(question.schema)}"
        if has_stop:
            request["stop"] = list(question.stop)
        if other := {name: value for name, value in self._parameters.items() if name not in _NAMED}:
            request["extra_body"] = other
        messages = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        try:
            return await self._stream(messages, request)
        except calls.CALL_ERRORS as exc:
            raise calls.of_call(exc) from exc

    async def _stream(self, messages: list[dict[str, str]], request: dict[str, Any]) -> Answer:
        parts: list[str] = []
        reason: str | None = None
        has_usage = False
        create: Any = self._openai.chat.completions.create  # with parameters that no type of it knows
        stream = await create(
            model=f"role:{self._role}",
            messages=messages,
            stream=True,
            stream_options={"include_usage": True},
            **request,
        )
        async for chunk in stream:
            has_usage = has_usage or chunk.usage is not None
            for choice in chunk.choices:
                parts.append(choice.delta.content or "")
                reason = choice.finish_reason or reason
        if reason is None and not has_usage:
            raise Failed("The model's answer ended in the middle.", reason="bad_output")
        return Answer("".join(parts), is_cut=reason == "length")

    async def _attribute(self, request: httpx.Request) -> None:
        ordinal = self._ordinals.take(request.method, request.url.path, self._task, self._role, request.content)
        request.headers[HEADER_ROLE] = self._role
        request.headers[HEADER_TASK] = self._task
        request.headers[HEADER_ORDINAL] = str(ordinal)


CLIENT: ContextVar[GatewayClient] = ContextVar("client")  # of the task at which this thread works


class RoleLLM(BaseLLM):
    """What MetaGPT takes for a model: it has no settings but those of the agent who works."""

    def __init__(self, config: LLMConfig) -> None:
        self.config = config
        self.model = config.model

    async def acompletion_text(self, messages: list[dict[str, str]], *_: Any, **__: Any) -> str:
        """MetaGPT's own way of asking, for what no module here asks itself."""
        system = "\n".join(message["content"] for message in messages if message["role"] == "system")
        told = "\n\n".join(message["content"] for message in messages if message["role"] != "system")
        return (await CLIENT.get().put(system, Question(told))).text

    async def acompletion(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    _achat_completion = _achat_completion_stream = acompletion


def register() -> None:
    """Have every role and action of MetaGPT's ask through `RoleLLM`."""
    LLM_REGISTRY.register(LLMType.OPENAI, RoleLLM)


def _form(schema: Schema) -> dict[str, Any]:
    # Not strict: strict providers refuse schemas with limits, and what comes back is fitted to it anyway.
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": False, "schema": schema}}

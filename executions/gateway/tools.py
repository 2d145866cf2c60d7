"""`POST /v1/tools/{name}`: tools are called here, by the gateway, and never by an engine."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext as _

from crews.builtin_tools import BUILTIN, ToolError
from crews.models import Tool
from executions.gateway import ledger
from executions.gateway.catalog import Caller, alive, dead_token
from executions.gateway.faults import Refusal
from executions.gateway.state import State
from executions.models import ToolCall

THREADS = 4
MAX_RESULT = 100_000  # characters


class Tools:
    """Runs tools on threads of their own, each within `TOOL_TIMEOUT` seconds."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tool")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def call(self, caller: Caller, name: str, arguments: dict[str, Any], *, task: str, role: str) -> str:
        """The tool's result, recorded. Raises `Refusal`: also when the tool itself could not do it (422, 504)."""
        await self._state.db(_allow, caller, name)
        folder = Path(settings.MEDIA_ROOT) / "executions" / str(caller.execution)
        at, began = timezone.now(), perf_counter()
        problem: Refusal | None = None
        result = ""
        try:
            async with asyncio.timeout(settings.TOOL_TIMEOUT):
                loop = asyncio.get_running_loop()
                result = await loop.run_in_executor(self._threads, BUILTIN[name].run, arguments, folder)
        except ToolError as exc:
            problem = Refusal(422, "tool_failed", str(exc))
        except OSError:
            problem = Refusal(422, "tool_failed", _("The tool could not read what it needed."))
        except TimeoutError:
            sentence = _("The tool took longer than %(seconds)s seconds.") % {"seconds": settings.TOOL_TIMEOUT}
            problem = Refusal(504, "tool_failed", sentence)
        result = result[:MAX_RESULT]
        row = ToolCall(
            execution_id=caller.execution,
            attempt=caller.attempt,
            task=task,
            role=role,
            tool=name,
            arguments=arguments,
            result=problem.message if problem else result,
            is_ok=problem is None,
            latency_ms=round((perf_counter() - began) * 1000),
            at=at,
        )
        await self._state.write(ledger.record_tool_call, row)
        if problem is not None:
            raise problem
        return result


def _allow(caller: Caller, name: str) -> None:
    """Raise `Refusal` unless the run is alive, was given the tool at its kickoff, and the tool is still enabled."""
    snapshot = alive(caller).values_list("snapshot", flat=True).first()
    if snapshot is None:
        raise dead_token()
    given = {tool["name"] for tool in snapshot.get("spec", {}).get("tools", ())}
    if name not in BUILTIN or name not in given:
        raise Refusal(404, "tool_not_found", _("This run has no tool “%(name)s”.") % {"name": name})
    if not Tool.objects.filter(name=name, enabled=True).exists():
        raise Refusal(403, "tool_disabled", _("The tool “%(name)s” is switched off.") % {"name": name})

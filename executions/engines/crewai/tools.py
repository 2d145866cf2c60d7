"""The portal's tools as CrewAI sees them: each call is a request to the gateway."""

import copy
import json
from typing import Any

import httpx
from crewai.tools import BaseTool
from crewai.tools.tool_failure import ToolFailure
from crewai.utilities.string_utils import sanitize_tool_name
from pydantic import BaseModel, ConfigDict, PrivateAttr

from executions.engines.crewai.errors import GATEWAY_LOST
from executions.engines.crewai.llm import GatewayClient
from executions.engines.output import GatewayLost
from executions.engines.protocol import HEADER_ROLE, ToolSpec


class Arguments(BaseModel):
    """Takes what the model sent as it is: the gateway, which knows the tool, checks it."""

    model_config = ConfigDict(extra="allow")


class GatewayTool(BaseTool):
    """A tool that runs behind the gateway; what goes wrong there is told to the agent as text."""

    _client: GatewayClient = PrivateAttr()
    _tool: str = PrivateAttr()
    _role: str = PrivateAttr()

    def __init__(self, client: GatewayClient, tool: ToolSpec, role: str) -> None:
        super().__init__(
            name=tool["name"], description=tool["description"], args_schema=_arguments_like(tool["parameters"])
        )
        self._client = client
        self._tool = tool["name"]
        self._role = role

    def _run(self, **arguments: Any) -> str | ToolFailure:
        gateway = self._client.gateway
        try:
            response = self._client.http.post(
                f"{gateway['base_url'].rstrip('/')}/tools/{self._tool}",
                json={"arguments": arguments},
                headers={"Authorization": f"Bearer {gateway['token']}", HEADER_ROLE: self._role},
            )
        except httpx.HTTPError as exc:
            raise GatewayLost(GATEWAY_LOST) from exc
        return _result_of(response) if response.is_success else ToolFailure(message=_problem_of(response))


def function_name(tool: ToolSpec) -> str:
    """The name under which CrewAI offers the tool to a model."""
    return str(sanitize_tool_name(tool["name"]))


def _arguments_like(schema: dict[str, Any]) -> type[BaseModel]:
    """A model of the arguments that describes itself by the tool's own JSON schema."""

    class Described(Arguments):
        @classmethod
        def model_json_schema(cls, *_: Any, **__: Any) -> dict[str, Any]:
            return {"title": "Arguments", "type": "object", "properties": {}, **copy.deepcopy(schema)}

    return Described


def _result_of(response: httpx.Response) -> str:
    try:
        body = response.json()
    except json.JSONDecodeError:
        return response.text
    result = body.get("result", body) if isinstance(body, dict) else body
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, sort_keys=True)


def _problem_of(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (json.JSONDecodeError, KeyError, TypeError):
        return f"The tool failed (HTTP {response.status_code})."

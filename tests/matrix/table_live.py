"""The rows of WebSockets and of the gateway."""

from tests.matrix.rules import Cell, Route, api

# A watcher of a finished run or project gets its history, and then the end.
SOCKETS: dict[str, Route] = {
    "/ws/executions/{exec_id}": api({"exec_id": "run"}, GET=Cell(action="see", side="run")),
    "/api/crews/{crew_id}/executions/{exec_id}/logs": api(
        {"crew_id": "crew", "exec_id": "run"}, GET=Cell(action="see", side="run")
    ),
    "/ws/projects/{project_id}/updates": api({"project_id": "project"}, GET=Cell(action="see", side="project")),
}

# Runs call models and tools with their token; people and scripts models alone, with what opens the API. Cookies and
# passwords open nothing. The bodies lack what is looked at after it was settled who asks.
GATEWAY: dict[str, Route] = {
    "/v1/chat/completions": api(POST=Cell("user", ok=(400,), scope="run", body={})),
    "/v1/models": api(GET=Cell()),
    "/v1/tools/{name}": api(POST=Cell("run", ok=(400,), body={"arguments": "none"})),
    "/health": api(GET=Cell("public")),
}

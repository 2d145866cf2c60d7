"""A model's server that fills in whatever form it is given, and writes the same small program for everybody.

For engines that ask for structured answers: a JSON schema is answered with the least that fits it, a request for a
file with code, anything else with a sentence. `refuses_forms`: as providers that know no `response_format`.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

CODE = {
    "store.py": "class Store:\n    def __init__(self):\n        self.items = []\n\n    def add(self, item):\n"
    "        if not item:\n            raise ValueError('empty')\n        self.items.append(item)\n"
    "        return len(self.items)\n",
    "main.py": "from store import Store\n\n\ndef main():\n    print(Store().add('milk'))\n\n\n"
    "if __name__ == '__main__':\n    main()\n",
    "tests/test_store.py": "import unittest\nfrom store import Store\n\n\nclass StoreTest(unittest.TestCase):\n"
    "    def test_add(self):\n        self.assertEqual(Store().add('a'), 1)\n\n"
    "    def test_empty(self):\n        with self.assertRaises(ValueError):\n            Store().add('')\n",
    "tests/test_main.py": "import unittest\nimport main\n\n\nclass MainTest(unittest.TestCase):\n"
    "    def test_main(self):\n        self.assertEqual(main.main(), 3)\n",
}
VALUES = {"file": ["store.py", "main.py"], "result": ["LGTM"], "wrong": ["test"], "priority": ["P0"]}


def filled(schema: dict[str, Any], name: str = "", number: int = 0) -> Any:
    """The least that fits a schema."""
    if name in VALUES and schema.get("type") == "string":
        return VALUES[name][number % len(VALUES[name])]
    if "enum" in schema:
        return schema["enum"][0]
    match schema["type"]:
        case "object":
            return {key: filled(inner, key, number) for key, inner in schema["properties"].items()}
        case "array":
            if name == "File list":
                return ["store.py", "main.py"]
            count = max(schema["minItems"], min(2, schema["maxItems"]))
            return [filled(schema["items"], name, index) for index in range(count)]
        case "integer":
            return schema.get("minimum", 0)
    least = schema.get("minLength", 0)
    letter = "가" if "가-힣" in schema.get("pattern", "") else "a"
    return f"{letter}{number}".ljust(least, "b")


class FormLLM:
    """Serves on a free port of loopback while it is entered; `requests` holds what came in, with its headers."""

    def __init__(self, *, refuses_forms: bool = False, gives: str | None = None, code: dict[str, str] | None = None):
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.refuses_forms = refuses_forms
        self.gives = gives
        self.code = {**CODE, **(code or {})}

    def __enter__(self) -> "FormLLM":
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((dict(self.headers), body))
                if outer.refuses_forms and "response_format" in body:
                    error = {
                        "message": "no response_format here",
                        "type": "invalid_request_error",
                        "code": "invalid_input",
                    }
                    self._send(400, "application/json", json.dumps({"error": error}))
                else:
                    self._send(200, "text/event-stream", _stream(outer.answer(body)))

            def _send(self, status: int, kind: str, text: str) -> None:
                raw = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                """Tests are quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def answer(self, body: dict[str, Any]) -> str:
        prompt = body["messages"][-1]["content"]
        if self.gives is not None:
            return self.gives
        if schema := body.get("response_format", {}).get("json_schema", {}).get("schema"):
            return json.dumps(filled(schema), ensure_ascii=False)
        if found := re.search(r"Now: (?:write|write its tests, )[^=]*file ([\w./-]+) ===", prompt):
            return f"Here it is:\n```python\n{self.code.get(found[1], 'x = 1')}```\nEnjoy!"
        if found := re.search(r"of this form and nothing else:\n(\{.*)$", prompt, re.DOTALL):
            return f"Sure!\n```json\n{found[1].replace('…', 'text')}\n```"
        return "The answer."


def _stream(text: str) -> str:
    base = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "forms"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    choices: list[list[dict[str, Any]]] = [
        [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}],
        [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        [],
    ]
    chunks = [{**base, "choices": one, "usage": None if one else usage} for one in choices]
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"

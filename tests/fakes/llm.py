"""A deterministic OpenAI-compatible server over real HTTP, which can also misbehave on request.

    with FakeLLM() as fake:
        … base_url=fake.url …
        fake.ledger            every request, with its tokens and how it ended

    python -m tests.fakes.llm --port 21010 --ledger requests.jsonl

How a request is answered is chosen by its model name, `<mode>` or `<mode>-<number>`, with any prefix that
ends in a slash ignored, or by code: `fake.modes["my-model"] = "delay-50"`.

    ok, instant          answers at once
    delay-N              answers after N milliseconds (50)
    slow-N               one token each N milliseconds (100)
    long-N               an answer of N tokens (500), all at once; `long-N@M`: a token each M milliseconds
    429-N, 500-N         refuses N times, then answers; without a number: always; `retry-after-N`: 429 once, wait N s
    401, too-long-N      refuses the key; the text is longer than the model's context, N times or always
    hang-first           headers and a role, then nothing
    hang-silent          not even headers
    hang-between         two tokens, then nothing
    malformed, truncated two tokens, then no JSON; then the connection breaks
    prose                plain prose, whatever format was asked for
    tools                calls the first tool offered, then answers; `tools-N`: N calls first
    empty                an answer without text
    plain-json           ignores `stream` and answers in one piece
    no-usage             an answer without usage

A token is four characters, and every token of a streamed answer is a chunk of its own, so usage is exact.
"""

import argparse
import asyncio
import hashlib
import json
import logging
import math
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TextIO

import orjson
import uvicorn

from executions.engines.samples import example

Message = dict[str, Any]
# For who asks for "one block of code": a program, which is a test, too.
CODE = '''```python
"""Answer {digest}."""

import unittest


class AnswerTest(unittest.TestCase):
    def test_answer(self) -> None:
        self.assertEqual(len("{digest}"), 8)


def main() -> None:
    print("{digest}")


if __name__ == "__main__":
    main()
```'''
TOKEN = 4  # characters
_MODE = re.compile(
    r"(?P<name>ok|instant|delay|slow|long|429|500|401|retry-after|too-long|hang-first|hang-silent|hang-between|malformed"
    r"|truncated|prose|tools|empty|plain-json|no-usage)(?:-(?P<number>\d+))?(?:@(?P<pause>\d+))?$"
)


@dataclass
class Request:
    """One line of the ledger. Times are seconds since the epoch; tokens are those that were sent."""

    n: int
    at: float
    path: str
    model: str
    mode: str
    stream: bool
    task: str
    role: str
    ordinal: str
    authorization: str
    status: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    client_gone: bool = False
    ended_at: float | None = None
    body: dict[str, Any] = field(default_factory=dict, repr=False)


def count(text: str) -> int:
    """Tokens of `text`."""
    return math.ceil(len(text) / TOKEN)


def prompt_tokens(messages: list[Message]) -> int:
    """Tokens of a conversation: its texts and the arguments of its tool calls."""
    return count(
        "".join(_text(m) + "".join(c["function"]["arguments"] for c in m.get("tool_calls") or ()) for m in messages)
    )


def _text(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def answer(body: dict[str, Any], mode: str, number: int | None) -> tuple[str, list[dict[str, Any]]]:
    """Text and tool calls, a function of the request alone."""
    messages = body.get("messages") or [{}]
    results = sum(m.get("role") == "tool" for m in messages)
    if mode == "tools" and body.get("tools") and results < (number or 1):
        function = body["tools"][0]["function"]
        arguments = json.dumps(example(function.get("parameters") or {"type": "object"}))
        call = {"name": function["name"], "arguments": arguments}
        return "", [{"id": f"call_{results}", "type": "function", "function": call}]
    if mode == "empty":
        return "", []
    if mode == "prose":
        return "Sure! Here is my idea: build something nice and simple. I hope this helps.", []
    shape = body.get("response_format") or {}
    if shape.get("type") == "json_schema":
        return json.dumps(example(shape["json_schema"].get("schema") or {})), []
    if shape.get("type") == "json_object":
        return '{"ok": true}', []
    last = _text(messages[-1])
    digest = hashlib.sha256("\n".join(_text(m) for m in messages).encode()).hexdigest()[:8]
    text = f"Answer {digest} to: {' '.join(last.split())[:60]}"
    if mode == "long":
        size = (number or 500) * TOKEN
        return (text + " " + "All work and no play. " * (size // 22 + 1))[:size], []
    if "block of code" in last:
        return CODE.format(digest=digest), []
    if any("Final Answer:" in _text(m) for m in messages):
        text = f"Thought: I now can give a great answer\nFinal Answer: {text}"
    return text, []


class _Gone(Exception):
    """The client has closed the connection."""


class _Break(Exception):
    """Break the connection in the middle of an answer."""


class FakeLLM:
    """The server, in a thread of this process while the context is open.

    `url` ends in /v1. `ledger` lists every request, `modes` maps model names to modes, and
    `texts` to what they are to say, word by word.
    """

    def __init__(self, *, port: int = 0, host: str = "127.0.0.1", ledger_file: Path | None = None) -> None:
        self.ledger: list[Request] = []
        self.modes: dict[str, str] = {}
        self.texts: dict[str, str] = {}
        self._seen: Counter[str] = Counter()
        self._host = host
        self._port = port
        self._ledger_path = ledger_file
        self._file: TextIO | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    # --- Life -------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}/v1"

    def __enter__(self) -> Self:
        listener = socket.create_server((self._host, self._port), backlog=256)
        self._port = listener.getsockname()[1]
        if self._ledger_path:
            self._file = self._ledger_path.open("a", buffering=1, encoding="utf-8")
        # Broken connections are meant here: uvicorn need not report them.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        config = uvicorn.Config(
            self, log_config=None, access_log=False, lifespan="off", loop="uvloop", http="httptools",
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="fake-llm", daemon=True)
        self._thread.start()
        # The socket listens already: a client that comes before the loop waits in the backlog.
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server
        assert self._thread
        self._server.should_exit = True
        self._thread.join(10)
        if self._file:
            self._file.close()

    def wait(self) -> None:
        """Until the server ends."""
        assert self._thread
        while self._thread.is_alive():
            self._thread.join(1)

    def reset(self) -> None:
        """Forget the requests and how often each model was asked."""
        self.ledger.clear()
        self._seen.clear()

    def tokens(self) -> tuple[int, int]:
        """Tokens read and written, of all requests."""
        return sum(r.prompt_tokens for r in self.ledger), sum(r.completion_tokens for r in self.ledger)

    def _write(self, phase: str, entry: Request) -> None:
        if self._file:
            line = asdict(entry)
            del line["body"], line["authorization"]
            self._file.write(json.dumps({"phase": phase, **line}) + "\n")

    # --- ASGI -------------------------------------------------------------------------------------

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        path = scope["path"]
        if scope["method"] == "GET" and path == "/v1/models":
            names = self.modes or {"ok": "ok"}
            await _json(send, 200, {"object": "list", "data": [{"id": name, "object": "model"} for name in names]})
            return
        if scope["method"] == "GET" and path == "/ledger":
            await _json(send, 200, [{**asdict(entry), "body": None} for entry in self.ledger])
            return
        if path != "/v1/chat/completions":
            await _json(send, 404, _error("no such path", "invalid_request_error", "not_found"))
            return
        entry = self._open(scope, orjson.loads(body or b"{}"))
        work = asyncio.ensure_future(self._answer(entry, send))
        watch = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                entry.client_gone = True
                work.cancel()
                await asyncio.wait((work,))
            elif error := work.exception():
                raise error
        finally:
            watch.cancel()
            entry.ended_at = time.time()
            self._write("closed", entry)

    def _open(self, scope: Any, body: dict[str, Any]) -> Request:
        headers = {name: value.decode() for name, value in scope["headers"]}
        model = body.get("model", "")
        mode = self.modes.get(model, model.rsplit("/", 1)[-1])
        entry = Request(
            n=len(self.ledger) + 1,
            at=time.time(),
            path=scope["path"],
            model=model,
            mode=mode,
            stream=bool(body.get("stream")),
            task=headers.get(b"x-portal-task", ""),
            role=headers.get(b"x-portal-role", ""),
            ordinal=headers.get(b"x-portal-ordinal", ""),
            authorization=headers.get(b"authorization", ""),
            body=body,
        )
        self.ledger.append(entry)
        self._write("open", entry)
        return entry

    async def _answer(self, entry: Request, send: Any) -> None:
        body = entry.body
        found = _MODE.match(entry.mode)
        mode, number, pause = ("ok", None, 0) if found is None else (found["name"], found["number"], found["pause"])
        number = int(number) if number else None
        pause = int(pause or 0) / 1000
        self._seen[entry.model] += 1
        if refusal := _refusal(mode, number, self._seen[entry.model], entry.authorization.removeprefix("Bearer ")):
            entry.status, error, headers = refusal
            await _json(send, entry.status, error, headers)
            return
        entry.prompt_tokens = read = prompt_tokens(body.get("messages") or [])
        if mode == "hang-silent":
            await asyncio.Event().wait()
        if mode == "delay":
            await asyncio.sleep((50 if number is None else number) / 1000)
        if mode == "slow":
            pause = (number or 100) / 1000
        text, calls = answer(body, mode, number)
        if (said := self.texts.get(entry.model)) is not None and text:
            thought, mark, _ = text.partition("Final Answer: ")
            text = thought + mark + said if mark else said
        written = count(text or "".join(call["function"]["arguments"] for call in calls))
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        base = {"id": f"chatcmpl-{entry.n}", "created": int(entry.at), "model": entry.model}
        entry.status = 200
        finish = "tool_calls" if calls else "stop"
        if not entry.stream or mode == "plain-json":
            await asyncio.sleep(pause * written)
            reply = {"role": "assistant", "content": text or None} | ({"tool_calls": calls} if calls else {})
            choice = {"index": 0, "message": reply, "finish_reason": finish}
            entry.completion_tokens = written
            done = {**base, "object": "chat.completion", "choices": [choice]}
            await _json(send, 200, done if mode == "no-usage" else {**done, "usage": usage})
            return
        await _start(send, 200, [(b"content-type", b"text/event-stream")])
        wants_usage = (body.get("stream_options") or {}).get("include_usage") and mode != "no-usage"
        buffer = bytearray()

        async def flush(more: bool = True) -> None:
            await send({"type": "http.response.body", "body": bytes(buffer), "more_body": more})
            buffer.clear()

        def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
            return _event({**base, "object": "chat.completion.chunk", "choices": [choice]})

        buffer += chunk({"role": "assistant", "content": ""})
        if mode == "hang-first":
            await flush()
            await asyncio.Event().wait()
        for index, delta in enumerate(_deltas(text, calls)):
            if mode in _FAULTS and index == 2:
                await flush()
                await self._fault(mode, send)
            if pause:
                await flush()
                await asyncio.sleep(pause)
            buffer += chunk(delta)
            entry.completion_tokens = index + 1 if text else written
        buffer += chunk({}, finish)
        if wants_usage:
            buffer += _event({**base, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        buffer += b"data: [DONE]\n\n"
        entry.completion_tokens = written
        await flush(more=False)

    @staticmethod
    async def _fault(mode: str, send: Any) -> None:
        if mode == "hang-between":
            await asyncio.Event().wait()
        if mode == "malformed":
            await send({"type": "http.response.body", "body": b'data: {"choices": [{"delta\n\n', "more_body": False})
        await asyncio.sleep(0.2)  # the tokens arrive before the break, however busy the reader is
        raise _Break


_FAULTS = {"hang-between", "malformed", "truncated"}


def _deltas(text: str, calls: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for index in range(0, len(text), TOKEN):
        yield {"content": text[index : index + TOKEN]}
    for index, call in enumerate(calls):
        yield {"tool_calls": [{"index": index, **call}]}


def _refusal(
    mode: str, number: int | None, seen: int, key: str
) -> tuple[int, dict[str, Any], list[tuple[bytes, bytes]]] | None:
    if mode == "401":
        sentence = f"Incorrect API key provided: {key}." if key else "You did not provide an API key."
        return 401, _error(sentence, "invalid_request_error", "invalid_api_key"), []
    if mode == "too-long" and (number is None or seen <= number):
        sentence = "This model's maximum context length is 4096 tokens. However, your messages resulted in 9000 tokens."
        return 400, _error(sentence, "invalid_request_error", "context_length_exceeded"), []
    if mode == "retry-after" and seen == 1:
        wait = str(number or 1).encode()
        return 429, _error("Slow down.", "requests", "rate_limit_exceeded"), [(b"retry-after", wait)]
    if mode == "429" and (number is None or seen <= number):
        return 429, _error("Slow down.", "requests", "rate_limit_exceeded"), [(b"retry-after", b"0")]
    if mode == "500" and (number is None or seen <= number):
        return 500, _error("The server had an error.", "server_error", "server_error"), []
    return None


def _error(message: str, kind: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "code": code, "param": None}}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


async def _start(send: Any, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _json(send: Any, status: int, body: Any, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    raw = orjson.dumps(body)
    length = str(len(raw)).encode()
    await _start(send, status, [(b"content-type", b"application/json"), (b"content-length", length), *(headers or [])])
    await send({"type": "http.response.body", "body": raw})


async def _until_gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description="A deterministic OpenAI-compatible server for tests.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ledger", type=Path)
    options = parser.parse_args()
    with FakeLLM(port=options.port, ledger_file=options.ledger) as fake:
        print(fake.url, flush=True)
        try:
            fake.wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()

"""An answer as it arrives: server-sent events in, the bytes to pass on and the finished completion out."""

import json
from dataclasses import dataclass, field
from typing import Any

import orjson

from executions.errors import ErrorCode
from executions.gateway import faults

DONE = b"data: [DONE]\n\n"
HEAD = ("id", "created", "model", "system_fingerprint")  # what all chunks of an answer say alike
MAX_EVENT = 8_000_000  # bytes of one event; more is no answer of a model


@dataclass(slots=True)
class Piece:
    """One chunk of a streamed completion: its bytes as they are passed on, and what they say."""

    raw: bytes
    chunk: dict[str, Any]


def dumps(data: Any) -> bytes:
    """JSON, also of what orjson is too strict for."""
    try:
        return orjson.dumps(data)
    except TypeError:
        return json.dumps(data).encode()


def event(data: Any) -> bytes:
    return b"data: " + dumps(data) + b"\n\n"


def bad_stream(detail: str) -> faults.Fault:
    return faults.Fault(ErrorCode.LLM_UNAVAILABLE, detail)


def loads(raw: bytes) -> Any:
    """JSON, also with what orjson is too strict for (halves of surrogate pairs). Raises ValueError."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return json.loads(raw)


class EventParser:
    """Cuts a byte stream into pieces. `done` once the stream has said [DONE]."""

    def __init__(self) -> None:
        self._buffer = b""
        self.done = False
        self.fault: faults.Fault | None = None

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that `data` completes, up to what is no completion chunk: that is then the `fault`."""
        buffer = self._buffer + data if self._buffer else data
        if b"\r" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n")
        pieces = []
        start = 0
        while not self.done:
            end = buffer.find(b"\n\n", start)
            if end < 0:
                break
            raw = buffer[start : end + 2]
            start = end + 2
            try:
                piece = self._piece(raw)
            except faults.Fault as fault:
                self.fault = fault
                break
            if piece is not None:
                pieces.append(piece)
        self._buffer = buffer[start:]
        if len(self._buffer) > MAX_EVENT:
            self.fault = bad_stream("an event of the stream is too long")
        return pieces

    def _piece(self, raw: bytes) -> Piece | None:
        if raw.startswith(b"data:") and raw.find(b"\n") == len(raw) - 2:
            data = raw[5:-2].strip()
        else:  # comments, ids, or data over several lines
            lines = [line[5:].strip() for line in raw.split(b"\n") if line.startswith(b"data:")]
            if not lines:
                return None
            data = b"\n".join(lines)
            raw = b"data: " + data.replace(b"\n", b" ") + b"\n\n"
        if data == b"[DONE]":
            self.done = True
            return None
        try:
            chunk = loads(data)
        except ValueError:
            raise bad_stream("the stream broke off or is malformed") from None
        if not isinstance(chunk, dict):
            raise bad_stream("the stream is malformed")
        if error := chunk.get("error"):
            raise faults.of_error(error)
        return Piece(raw, chunk)


def pieces_of(completion: dict[str, Any]) -> list[Piece]:
    """A completion that came in one piece, as the chunks of a stream."""
    if error := completion.get("error"):
        raise faults.of_error(error)
    choices = completion.get("choices")
    if not isinstance(choices, list):
        raise bad_stream("the answer is malformed")
    base: dict[str, Any] = {key: completion[key] for key in HEAD if key in completion}
    base["object"] = "chat.completion.chunk"
    pieces = []
    for choice in choices:
        delta = dict(choice.get("message") or {})
        if calls := delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
        index, finish = choice.get("index", 0), choice.get("finish_reason") or "stop"
        for part, reason in ((delta, None), ({}, finish)):
            chunk = {**base, "choices": [{"index": index, "delta": part, "finish_reason": reason}]}
            if part and choice.get("logprobs"):
                chunk["choices"][0]["logprobs"] = choice["logprobs"]
            pieces.append(Piece(event(chunk), chunk))
    if usage := completion.get("usage"):
        chunk = {**base, "choices": [], "usage": usage}
        pieces.append(Piece(event(chunk), chunk))
    return pieces


@dataclass
class _Choice:
    index: int
    message: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    finish_reason: str | None = None

    def add(self, delta: dict[str, Any]) -> bool:
        """Take a delta in; True when it carries something of the answer, and not just its head."""
        carries = False
        for key, value in delta.items():
            if not value:
                continue
            if key == "tool_calls":
                carries = True
                for call in value:
                    self._add_call(call)
            elif key == "role":
                self.message["role"] = value
            elif isinstance(value, str):
                carries = True
                self.texts.setdefault(key, []).append(value)
            else:
                carries = True
                self.message[key] = value
        return carries

    def _add_call(self, part: dict[str, Any]) -> None:
        call = self.calls.setdefault(part.get("index", len(self.calls)), {"type": "function", "function": {}})
        for key, value in part.items():
            if key == "function":
                function = call["function"]
                for name, text in (value or {}).items():
                    if text is not None:
                        function[name] = function.get(name, "") + text if name == "arguments" else text
            elif key != "index" and value is not None:
                call[key] = value

    @property
    def says_something(self) -> bool:
        thoughts = {"reasoning", "reasoning_content"}
        texts = ("".join(parts) for key, parts in self.texts.items() if key not in thoughts)
        return (
            bool(self.calls) or any(text.strip() for text in texts) or bool(self.message.keys() - {"role"} - thoughts)
        )

    def finished(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": None, **self.message}
        message |= {key: "".join(parts) for key, parts in self.texts.items()}
        if self.calls:
            message["tool_calls"] = [call for _, call in sorted(self.calls.items())]
        choice = {"index": self.index, "message": message, "finish_reason": self.finish_reason or "stop"}
        if self.logprobs:
            choice["logprobs"] = self.logprobs
        return choice


class Answer:
    """What has arrived of one upstream answer.

    `take` gives the bytes that may go to the client now: nothing before the first token, so that
    another try remains possible, and nothing from the end on, which waits until the ledger is closed.
    """

    def __init__(self) -> None:
        self.head: dict[str, Any] = {}
        self.usage: dict[str, Any] | None = None
        self.started = False  # the first token is there
        self.ended = False  # a finish reason is there
        self.chunks = 0  # that carried something
        self.characters = 0  # of text and of tool calls
        self._texts: list[str] = []
        self._choices: dict[int, _Choice] = {}
        self._held: list[Piece] = []
        self.tail: list[Piece] = []

    def take(self, pieces: list[Piece]) -> tuple[bytes, str]:
        """Bytes to pass on and the new text of the first choice."""
        passed: list[bytes] = []
        fresh: list[str] = []
        for piece in pieces:
            chunk = piece.chunk
            if not self.head and chunk.get("id"):
                self.head = {key: chunk[key] for key in HEAD if key in chunk}
            if isinstance(usage := chunk.get("usage"), dict) and usage:
                self.usage = usage
            for part in chunk.get("choices") or ():
                self._take_choice(part, fresh)
            if self.ended:
                self.tail += self._held  # an answer without a token: no part of it is passed on
                self._held.clear()
                self.tail.append(piece)
            elif self.started:
                passed += [held.raw for held in self._held]
                self._held.clear()
                passed.append(piece.raw)
            else:
                self._held.append(piece)
        text = "".join(fresh)
        if text:
            self._texts.append(text)
        return b"".join(passed), text

    def _take_choice(self, part: dict[str, Any], fresh: list[str]) -> None:
        index = part.get("index", 0)
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice(index)
        delta = part.get("delta") or {}
        if choice.add(delta):
            self.started = True
            self.chunks += 1
            content = delta.get("content")
            if isinstance(content, str):
                self.characters += len(content)
                if index == 0:
                    fresh.append(content)
            for call in delta.get("tool_calls") or ():
                self.characters += len((call.get("function") or {}).get("arguments") or "")
        for key, values in (part.get("logprobs") or {}).items():
            choice.logprobs.setdefault(key, []).extend(values or ())
        if reason := part.get("finish_reason"):
            choice.finish_reason = reason
            self.started = self.ended = True

    @property
    def text(self) -> str:
        """Of the first choice, so far."""
        return "".join(self._texts)

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        choice = self._choices.get(0)
        return [call for _, call in sorted(choice.calls.items())] if choice else []

    @property
    def finish_reason(self) -> str | None:
        choice = self._choices.get(0)
        return choice.finish_reason if choice else None

    @property
    def is_empty(self) -> bool:
        """Neither text, nor a tool call, nor anything else that a client could use."""
        return not any(choice.says_something for choice in self._choices.values())

    def completion(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The whole answer in one piece, as a client that does not stream gets it."""
        choices = [choice.finished() for _, choice in sorted(self._choices.items())]
        return {**self.head, "object": "chat.completion", "choices": choices, "usage": usage}

    def ending(self, usage: dict[str, Any]) -> bytes:
        """The end of the stream: what was held back, with `usage` in its place."""
        parts = []
        for piece in self.tail:
            if not piece.chunk.get("usage"):
                parts.append(piece.raw)
            elif piece.chunk.get("choices"):  # some providers send it along with the finish
                parts.append(event({key: value for key, value in piece.chunk.items() if key != "usage"}))
        parts.append(event({**self.head, "object": "chat.completion.chunk", "choices": [], "usage": usage}))
        return b"".join(parts) + DONE


def is_json(text: str) -> bool:
    """Whether a text is JSON, perhaps in a code fence, as models like to wrap it."""
    stripped = text.strip()
    if stripped.startswith("```"):
        stripped = stripped.removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        json.loads(stripped, strict=False)
    except ValueError:
        return False
    return True

"""Asking a model until its answer can be used, a bounded number of times. Knows no framework: `Ask` makes the call.

Whatever happens, the same questions are asked in the same order, so that an attempt which repeats an earlier one
finds its recorded answers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from executions.engines.calls import TooLong
from executions.engines.metagpt import schemas
from executions.engines.metagpt.brief import Brief
from executions.engines.metagpt.schemas import Misfit, Schema
from executions.engines.output import Failed

TRIES = 4  # of one question
WARMER = 0.2  # a new try is a bit less certain of itself
LIMITS = (24_000, 12_000, 6_000, 3_000)  # characters of a brief, for models that cannot read all of it
TOKENS = 1600  # of one answer, where the agent has no limit of its own
ROOM = 0.8  # of an answer's limit may be planned with
_FENCED = re.compile(r"```[\w+#.-]*[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    text: str
    is_cut: bool = False  # it reached the limit of its length


@dataclass(frozen=True)
class Question:
    """One request: what is asked, in which form the answer has to be, and how freely it may be made up."""

    prompt: str
    schema: Schema | None = None
    warmer: float = 0.0  # added to the agent's temperature
    stop: tuple[str, ...] = ()


class Ask(Protocol):
    async def __call__(self, question: Question) -> Answer:
        """Raises TooLong when the model cannot read that much, else Failed."""


class Unusable(Failed):
    """A model gave no usable answer however often it was asked; `raw` is the last of them."""

    def __init__(self, message: str, raw: str) -> None:
        super().__init__(message, reason="bad_output")
        self.raw = raw


@dataclass
class Interview:
    """Questions of one role, all after the same brief."""

    ask: Ask
    brief: Brief
    language: str
    max_tokens: int = TOKENS
    asked: list[str] = field(default_factory=list)  # the first form of each question
    _limits: list[int] = field(default_factory=lambda: list(LIMITS))
    _limit: int | None = None

    async def form(self, name: str, parts: Mapping[str, tuple[Schema, str]]) -> dict[str, Any]:
        """Have the parts of a form filled in, over as many answers as their length needs. Raises Failed."""
        filled: dict[str, Any] = {}
        for group in grouped({key: schema for key, (schema, _) in parts.items()}, self.max_tokens, self.language):
            filled |= await self._group(name, {key: parts[key] for key in group}, filled)
        return filled

    async def _group(
        self, name: str, parts: Mapping[str, tuple[Schema, str]], before: Mapping[str, Any]
    ) -> dict[str, Any]:
        schema = schemas.of({key: part for key, (part, _) in parts.items()})
        lines = "\n".join(f"- {key}: {ask}" for key, (_, ask) in parts.items())
        told = f"Decided already:\n{schemas.compact(before)}\n\n" if before else ""
        task = f"{told}=== Now: {name} ===\nFill in these parts, as JSON:\n{lines}\n{_manner(self.language)}"
        try:
            return await self.record(task, schema)
        except Cut:
            if len(parts) == 1:
                raise
        halves = list(parts.items())
        middle = len(halves) // 2
        first = await self._group(name, dict(halves[:middle]), before)
        return first | await self._group(name, dict(halves[middle:]), {**before, **first})

    async def record(self, task: str, schema: Schema) -> dict[str, Any]:
        """An answer of the form of `schema`. Raises Failed; Cut when it does not fit into an answer's limit."""
        complaint, raw, cuts = "", "", 0
        for number in range(TRIES):
            answer = await self._put(Question(task + complaint, schema, warmer=number * WARMER))
            raw = answer.text
            try:
                return dict(schemas.fit(schemas.parse(raw), schema))
            except Misfit as exc:
                cuts += answer.is_cut
                reason = "it was too long" if answer.is_cut else str(exc)
                complaint = f"\nAn earlier answer could not be used: {reason}. Keep every part short."
            if cuts > 1:
                raise Cut("The model's answers did not come to an end.", raw)
        raise Unusable("The model's answers did not have the form that was asked for.", raw)

    async def code(self, task: str, *, warmer: float = 0.0) -> str:
        """A block of code, without its fence; cut off where the model came to no end. Raises Failed."""
        raw = ""
        for number in range(TRIES):
            answer = await self._put(Question(task, warmer=warmer + number * WARMER, stop=("\n```\n",)))
            raw = answer.text
            if found := fenced(raw):
                return found
        raise Unusable("The model gave no code.", raw)

    async def prose(self, task: str) -> str:
        """A text. Raises Failed."""
        raw = ""
        for number in range(TRIES):
            answer = await self._put(Question(task, warmer=number * WARMER))
            raw = answer.text
            if raw.strip():
                return raw.strip()
        raise Unusable("The model gave an empty answer.", raw)

    async def _put(self, question: Question) -> Answer:
        """Ask after the brief, shorter when the model cannot read all of it."""
        self.asked.append(question.prompt)
        while True:
            told = self.brief.text(self._limit)
            whole = f"{told}\n\n{question.prompt}".strip()
            try:
                return await self.ask(Question(whole, question.schema, question.warmer, question.stop))
            except TooLong:
                self._limits = [limit for limit in self._limits if limit < len(told)]
                if not self._limits:
                    raise
                self._limit = self._limits.pop(0)


class Cut(Unusable):
    """The answers were longer than they may be."""


def grouped(parts: Mapping[str, Schema], max_tokens: int, language: str) -> list[list[str]]:
    """The parts in their order, so many together as one answer has room for."""
    groups: list[list[str]] = []
    room = 0.0
    for key, schema in parts.items():
        size = tokens(schema, language)
        if not groups or size > room:
            groups.append([])
            room = max_tokens * ROOM
        groups[-1].append(key)
        room -= size
    return groups


def tokens(schema: Schema, language: str) -> float:
    """About how long an answer of this form is."""
    match schema.get("type"):
        case "object":
            return 2 + sum(6 + tokens(inner, language) for inner in schema["properties"].values())
        case "array":
            return 2 + (schema["minItems"] + schema["maxItems"]) / 2 * (2 + tokens(schema["items"], language))
        case "integer":
            return 2
    if "enum" in schema:
        return 4
    return float(schema.get("maxLength", 100)) / schemas.SLACK / (1.5 if language == "ko" else 4)


def fenced(answer: str) -> str:
    """The longest block of code in an answer; all of an answer that is nothing but code."""
    blocks = [block.strip("\n") for block in _FENCED.findall(answer)]
    if blocks:
        return max(blocks, key=len).rstrip() + "\n" if any(map(str.strip, blocks)) else ""
    bare = answer.strip("\n")
    looks_like_code = re.match(r"(import |from |def |class |#|<|\{|//|/\*|package |const |\"\"\")", bare)
    return bare.rstrip() + "\n" if looks_like_code else ""


def _manner(language: str) -> str:
    if language == "ko":
        return (
            "한국어로 구체적으로, 이 프로젝트에 대해서만 쓰세요. 항목마다 짧은 한 문장으로 쓰세요. "
            "요청하지 않은 기능은 추가하지 마세요. 이름과 코드는 영어로 쓰세요."
        )
    return (
        "Write in English, concretely and about this project only, a short sentence for each item. Add no features "
        "that nobody asked for. Do not repeat yourself."
    )

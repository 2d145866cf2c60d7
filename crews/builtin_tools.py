"""The tools that come along. Each is a plain function of its arguments; the gateway calls them, never an engine."""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.utils.translation import gettext as _

MAX_EXPRESSION = 500  # characters
MAX_NUMBER = 1e300
MAX_EXPONENT = 1000
MAX_FILE_BYTES = 1_000_000
MAX_TEXT = 20_000  # characters handed to a model
MAX_NOTE = 2_000  # characters
LEAVE_NOTE = "leave_note"


class ToolError(Exception):
    """The tool could not do what was asked; the message is a sentence that the model can act on."""


@dataclass(frozen=True)
class BuiltinTool:
    """`parameters` is the JSON schema of the arguments that `run` takes, beside the folder of the run's input files.

    A tool that `has_effects` changes something: it is not called twice for one request of a run.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    run: Callable[[dict[str, Any], Path], str]
    has_effects: bool = False


# --- calculator ---------------------------------------------------------------------------------

_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{name: getattr(math, name) for name in ("sqrt", "log", "log10", "exp", "sin", "cos", "tan", "floor", "ceil")},
    **{"abs": abs, "round": round, "min": min, "max": max},
}
_NAMES = {"pi": math.pi, "e": math.e}


def _calculate(arguments: dict[str, Any], inputs_folder: Path) -> str:
    expression = str(arguments.get("expression", "")).strip()
    if not expression:
        raise ToolError(_("Give an expression, for example (3 + 4) * 2."))
    if len(expression) > MAX_EXPRESSION:
        raise ToolError(_("The expression is too long."))
    try:
        tree = ast.parse(expression.replace("^", "**").replace("×", "*").replace("÷", "/"), mode="eval")
        value = _value(tree.body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as exc:
        raise ToolError(
            _("%(expression)s is not an expression that can be computed.") % {"expression": expression}
        ) from exc
    except ZeroDivisionError as exc:
        raise ToolError(_("Division by zero.")) from exc
    except OverflowError as exc:
        raise ToolError(_("The numbers are too large.")) from exc
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return str(value)


def _value(node: ast.expr) -> int | float:
    match node:
        case ast.Constant(value=bool() | complex()):
            raise ValueError("not a number")
        case ast.Constant(value=int() | float() as number):
            return _bounded(number)
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _bounded(_UNARY[type(op)](_value(operand)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            first, second = _value(left), _value(right)
            if isinstance(op, ast.Pow) and (abs(second) > MAX_EXPONENT or abs(first) > 1e30):
                raise OverflowError
            return _bounded(_BINARY[type(op)](first, second))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*(_value(arg) for arg in args)))
    raise ValueError("not arithmetic")


def _bounded(number: Any) -> int | float:
    if isinstance(number, complex) or not isinstance(number, int | float):
        raise ValueError("not a real number")
    if abs(number) > MAX_NUMBER or number != number:
        raise OverflowError
    return number


# --- read_input_file ----------------------------------------------------------------------------


def _read_input_file(arguments: dict[str, Any], inputs_folder: Path) -> str:
    name = str(arguments.get("name", "")).strip()
    path = _find(name, inputs_folder)
    if path is None:
        known = ", ".join(sorted(file.name for file in _files(inputs_folder)))
        if not known:
            raise ToolError(_("This run has no input files."))
        raise ToolError(_("There is no input file “%(name)s”. There are: %(known)s.") % {"name": name, "known": known})
    with path.open("rb") as file:
        raw = file.read(MAX_FILE_BYTES)
    if b"\0" in raw[:4096] and not raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ToolError(_("“%(name)s” is not a text file.") % {"name": name})
    text = _decode(raw)
    if len(text) > MAX_TEXT or path.stat().st_size > MAX_FILE_BYTES:
        return text[:MAX_TEXT] + "\n\n" + _("[The file goes on; this is its beginning.]")
    return text


def _files(folder: Path) -> list[Path]:
    """The input files of a run. A link that leads out of the folder is none of them."""
    if not folder.is_dir():
        return []
    root = folder.resolve()
    return [path for path in folder.rglob("*") if path.is_file() and path.resolve().is_relative_to(root)]


def _find(name: str, folder: Path) -> Path | None:
    """The file called `name`, or `<field>/<name>`. Only what lies in the folder is looked at, so no path leads out."""
    for path in sorted(_files(folder)):
        if name in {path.name, path.relative_to(folder).as_posix()}:
            return path
    return None


def _decode(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", errors="replace")
    for encoding in ("utf-8-sig", "cp949"):  # the second: Korean files of older Windows programs
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError as exc:
            # A character cut in two by the limit is no reason to guess another encoding.
            if encoding == "utf-8-sig" and exc.start >= len(raw) - 4:
                return raw[: exc.start].decode(encoding)
    return raw.decode("utf-8", errors="replace")


# --- leave_note ---------------------------------------------------------------------------------


def _leave_note(arguments: dict[str, Any], inputs_folder: Path) -> str:
    """Looks at the note; whoever calls the tool puts it into the run's log."""
    message = str(arguments.get("message", "")).strip()
    if not message:
        raise ToolError(_("Give the note's text as “message”."))
    if len(message) > MAX_NOTE:
        raise ToolError(_("The note is too long: at most %(most)s characters.") % {"most": MAX_NOTE})
    return _("The note was left.")


BUILTIN: dict[str, BuiltinTool] = {
    tool.name: tool
    for tool in (
        BuiltinTool(
            name="calculator",
            description="Computes an arithmetic expression, for example (3 + 4) * 2.",
            parameters={
                "type": "object",
                "properties": {
                    "expression": {
                        "type": "string",
                        "description": "Numbers, + - * / % **, parentheses, sqrt, log, round, min, max…",
                        "maxLength": MAX_EXPRESSION,
                    }
                },
                "required": ["expression"],
                "additionalProperties": False,
            },
            run=_calculate,
        ),
        BuiltinTool(
            name="read_input_file",
            description="Reads a text file that was given to this run as an input.",
            parameters={
                "type": "object",
                "properties": {"name": {"type": "string", "description": "The file's name", "maxLength": 255}},
                "required": ["name"],
                "additionalProperties": False,
            },
            run=_read_input_file,
        ),
        BuiltinTool(
            name=LEAVE_NOTE,
            description="Leaves a short note for the people who watch this run.",
            parameters={
                "type": "object",
                "properties": {"message": {"type": "string", "description": "The note", "maxLength": MAX_NOTE}},
                "required": ["message"],
                "additionalProperties": False,
            },
            run=_leave_note,
            has_effects=True,
        ),
    )
}

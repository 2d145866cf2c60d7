"""What a person fills in before a run: cleaned, typed, bounded."""

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from django.core.files.uploadedfile import UploadedFile
from django.utils.translation import gettext as _

from crews.models import Crew, CrewInput
from portal.lib.problems import FieldError, Problem

MAX_TEXT = 1_000  # characters of a line
MAX_TEXTAREA = 100_000  # characters
MAX_FILE = 10 * 1024 * 1024  # bytes
_MAX_FILE_NAME = 200
_YES = {"true", "yes", "on", "1"}
_NO = {"false", "no", "off", "0"}


class InvalidInputs(Problem):
    """Some inputs of a run cannot be used; `errors` names each as `inputs.<name>`."""

    code = "invalid_input"


@dataclass(frozen=True)
class InputFile:
    """A file given to a run."""

    name: str
    content: bytes


@dataclass(frozen=True)
class CleanInputs:
    """The inputs of a run, typed. In `values` a file stands by its name; its content is in `files`."""

    values: dict[str, Any] = field(default_factory=dict)
    files: dict[str, InputFile] = field(default_factory=dict)


class _Unusable(Exception):
    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def clean_inputs(crew: Crew, raw: Any) -> CleanInputs:
    """`raw` (field name → value, as JSON, form or command line gives it) as the crew's inputs.

    What is missing takes its default. Raises `InvalidInputs` that lists every fault. One query.
    """
    return clean_by(crew.inputs.all(), raw)


def clean_by(definitions: Iterable[CrewInput], raw: Any) -> CleanInputs:
    """`clean_inputs` by definitions that need not be a crew's any more: those a run was frozen with."""
    if not isinstance(raw, Mapping):
        raise InvalidInputs(
            _("The inputs are not a mapping of names to values."),
            errors=[FieldError("inputs", "invalid", _("Give an object: {“name”: value}."))],
        )
    definitions = list(definitions)
    known = {definition.field_name for definition in definitions}
    errors = [
        FieldError(f"inputs.{name}", "unknown_input", _("The crew has no input “%(name)s”.") % {"name": name})
        for name in raw
        if name not in known
    ]
    values: dict[str, Any] = {}
    files: dict[str, InputFile] = {}
    for definition in definitions:
        name = definition.field_name
        try:
            value = clean_value(definition, raw.get(name))
        except _Unusable as exc:
            errors.append(FieldError(f"inputs.{name}", exc.code, exc.detail))
            continue
        if isinstance(value, InputFile):
            files[name] = value
            value = value.name
        values[name] = value
    if errors:
        raise InvalidInputs(
            _("Some inputs cannot be used."),
            hint=_("Correct the inputs that are named and start again."),
            errors=errors,
        )
    return CleanInputs(values, files)


def default_problem(definition: CrewInput) -> str:
    """What is wrong with an input's default, in a sentence; empty when nothing is."""
    try:
        if definition.default:
            clean_value(definition, definition.default)
    except _Unusable as exc:
        return exc.detail
    return ""


def clean_value(definition: CrewInput, value: Any) -> Any:
    """One input's value by its type. Raises `_Unusable`."""
    kind = CrewInput.Type(definition.field_type)
    if _is_empty(value) and kind is not CrewInput.Type.FILE:
        value = definition.default
    if _is_empty(value):
        if kind is CrewInput.Type.BOOLEAN:
            return False  # what an unticked box sends
        if definition.is_required:
            raise _Unusable("required", _("“%(label)s” is required.") % {"label": definition.label})
        return "" if kind in {CrewInput.Type.TEXT, CrewInput.Type.TEXTAREA, CrewInput.Type.SELECT} else None
    return _CLEANERS[kind](definition, value)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _text(value: Any, limit: int) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _Unusable("not_text", _("Give text."))
    text = str(value).strip()
    if "\x00" in text:
        raise _Unusable("not_text", _("The text holds a character that cannot be stored (NUL)."))
    if len(text) > limit:
        raise _Unusable("too_long", _("At most %(limit)d characters, not %(n)d.") % {"limit": limit, "n": len(text)})
    return text


def _line(definition: CrewInput, value: Any) -> str:
    return " ".join(_text(value, MAX_TEXT).split("\n")).replace("\r", "")


def _textarea(definition: CrewInput, value: Any) -> str:
    return _text(value, MAX_TEXTAREA).replace("\r\n", "\n")


def _select(definition: CrewInput, value: Any) -> str:
    text = _text(value, MAX_TEXT)
    if text not in definition.options:
        options = ", ".join(map(str, definition.options))
        raise _Unusable("not_an_option", _("Choose one of: %(options)s.") % {"options": options})
    return text


def _number(definition: CrewInput, value: Any) -> int | float:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = value if isinstance(value, int | float) else float(str(value).strip())
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,18}", value.strip()):
            number = int(value)
        if math.isfinite(number):
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise _Unusable("not_a_number", _("Give a number."))


def _boolean(definition: CrewInput, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _YES or word in _NO:
        return word in _YES
    raise _Unusable("not_a_boolean", _("Give true or false."))


def _file(definition: CrewInput, value: Any) -> InputFile:
    if isinstance(value, InputFile):
        given, content = value.name, value.content
    elif isinstance(value, UploadedFile):
        if (value.size or 0) > MAX_FILE:
            raise _too_large()
        given, content = value.name or "", value.read()
    elif isinstance(value, Mapping) and isinstance(value.get("name"), str):
        given, content = value["name"], _content(value)
    else:
        raise _Unusable("not_a_file", _("Give a file: {“name”: …, “content”: text} or “content_base64”."))
    if len(content) > MAX_FILE:
        raise _too_large()
    return InputFile(_file_name(given), content)


def _content(value: Mapping[str, Any]) -> bytes:
    text, encoded = value.get("content"), value.get("content_base64")
    if isinstance(text, str) and encoded is None:
        return text.encode()
    if isinstance(encoded, str) and text is None:
        if len(encoded) > MAX_FILE * 4 // 3 + 4:
            raise _too_large()
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise _Unusable("not_a_file", _("“content_base64” is not Base64.")) from exc
    raise _Unusable("not_a_file", _("Give either “content” or “content_base64”."))


def _too_large() -> _Unusable:
    return _Unusable("too_large", _("A file may have at most %(limit)d MB.") % {"limit": MAX_FILE // 1024**2})


def _file_name(given: str) -> str:
    # A name is only ever a name: what a browser or a caller adds of folders is dropped.
    name = PurePosixPath(given.replace("\\", "/")).name
    name = re.sub(r"[\x00-\x1f\x7f]", "", name).strip()
    if name in {"", ".", ".."} or len(name.encode()) > _MAX_FILE_NAME:
        raise _Unusable("bad_file_name", _("The file needs a name of at most %(n)d bytes.") % {"n": _MAX_FILE_NAME})
    return name


_CLEANERS: dict[CrewInput.Type, Callable[[CrewInput, Any], Any]] = {
    CrewInput.Type.TEXT: _line,
    CrewInput.Type.TEXTAREA: _textarea,
    CrewInput.Type.SELECT: _select,
    CrewInput.Type.NUMBER: _number,
    CrewInput.Type.BOOLEAN: _boolean,
    CrewInput.Type.FILE: _file,
}

"""Typed readers for settings that come from the environment.

Every reader takes the variable's name, falls back to a default, and raises `ConfigError` with one
line that names the variable when the value cannot be used. `NAME_FILE` reads a value from a file,
which is how containers hand over secrets.
"""

import os
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off", ""}


class ConfigError(Exception):
    """A setting from the environment cannot be used; the message names it and says what to do."""


class Env:
    """Reads settings out of `environ`, a mapping of variable names to text."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self.environ = environ

    def text(self, name: str, default: str = "") -> str:
        """The variable's text, or the content of the file that `<name>_FILE` points to."""
        if name in self.environ:
            return self.environ[name]
        path = self.environ.get(f"{name}_FILE")
        if not path:
            return default
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as exc:
            raise ConfigError(f"{name}_FILE: cannot read {path}: {exc.strerror}") from exc

    def flag(self, name: str, default: bool) -> bool:
        value = self.text(name, str(int(default))).strip().lower()
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
        raise ConfigError(f"{name}: {value!r} is neither yes nor no; use 1 or 0")

    def number(self, name: str, default: int, *, low: int = 0, high: int = 2**31) -> int:
        value = self.text(name, str(default))
        try:
            number = int(value)
        except ValueError:
            raise ConfigError(f"{name}: {value!r} is not a whole number") from None
        if not low <= number <= high:
            raise ConfigError(f"{name}: {number} is not between {low} and {high}")
        return number

    def items(self, name: str, default: str = "") -> list[str]:
        """A comma separated list; blanks are dropped."""
        return [part.strip() for part in self.text(name, default).split(",") if part.strip()]

    def pairs(self, name: str, default: str, *, values: tuple[str, ...]) -> dict[str, str]:
        """A comma separated list of `key=value`, each value one of `values`; the last `=` divides."""
        found = {}
        for item in self.items(name, default):
            key, _sign, value = item.rpartition("=")
            if not key.strip() or value.strip() not in values:
                raise ConfigError(f"{name}: {item!r} is not NAME=VALUE with one of {', '.join(values)}")
            found[key.strip()] = value.strip()
        return found

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.text(name, default)
        if value not in choices:
            raise ConfigError(f"{name}: {value!r} is unknown; use one of {', '.join(choices)}")
        return value

    def url(self, name: str, default: str = "", *, schemes: tuple[str, ...]) -> str:
        """A URL with one of `schemes`, without a trailing slash; empty when unset."""
        value = self.text(name, default).strip()
        if not value:
            return ""
        try:
            parts = urlsplit(value)
            parts.port  # noqa: B018 - reading it checks it
        except ValueError as exc:
            raise ConfigError(f"{name}: not a URL: {exc}") from None
        if parts.scheme not in schemes or (not parts.netloc and not parts.path):
            raise ConfigError(f"{name}: expected a URL that starts with {' or '.join(f'{s}://' for s in schemes)}")
        return value.rstrip("/")

    def path(self, name: str, default: Path) -> Path:
        return Path(self.text(name, str(default))).expanduser().absolute()


def kept_secret(path: Path) -> str:
    """The secret in `path`, made on first use with mode 0600.

    Two processes (or threads) that start together agree on one value: the file appears by an atomic link, and
    the loser reads the winner's. Raises `ConfigError` when the folder cannot be written.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
            fresh.touch(mode=0o600)
            fresh.write_text(secrets.token_urlsafe(48), encoding="ascii")
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        return path.read_text(encoding="ascii")
    except OSError as exc:
        raise ConfigError(f"PORTAL_DATA_DIR: cannot keep {path}: {exc.strerror}") from exc

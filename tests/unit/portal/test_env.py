"""Settings from the environment: every reader, and the one line that a wrong value gives."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from portal.lib.env import ConfigError, Env, kept_secret
from tests.stack import ROOT


def test_defaults_hold_where_nothing_is_set() -> None:
    env = Env({})
    assert env.text("A", "x") == "x"
    assert env.flag("A", True) is True
    assert env.number("A", 7) == 7
    assert env.items("A", "a, b,") == ["a", "b"]
    assert env.choice("A", "b", ("a", "b")) == "b"
    assert env.url("A", schemes=("http",)) == ""


@pytest.mark.parametrize(("text", "value"), [("1", True), ("Yes", True), ("on", True), ("0", False), ("", False)])
def test_flags(text: str, value: bool) -> None:
    assert Env({"A": text}).flag("A", not value) is value


def test_a_file_may_hold_the_value(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from the file\n")
    env = {"A_FILE": str(tmp_path / "secret")}
    assert Env(env).text("A") == "from the file"
    assert Env({**env, "A": "said directly"}).text("A") == "said directly"
    with pytest.raises(ConfigError, match=r"^A_FILE: cannot read"):
        Env({"A_FILE": str(tmp_path / "nothing")}).text("A")


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("PORTAL_PORT", "eighty", "PORTAL_PORT: 'eighty' is not a whole number"),
        ("PORTAL_PORT", "70000", "PORTAL_PORT: 70000 is not between 1 and 65535"),
        ("DEBUG", "perhaps", "DEBUG: 'perhaps' is neither yes nor no"),
        ("DATABASE_URL", "mysql://here", "DATABASE_URL: expected a URL that starts with"),
        ("PORTAL_URL", "localhost", "PORTAL_URL: expected a URL that starts with"),
        ("EMBEDDED_MODEL", "gpt-9", "EMBEDDED_MODEL: 'gpt-9' is unknown; use one of"),
        ("LOG_LEVEL", "LOUD", "LOG_LEVEL: 'LOUD' is unknown; use one of"),
        ("PORTAL_DEVELOPMENT_USER", "ann", "PORTAL_DEVELOPMENT_USER: skips sign-in, so it works with DEBUG=1 only"),
        ("DATABASE_URL", "postgres://u@elsewhere/db", "SECRET_KEY: needed when the database is on another machine"),
    ],
)
def test_a_wrong_value_stops_the_start_with_one_line_that_names_it(
    variable: str, value: str, says: str, tmp_path: Path
) -> None:
    env = {"PATH": os.environ["PATH"], "PORTAL_DATA_DIR": str(tmp_path), variable: value}
    done = subprocess.run([sys.executable, "manage.py", "check"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"agent-portal: {says}"), done.stderr
    assert done.stderr.count("\n") == 1


def test_a_kept_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "secret"
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: kept_secret(path), range(16)))
    assert len(found) == 1
    assert len(found.pop()) >= 48
    assert path.stat().st_mode & 0o777 == 0o600
    assert [child.name for child in path.parent.iterdir()] == ["secret"]


def test_a_secret_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^PORTAL_DATA_DIR: cannot keep"):
        kept_secret(tmp_path / "file" / "secret")

"""Interpreters of engines: made whole or not at all, by one process at a time."""

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from executions import installation
from executions.engines import environments, registry
from executions.engines.registry import ENGINES
from executions.installation import CannotInstall
from portal.lib.processes import RunLock
from portal.lib.progress import Progress
from tests.fakes.small_engine import VERSION, small_engine


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv(environments.VARIABLE, str(tmp_path / "engines"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "packages"))
    return tmp_path / "engines"


@pytest.fixture
def engine(root, tmp_path, monkeypatch):
    found = small_engine(tmp_path / "packages")
    monkeypatch.setitem(ENGINES, "small", found)
    return found


@pytest.fixture
def report():
    return Progress(io.StringIO())


def left_in(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.exists() else []


def test_an_engine_gets_an_interpreter_that_has_its_packages_and_not_the_portals(engine, root, report):
    assert (engine.version(), engine.is_installed()) == (None, False)
    folder = installation.ensure("small", report)
    assert left_in(root) == [folder.name]
    assert (engine.version(), engine.is_installed()) == (VERSION, True)
    order = [engine.interpreter, "-c", "import small_engine; print(small_engine.answer)"]
    assert subprocess.run(order, capture_output=True, text=True, check=True).stdout == "42\n"
    assert subprocess.run([engine.interpreter, "-c", "import django"], capture_output=True, check=False).returncode == 1
    assert "small" in registry.installed()


def test_it_can_be_read_by_users_that_runs_have_of_their_own(engine, report):
    before = os.umask(0o077)
    try:
        folder = installation.ensure("small", report)
    finally:
        os.umask(before)
    for path in (folder, environments.packages_of(folder) / "small_engine.py"):
        assert path.stat().st_mode & 0o004, path


def test_another_lock_is_another_folder_and_takes_the_place_of_the_old_one(engine, root, report):
    old = installation.ensure("small", report)
    engine.environment.lock.write_text(engine.environment.lock.read_text() + "# changed\n")
    environments._digest.cache_clear()
    assert not engine.is_installed()
    new = installation.ensure("small", report)
    assert new != old
    assert left_in(root) == [new.name]


def test_a_package_that_is_not_the_locked_one_is_refused_and_nothing_is_left(root, tmp_path, monkeypatch, report):
    engine = small_engine(tmp_path / "packages", wrong_hash=True)
    monkeypatch.setitem(ENGINES, "small", engine)
    with pytest.raises(CannotInstall, match="HASH"):
        installation.ensure("small", report)
    assert left_in(root) == []
    assert not engine.is_installed()


def test_without_the_package_it_says_so(engine, tmp_path, report):
    next((tmp_path / "packages").glob("*.whl")).unlink()
    with pytest.raises(CannotInstall, match="No matching distribution found for small-engine"):
        installation.ensure("small", report)


def test_without_a_connection_it_says_so(engine, monkeypatch, report):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_TIMEOUT", "1")
    with pytest.raises(CannotInstall, match="there is no connection to the package index") as caught:
        installation.ensure("small", report)
    assert "127.0.0.1" not in str(caught.value)


def test_too_little_room_is_said_before_anything_is_fetched(root, tmp_path, monkeypatch, report):
    monkeypatch.setitem(ENGINES, "small", small_engine(tmp_path / "packages", megabytes=10**9))
    with pytest.raises(CannotInstall, match=r"PORTAL_ENGINE_DIR: .* MB free, and \d+ MB are needed for Small"):
        installation.ensure("small", report)


def test_a_folder_that_cannot_be_made_is_named(engine, tmp_path, monkeypatch, report):
    (tmp_path / "file").touch()
    monkeypatch.setenv(environments.VARIABLE, str(tmp_path / "file" / "engines"))
    with pytest.raises(CannotInstall, match="PORTAL_ENGINE_DIR: cannot write to"):
        installation.ensure("small", report)


def test_two_installers_make_one_environment(engine, root):
    said = [io.StringIO(), io.StringIO()]
    threads = [threading.Thread(target=installation.ensure, args=("small", Progress(stream))) for stream in said]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert engine.is_installed()
    assert len(left_in(root)) == 1
    assert sum("Installing Small" in stream.getvalue() for stream in said) == 1


def test_a_folder_without_its_marker_counts_for_nothing_and_is_made_again(engine, report):
    folder = installation.ensure("small", report)
    (folder / environments.MARKER).unlink()
    (environments.packages_of(folder) / "small_engine.py").unlink()
    assert not engine.is_installed()
    installation.ensure("small", report)
    assert (environments.packages_of(folder) / "small_engine.py").exists()


def test_an_engine_of_the_portals_own_packages_is_not_installed_apart(report):
    with pytest.raises(CannotInstall, match=r"install requirements\.txt"):
        installation.ensure("crewai", report)


def test_the_command_says_what_is_here_and_what_to_do(engine, capsys):
    with pytest.raises(SystemExit, match="1"):
        call_command("engine", "status", "small", "--json")
    (fact,) = json.loads(capsys.readouterr().out)
    assert (fact["version"], fact["problem"]) == (None, "not installed")
    assert fact["install"] == "manage.py engine install small"
    installation.ensure("small", Progress(io.StringIO()))
    call_command("engine", "status")
    shown = capsys.readouterr().out
    assert f"Small     {VERSION}" in shown
    assert sys.executable in shown


def test_it_is_removed_but_not_while_somebody_installs_it(engine, root, report):
    installation.ensure("small", report)
    with (
        RunLock(engine.environment.guard).acquire(),
        pytest.raises(CannotInstall, match="installing it just now"),
    ):
        installation.remove("small")
    (gone,) = installation.remove("small")
    assert not gone.exists()
    assert installation.remove("small") == []


def test_the_command_fails_in_one_sentence(root, tmp_path, monkeypatch):
    monkeypatch.setattr(
        installation, "_make", lambda *_: (_ for _ in ()).throw(CannotInstall("there is no connection"))
    )
    with pytest.raises(CommandError, match=r"MetaGPT could not be installed: there is no connection"):
        call_command("engine", "install", "metagpt")

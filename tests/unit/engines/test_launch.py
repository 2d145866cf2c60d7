import os
import sys
from pathlib import Path

from executions.engines import launch
from executions.engines.registry import ENGINES, Engine


def test_a_host_sees_nothing_of_the_callers_environment(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "s3cret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    environment = launch.environment(Path("/somewhere"))
    assert not {"SECRET_KEY", "OPENAI_API_KEY", "DATABASE_URL"} & set(environment)
    assert environment["HOME"] == environment["CREWAI_STORAGE_DIR"] == "/somewhere"
    assert environment["CREWAI_DISABLE_TELEMETRY"] == environment["OTEL_SDK_DISABLED"] == "true"


def test_a_host_ends_with_the_process_that_asked_for_it():
    command = launch.command("crewai", Path("/run/host.sock"))
    assert command[0] == sys.executable
    assert command[-4:] == ["--socket", "/run/host.sock", "--parent", str(os.getpid())]


def test_an_engine_is_looked_up_without_importing_it():
    assert ENGINES["crewai"].version() == "1.15.30"
    missing = Engine(key="x", label="X", module="x", distribution="no-such-distribution")
    assert missing.version() is None
    assert not missing.is_installed()

"""Generated programs reach nothing: no network, no files but their own, no more than their share of the machine."""

import time

import pytest

from executions.engines.metagpt import sandbox, trials

needs_kernel = pytest.mark.skipif(sandbox.kind() == sandbox.NONE, reason="this kernel cannot hold programs")


def said(code, seconds=5.0, **files):
    with sandbox.folder({"main.py": code, **files}) as place:
        return sandbox.run(place, ["main.py"], seconds=seconds)


TRY = "try:\n    {}\n    print('DONE')\nexcept OSError as exc:\n    print('refused', exc.errno)\n"


@needs_kernel
@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.socket()",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:1/')",
        "open('/etc/passwd').read()",
        "import os; os.listdir('/root')",
        "open('/proc/self/environ').read()",
        "open('/tmp/left-behind', 'w')",
        "import os; os.execv('/bin/ls', ['ls'])",
        "import os; open(os.__file__, 'a')",
        f"open({__file__!r}).read()",
    ],
)
def test_what_is_not_its_own_is_out_of_reach(attempt):
    assert said(TRY.format(attempt)).output.startswith("refused")


@needs_kernel
def test_it_has_its_folder_and_the_standard_library():
    result = said("import json, sqlite3, tempfile\nfrom other import X\nopen('a', 'w').write('1')\n"
                  "tempfile.NamedTemporaryFile()\nprint(X, open('a').read())", **{"other.py": "X = 7"})  # fmt: skip
    assert (result.exit_code, result.output) == (0, "7 1\n"), result.error


@needs_kernel
def test_packages_of_the_engine_are_not_its_to_import():
    assert "ModuleNotFoundError" in said("import httpx").error


@needs_kernel
def test_it_sees_nothing_of_our_environment(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "s3cret")
    assert "s3cret" not in said("import os\nprint(dict(os.environ))").output


@needs_kernel
def test_time_memory_and_disk_are_bounded():
    began = time.monotonic()
    assert said("while True: pass", seconds=1.0).exit_code is None
    assert time.monotonic() - began < 10
    assert "MemoryError" in said("x = bytearray(3 << 30)").error
    assert said("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))").exit_code != 0


@needs_kernel
def test_what_it_says_without_end_is_cut():
    result = said("while True: print('x' * 1000)", seconds=3.0)
    assert len(result.output) <= sandbox.MOST_OUTPUT


def test_the_folder_is_gone_afterwards_and_no_path_leads_out_of_it():
    with sandbox.folder({"../evil.py": "x", "a/b.py": "y"}) as place:
        assert (place / "a" / "b.py").read_text() == "y"
        assert not (place.parent / "evil.py").exists()
    assert not place.exists()


def test_words_are_the_same_in_every_run():
    assert sandbox.steady("Ran 3 tests in 0.012s at 0x7f3a2b1c0d in /tmp/tmpab12cd_x") == (
        "Ran 3 tests in 0.000s at 0x0 in /tmp/tmp"
    )


CODE = {"calc.py": "def add(a, b):\n    return a + b\n"}
TEST = "import unittest\nfrom calc import add\n\n\nclass T(unittest.TestCase):\n"


@needs_kernel
def test_tests_are_run_and_counted():
    good = TEST + "    def test_a(self):\n        self.assertEqual(add(1, 2), 3)\n"
    bad = good + "    def test_b(self):\n        self.assertEqual(add(1, 2), 4)\n"
    assert trials.tested(CODE, {"tests/test_calc.py": good}, "tests/test_calc.py").is_fine
    result = trials.tested(CODE, {"tests/test_calc.py": bad}, "tests/test_calc.py")
    assert (result.run, result.failed) == (2, 1)
    result = trials.tested(CODE, {"tests/test_calc.py": "import nothing_there\n"}, "tests/test_calc.py")
    assert (result.run, result.failed, result.is_fine) == (1, 1, False)
    result = trials.tested(CODE, {"tests/test_calc.py": TEST + "    pass\n"}, "tests/test_calc.py")
    assert (result.run, result.is_fine) == (0, False)


@needs_kernel
def test_a_program_is_started():
    assert trials.started({"main.py": "print('hi')"}).ran is True
    found = trials.started({"main.py": "import lib", "lib.py": "x = 1 / 0"})
    assert found.ran is False
    assert found.problems == ["main.py does not start: lib.py line 1: ZeroDivisionError: division by zero"]


def test_where_nothing_holds_a_program_none_is_run(monkeypatch):
    monkeypatch.setattr(sandbox.landlock, "version", lambda: 0)
    found = trials.started({"main.py": "print('hi')"})
    assert (found.ran, found.sandbox) == (None, "none")
    assert "none is run" in found.problems[0]
    assert "- Sandbox: none" in found.markdown("en")

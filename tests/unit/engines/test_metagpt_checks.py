"""What is said of code without running it: only what is wrong for certain."""

import subprocess
import sys

import pytest

from executions.engines.metagpt import checks, repairs, trials
from executions.engines.metagpt.sandbox import Result

ITEM = """class Item:
    def __init__(self, name, done=False):
        self.name = name
        self.done = done


def load(path): return []
"""


def problems(code, path="main.py", others=None, later=()):
    return checks.problems(path, code, {"item.py": ITEM} if others is None else others, later)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def f(:\n", "syntax error"),
        ("", "empty"),
        ("print(missing)\n", "undefined name 'missing'"),
        ("def f():\n    return other()\n", "undefined name 'other'"),
        ("def f():\n    pass\n", "f is not implemented"),
        ("from item import Thing\n", "item has no Thing; it has: Item, load"),
        ("from item import Item\nItem()\n", "misses the argument name"),
        ("from item import Item\nItem('a', True, 3)\n", "at most 2 arguments"),
        ("from item import Item\nItem('a', color=1)\n", "no parameter color"),
        ("from item import Item\nx = Item('a')\nx.finish()\n", "Item has no finish"),
        ("import item\nitem.save()\n", "item has no save"),
        ("import main\n", "imports itself"),
        ("from .item import Item\nItem('a')\n", "relative import"),
    ],
)
def test_what_is_wrong_is_said(code, said):
    assert any(said in problem for problem in problems(code)), problems(code)


@pytest.mark.parametrize(
    "code",
    [
        "from item import Item\nx = Item('a')\nprint(x.name, x.__class__)\n",
        "import os, sys\nfor p in sys.argv:\n    print(os.path.join(p, __file__))\n",
        "from os import *\nprint(getcwd())\n",
        "def f(n):\n    return [x for x in range(n) if (y := x)]\n",
        "try:\n    import numpy\nexcept ImportError as exc:\n    print(exc)\n",
        "class A:\n    pass\n\n\nclass B(A):\n    def f(self):\n        return self.anything\n",
        "from abc import ABC, abstractmethod\nclass A(ABC):\n    @abstractmethod\n    def f(self): ...\n",
        "def f():\n    n = 0\n    def g():\n        nonlocal n\n        n += 1\n        return n\n    return g\n",
        "def f():\n    global total\n    total = 1\nprint(f())\n",
        "from item import Item\ndef f(x):\n    x = Item('a')\n    x = 3\n    return x.bit_length()\n",
        "lambda x: x\nprint(*map(str, [1]), sep='')\n",
        "match 3:\n    case int(n):\n        print(n)\n",
    ],
)
def test_what_is_right_is_not_found_fault_with(code):
    assert problems(code) == []


def test_other_languages_are_only_looked_at_for_emptiness():
    assert problems("nonsense (((", path="app.js") == []
    assert problems(" ", path="app.js") == ["the file is empty"]


def test_packages_that_are_neither_own_nor_of_the_standard_library():
    files = {"main.py": "import json, flask\nfrom shop.cart import Cart\n", "shop/cart.py": "import numpy.linalg\n"}
    assert checks.packages(files) == ["flask", "numpy"]


def outcome(code, error="", output=""):
    return Result(code, output, error)


def test_how_a_program_ended_is_understood():
    assert trials.crash_of(outcome(0)) == ""
    assert trials.crash_of(outcome(None)) == ""  # still running: a server, or a game
    assert trials.crash_of(outcome(2, "usage: main.py [-h] {add}")) == ""
    assert (
        trials.crash_of(outcome(1, 'Traceback …\n  File "./main.py", line 3\nEOFError: EOF when reading a line')) == ""
    )
    assert trials.crash_of(outcome(1, output="Usage: main.py FILE")) == ""
    error = 'Traceback (most recent call last):\n  File "./main.py", line 3, in <module>\nNameError: x'
    assert trials.crash_of(outcome(1, error)) == "main.py line 3: NameError: x"
    assert trials.crash_of(outcome(-9, "")) == "exit -9"
    assert trials.culprit_of(error, {"main.py": ""}) == "main.py"


def test_the_file_that_starts_a_program_is_found():
    assert trials.entry_of({"a.py": "", "src/main.py": ""}) == "src/main.py"
    assert trials.entry_of({"a.py": "if __name__ == '__main__': f()", "b.py": ""}) == "a.py"
    assert trials.entry_of({"only.py": "print(1)"}) == "only.py"
    assert trials.entry_of({"app.js": ""}) == ""


def test_checks_say_what_was_not_tried():
    found = trials.started({"app.js": "x"})
    assert found.ran is None
    assert found.syntax_ok is None
    assert "only programs in Python" in found.problems[0]
    found = trials.started({"main.py": "import flask\n"})
    assert found.ran is None
    assert "flask" in found.problems[-1]
    assert "- Started: not tried" in found.markdown("en")
    assert "- 실행: 실행하지 않음" in found.markdown("ko")


def test_what_stands_in_another_file_already_is_to_be_imported() -> None:
    kept = "class Task:\n    def __init__(self, name):\n        self.name = name\n"
    found = checks.problems("b.py", kept, {"store/a.py": kept})
    assert found == ["line 1: Task stands in store/a.py already; import it: from store.a import Task"]
    assert not checks.problems("b.py", kept.replace("self.name", "self.title"), {"store/a.py": kept})


def test_what_an_object_never_gets_is_told() -> None:
    rating = "class Rating:\n    def rate(self, text):\n        return self.best if self.digits else self.rate('')\n"
    assert checks.problems("a.py", rating, {}) == [
        "line 3: Rating has no digits: nothing sets self.digits",
        "line 3: Rating has no best: nothing sets self.best",
    ]
    setter = "def give(rating):\n    rating.best, rating.digits = 1, 2\n"
    assert checks.problems("a.py", rating, {"b.py": setter}) == [], "another file sets them"
    assert checks.problems("a.py", f"class Base: x = 1\n{rating.replace('Rating', 'Rating(Base)')}", {}) == []
    assert checks.problems("a.py", rating.replace("return", "self.__dict__ = {}; return"), {}) == []


def test_forgotten_imports_of_the_standard_library_are_added() -> None:
    code = '"""Tests."""\nfrom __future__ import annotations\nimport os\n\nprint(tempfile.gettempdir(), os.sep, json)\n'
    whole = repairs.with_imports("a.py", code, {})
    assert whole.startswith('"""Tests."""\nfrom __future__ import annotations\nimport tempfile\nimport os\n')
    assert checks.problems("a.py", whole, {}) == ["line 6: undefined name 'json'"], (
        "it may be meant to be something else"
    )
    assert repairs.with_imports("a.py", "print(queue.x)\n", {"queue.py": "x = 1\n"}) == "print(queue.x)\n"
    assert repairs.with_imports("a.py", "print(sys.argv)\n", {}) == "import sys\nprint(sys.argv)\n"
    for same in (
        "import sys\nprint(sys.argv)\n",
        "def main(json):\n    json.x()\n",
        "from x import *\nre.match\n",
        "def (",
    ):
        assert repairs.with_imports("a.py", same, {}) == same


def test_forgotten_imports_of_the_programs_own_files_are_added() -> None:
    dates = "from datetime import date\nimport os.path\n\n\ndef between(a, b): return (b - a).days\n"
    main = "print(between(date.today(), date.today()), sep)\n"
    whole = repairs.with_imports("main.py", main, {"lib/dates.py": dates})
    assert whole == f"from datetime import date\nfrom lib.dates import between\n{main}"
    assert checks.problems("main.py", whole, {"lib/dates.py": dates}) == ["line 3: undefined name 'sep'"]
    assert repairs.with_imports("main.py", main, {"dates.py": f"import main\n{dates}"}) == main, (
        "it would import itself"
    )


def test_what_is_repeated_word_for_word_is_imported_instead() -> None:
    kept = (
        "import json\n\n\nclass Task:\n    def __init__(self, name):\n        self.name = name\n\n\n"
        "def load(): return json\n"
    )
    rest = 'def main():\n    print(Task("a"), load())\n\n\nmain()\n'
    main = f'"""Starts it."""\nfrom store.a import Task\n\n{kept}\n\n{rest}'
    shorter = repairs.without_repeats("main.py", main, {"store/a.py": kept})
    assert "class Task" not in shorter
    assert "def load" not in shorter
    assert "from store.a import Task, load" in shorter
    assert shorter.startswith('"""Starts it."""\n')
    assert checks.problems("main.py", shorter, {"store/a.py": kept}) == []
    other = kept.replace("self.name = name", "self.title = name")
    assert "class Task" in repairs.without_repeats("main.py", main, {"store/a.py": other}), "another class of that name"
    assert repairs.without_repeats("main.py", main, {"a.py": f"import main\n{kept}"}) == main, "would import itself"
    assert repairs.without_repeats("main.py", "def (", {"a.py": kept}) == "def ("


def test_what_the_standard_library_does_not_have_is_told() -> None:
    wrong = "from unittest.mock import TemporaryDirectory, patch\nprint(patch, TemporaryDirectory)\n"
    assert checks.problems("a.py", wrong, {}) == ["line 1: unittest.mock has no TemporaryDirectory"]
    own = checks.problems("a.py", "from json import store\nprint(store)\n", {"json.py": "store = 1\n"})
    assert own == [], "a file of the program goes before"


def test_what_the_standard_library_has_is_never_doubted() -> None:
    # In a process of its own: some of these modules do things, or warn, when they are imported.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _ALL_OF_IT], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.splitlines()[-1]) > 100, "modules whose source tells"
    assert done.stdout.splitlines()[:-1] == []


_ALL_OF_IT = """
import importlib, keyword, sys
from executions.engines.metagpt import checks
known = 0
for name in sorted(sys.stdlib_module_names - {"__future__", "antigravity", "this", "idlelib", "lib2to3", "distutils"}):
    try:
        module = importlib.import_module(name)
    except ImportError:
        continue
    names = [one for one in dir(module) if one.isidentifier() and one[:2] != "__" and not keyword.iskeyword(one)]
    known += checks._of_library(name) is not None
    code = "pass\\n" + "".join(f"from {name} import {one}\\n" for one in names)
    for found in checks.problems("a.py", code, {}):
        print(name, found)
print(known)
"""


@pytest.mark.parametrize(
    ("named", "whole"),
    [
        (["store/tasks.py", "add.py"], ["store/tasks.py", "add.py", "main.py"]),
        (["main.py", "tasks.py"], ["tasks.py", "main.py"]),
        (["service/app.py"], ["service/app.py"]),
        (["index.html", "app.js"], ["index.html", "app.js"]),
        ([], []),
    ],
)
def test_a_program_in_python_has_a_file_that_starts_it_and_is_written_last(named: list[str], whole: list[str]) -> None:
    assert trials.with_entry(named) == whole


def test_code_that_nothing_starts_says_so() -> None:
    assert trials.why_not({"a.py": "x = 1", "b.py": "y = 1"}, "") == "not started: no file of it starts a program"

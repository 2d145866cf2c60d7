"""What an exported project has to install: the part of our own locks that its engine needs, hashes included."""

import re
from functools import cache
from pathlib import Path

from django.conf import settings

_LOCKS = {"crewai": "requirements.txt", "metagpt": "executions/engines/metagpt/requirements.txt"}
_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?==")


@cache
def requirements(engine: str) -> str:
    """The pinned packages of `engine` and of all that it needs, as `pip install --require-hashes` takes them."""
    text = (Path(settings.BASE_DIR) / _LOCKS[engine]).read_text()
    if engine == "metagpt":  # its lock holds nothing else
        return text
    blocks = _blocks(text)
    wanted, before = {engine}, set[str]()
    while wanted != before:
        before = set(wanted)
        wanted |= {name for name, (_, asked_by) in blocks.items() if asked_by & wanted}
    return "".join(blocks[name][0] for name in sorted(wanted))


def _blocks(lock: str) -> dict[str, tuple[str, set[str]]]:
    """Of each package of a lock: its lines without comments, and the packages that ask for it."""
    found: dict[str, tuple[str, set[str]]] = {}
    name = ""
    for line in lock.splitlines(keepends=True):
        if match := _PIN.match(line):
            name = match["name"].lower()
            found[name] = ("", set())
        if not name:
            continue
        pins, asked_by = found[name]
        if line.lstrip().startswith("#"):
            word = line.replace("#", " ").replace("via", " ", 1).strip() if "# via" in line else line.strip("# \n")
            asked_by.add(re.sub(r"\[.*\]", "", word).lower())
        else:
            found[name] = (pins + line, asked_by)
    return found

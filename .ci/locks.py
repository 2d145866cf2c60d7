"""Checks of the lock files that need no network: complete, with hashes, and tied to no index.

python .ci/locks.py        prints what is wrong, exits 1 if anything is
"""

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = re.compile(r"--(extra-)?index-url|--find-links|--trusted-host|https?://|\bfile:|(^|\s)@\s")


def locked(path: Path) -> tuple[dict[str, Version], list[str]]:
    """The pinned versions of a lock by canonical name, and what is wrong with its form."""
    pins: dict[str, Version] = {}
    wrong = []
    for entry in path.read_text().replace("\\\n", " ").splitlines():
        line = entry.split(" #")[0].strip()
        if not line or line.startswith("#"):
            continue
        if ADDRESS.search(line):
            wrong.append(f"{path.name}: names an address: {line[:100]}")
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+)", line)
        if not match:
            wrong.append(f"{path.name}: not a pinned package: {line[:100]}")
            continue
        pins[canonicalize_name(match[1])] = Version(match[2])
        if "--hash=sha256:" not in line:
            wrong.append(f"{path.name}: {match[1]} has no hash")
    return pins, wrong


def unmet(direct: list[str], pins: dict[str, Version], lock: str) -> list[str]:
    """Direct dependencies that a lock does not hold in a version they allow."""
    wrong = []
    for text in direct:
        need = Requirement(text)
        have = pins.get(canonicalize_name(need.name))
        if have is None or not need.specifier.contains(have, prereleases=True):
            wrong.append(f"{lock}: pyproject.toml asks for {text}, the lock has {have}")
    return wrong


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    direct, groups = project["project"]["dependencies"], project["dependency-groups"]
    run, wrong = locked(ROOT / "requirements.txt")
    dev, more = locked(ROOT / "requirements-dev.txt")
    wrong += more
    wrong += unmet(direct, run, "requirements.txt")
    wrong += unmet(direct + groups["dev"], dev, "requirements-dev.txt")
    wrong += [
        f"requirements-dev.txt: {name} is {dev.get(name)}, but {version} in requirements.txt"
        for name, version in run.items()
        if dev.get(name) != version
    ]
    metagpt = ROOT / "executions/engines/metagpt/requirements.txt"
    if metagpt.exists():
        pins, more = locked(metagpt)
        wrong += more + unmet(groups["metagpt"], pins, "executions/engines/metagpt/requirements.txt")
    print("\n".join(wrong) or f"{len(run)} packages, {len(dev)} with the tools: pinned, hashed, no index")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())

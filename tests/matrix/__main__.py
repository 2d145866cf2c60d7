"""The whole matrix, the proof by mutation, or requests made up from the schema: see the package."""

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
PARTS = {
    "cells": [
        str(HERE),
        "-m",
        "",
        "--ignore",
        str(HERE / "test_mutations.py"),
        "--ignore",
        str(HERE / "test_schema.py"),
    ],
    "mutations": [str(HERE / "test_mutations.py"), "-m", "", "-s"],
    "schema": [str(HERE / "test_schema.py"), "-m", "", "-s"],
}


def main() -> int:
    part = sys.argv[1] if len(sys.argv) > 1 else "cells"
    if part not in PARTS:
        sys.exit(f"{part}: one of {', '.join(PARTS)}")
    os.environ.setdefault("PORTAL_TEST_SCHEMA_EXAMPLES", "40")  # of each operation, as each person
    return int(pytest.main(["-q", "-p", "no:randomly", *PARTS[part], *sys.argv[2:]]))


if __name__ == "__main__":
    sys.exit(main())

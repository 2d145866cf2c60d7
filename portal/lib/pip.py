"""Asking pip for packages: how long it may try, and what it says when it fails."""

import re
import subprocess
import sys

from django.utils.translation import gettext as _

# Unless pip's own configuration names a timeout: somebody who set one knows the way out better.
TIMEOUT_SECONDS = 15


def timeouts() -> list[str]:
    """Arguments with which pip gives up early, where nobody configured it."""
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False, timeout=60
    )
    if "timeout" in asked.stdout:
        return []
    return ["--timeout", str(TIMEOUT_SECONDS), "--retries", "2"]


def reason(words: str) -> str:
    """The sentence in pip's output that says what is wrong, without the address of anybody's index."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    errors = [line for line in lines if line.upper().startswith("ERROR")] or lines[-1:]
    return re.sub(r"https?://\S+", _("the index"), errors[-1].removeprefix("ERROR: "))[:300] if errors else ""


def had_no_connection(words: str) -> bool:
    """Whether what pip said is what it says without a way to its index."""
    return "connection broken by" in words

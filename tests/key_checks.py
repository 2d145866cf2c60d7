"""Asks again and again whether an API key opens the door, in a process of its own: prints how often it did.

python -m tests.key_checks KEY TIMES
"""

import json
import sys

import django


def main(key: str, times: int) -> int:
    """How many of `times` checks the key passed before its rate was reached; nothing else may refuse it."""
    django.setup()
    from portal.accounts import credentials
    from portal.accounts.limits import TooMany

    passed = 0
    for _ in range(times):
        try:
            credentials.check(key)
        except TooMany:
            continue
        passed += 1
    return passed


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))

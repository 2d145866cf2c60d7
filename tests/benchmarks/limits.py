"""What counting every request costs: the same requests with a limit that nobody reaches, and without any.

`python -m tests.benchmarks.limits N` measures N pairs in this process's environment and prints them as JSON;
the requests go through the whole of Django, without a server's noise.
"""

import json
import sys
import time
from typing import Any

REQUESTS = 20  # of one measurement
PAIRS = 60
UNREACHED = 100_000_000


def rate_limits(scene: Any, quick: bool) -> Any:
    """Requests to the API by one busy person, counted and not: the ratio of their times."""
    from tests.benchmarks.measure import Pairs, ratio

    measured = scene.stack.run_module("tests.benchmarks.limits", str(5 if quick else PAIRS))
    pairs = Pairs(**measured)
    print(pairs.summary())
    return ratio("rate_limits", pairs, aim=1.02, limit=1.1)


def main(pairs: int) -> dict[str, list[float]]:
    import django

    django.setup()
    from django.conf import settings
    from django.test import Client

    from portal.accounts.models import User
    from tests.benchmarks.measure import interleaved

    settings.ALLOWED_HOSTS = ["*"]
    client = Client()
    client.force_login(User.objects.get(username="ann"))

    def requests(limit: int) -> float:
        settings.RATE_LIMIT_USER_PER_MINUTE = limit
        began = time.perf_counter()
        for _ in range(REQUESTS):
            assert client.get("/api/executions").status_code == 200
        return time.perf_counter() - began

    measured = interleaved(lambda: requests(UNREACHED), lambda: requests(0), pairs)
    return {"ours": measured.ours, "bare": measured.bare}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))

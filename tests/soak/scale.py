"""Every list, search and page of projects takes the same number of queries, however much there is:

python -m tests.soak.scale                        10,000 projects with 100,000 deliverables
python -m tests.soak.scale --postgres             on PostgreSQL, thrown away afterwards
python -m tests.soak.scale --projects 1000        fewer, with ten deliverables each

Each address is asked with `FEW` projects there, with as many as fill its pages (`PEER`), and with all of them:
the queries have to be as many each time, and the time may not have grown by more than `LIMIT` times since the
pages were full (`ratio` of the medians). What looks at every row on purpose, to count it or for a part of a word
(`SCANS`), has `SCAN_MS` instead. So that a busy moment of the machine is not taken for growth, each request goes
by turns with one for a list that stays as it is (`PEER_ADDRESS`), and its time is told in times of that.

The requests go through the whole of Django in this process. One project holds a twentieth as many deliverables
as all others together, half of them versions of one.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests import services
from tests.soak import scale_data

FEW, PEER = 6, 600  # projects of the first measurements
TIMES = 7  # each address is asked
PEER_ADDRESS = "/api/templates"
LIMIT = 4.0
SCANS = {
    *("api/admin/dashboard", "api/projects?count=1", "api/projects?search=shop", "api/admin/projects?search=shop"),
    *("templates", "api/templates/stats"),  # how many projects were made from each
}
SCAN_MS = 500.0


def addresses(made: scale_data.Made) -> dict[str, tuple[str, Any]]:
    """Name → address and who asks, of everything that lists, searches or shows projects and what hangs on them."""
    project, big, deliverable, many = made.project, made.big, made.deliverable, made.versioned
    found = {
        **{f"api/{name}": f"/api/{name}" for name in API},
        **{f"api/projects/{{}}/{name}": f"/api/projects/{project}/{name}" for name in OF_PROJECT},
        **{f"api/projects/{{big}}/{name}": f"/api/projects/{big}/{name}" for name in OF_PROJECT},
        **{f"api/deliverables/{{}}{name}": f"/api/deliverables/{deliverable}{name}" for name in OF_DELIVERABLE},
        **{f"api/deliverables/{{big}}{name}": f"/api/deliverables/{many}{name}" for name in OF_DELIVERABLE},
        "projects": "/projects",
        "projects?q=": "/projects?q=project&status=in_progress&engine=meta-gpt",
        "projects?whose=own": "/projects?whose=own",
        "templates": "/templates",
        "crewai": "/crewai",
        "metagpt": "/metagpt",
        "projects/{}": f"/projects/{project}",
        "projects/{big}": f"/projects/{big}",
        "projects/{big}/deliverables": f"/projects/{big}/deliverables",
        "projects/{big}/deliverables?q=": f"/projects/{big}/deliverables?q=payment car",
        "deliverables/{}": f"/deliverables/{deliverable}",
        "deliverables/{big}": f"/deliverables/{many}",
        "deliverables/{big}/changes": f"/deliverables/{many}/changes",
        "deliverables/{big}/accesses": f"/deliverables/{many}/accesses",
    }
    asked = {name: (address, made.person) for name, address in found.items()}
    admins = ("admin/dashboard", "admin/projects", "admin/projects?search=shop", "projects?count=1")
    return asked | {f"api/{name}": (f"/api/{name}", made.admin) for name in admins}


API = (
    *("projects", "projects?page_size=200", "projects?search=shop", "projects?status=review&ordering=-deadline"),
    *("crewai/projects", "metagpt/projects", "templates", "templates/stats"),
)
OF_PROJECT = (
    *("deliverables", "deliverables?type=code&is_latest=true", "deliverables/search?q=payment%20car"),
    *("deliverables/search?q=%EA%B2%B0%EC%A0%9C", "stages", "stages/design/deliverables", "executions", "status"),
    *("analytics", "accessible-deliverables?role=Engineer", "role-llm-mapping", "members"),
)
OF_DELIVERABLE = ("", "/versions", "/access-log", "/comments", "/diff")


def measured(made: scale_data.Made, times_each: int = TIMES) -> dict[str, dict[str, Any]]:
    """Of each address its queries, its milliseconds, and how many times the peer's those are."""
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    clients = {}
    for person in (made.person, made.admin):
        clients[person.pk] = Client()
        clients[person.pk].force_login(person)
    found: dict[str, dict[str, Any]] = {}
    for name, (address, person) in addresses(made).items():
        client = clients[person.pk]
        times, peers, counts, answer = [], [], [], client.get(address)
        for _ in range(times_each):
            peers.append(_milliseconds(client, PEER_ADDRESS))
            with CaptureQueriesContext(connection) as queries:
                times.append(_milliseconds(client, address))
            counts.append(len(queries))
        if answer.status_code != 200:
            raise AssertionError(f"{address} answered {answer.status_code}: {answer.content[:500]!r}")
        ms = statistics.median(times)
        found[name] = {"queries": statistics.mode(counts), "ms": ms, "times": ms / statistics.median(peers)}
    return found


def _milliseconds(client: Any, address: str) -> float:
    began = time.perf_counter()
    client.get(address)
    return (time.perf_counter() - began) * 1000


def further(made: scale_data.Made) -> dict[str, Any]:
    """Reading the list of all projects page by page: the last pages take no longer than the first."""
    from django.test import Client

    client = Client()
    client.force_login(made.admin)
    times, seen, url = [], 0, "/api/projects?page_size=200"
    while url:
        began = time.perf_counter()
        body = client.get(url).json()
        times.append((time.perf_counter() - began) * 1000)
        seen, url = seen + len(body["results"]), body["next"]
    part = max(len(times) // 5, 1)
    first, last = statistics.median(times[:part]), statistics.median(times[-part:])
    return {"pages": len(times), "projects": seen, "first_ms": round(first, 1), "last_ms": round(last, 1)}


def searched(made: scale_data.Made) -> dict[str, Any]:
    """A search over everything that a person may see: the time, and the rows of its first page."""
    from projects.deliverables import search
    from projects.models import Deliverable, Project

    found = {}
    for person in (made.person, made.admin):
        visible = Deliverable.objects.filter(project__in=Project.objects.visible_to(person), is_latest=True)
        for question in ("payment", "payment car", "결제 장바구니", "zebra", made.rare):
            rows = search.search(visible.defer("content", "search_text", "prompt"), question)
            times = []
            for _ in range(3):
                began = time.perf_counter()
                count = len(rows.order_by("-created_at", "-id")[:51])
                times.append((time.perf_counter() - began) * 1000)
            found[f"{person}: {question}"] = {"rows": count, "ms": round(statistics.median(times), 1)}
    return found


def run(projects: int, seed: int) -> dict[str, Any]:
    """The measurement in this process's database, which is empty."""
    from django.conf import settings
    from django.db import connection

    settings.ALLOWED_HOSTS = ["*"]
    settings.RATE_LIMIT_USER_PER_MINUTE = 0  # counting them is not what is measured
    made = scale_data.begin(random.Random(seed))
    scale_data.fill(made, FEW)
    few = measured(made)
    scale_data.fill(made, PEER - FEW)
    before = measured(made)
    began = time.perf_counter()
    scale_data.fill(made, projects - PEER)
    filled = time.perf_counter() - began
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    after = measured(made)
    rows, wrong = {}, []
    for name, now in after.items():
        was = before[name]
        ratio = now["times"] / was["times"]
        queries = [few[name]["queries"], was["queries"], now["queries"]]
        rows[name] = f"{queries} queries, {was['ms']:.1f} → {now['ms']:.1f} ms, {ratio:.2f}"
        is_slow = now["ms"] > SCAN_MS if name in SCANS else ratio > LIMIT
        if len(set(queries)) > 1 or is_slow:
            wrong.append(name)
    worst = max(now["times"] / before[name]["times"] for name, now in after.items() if name not in SCANS)
    return {
        "ok": not wrong,
        "seed": seed,
        "database": connection.vendor,
        **scale_data.sizes(),
        "fill_seconds": round(filled, 1),
        "wrong": wrong,
        "addresses": rows,
        "ratio": round(worst, 2),
        "limit": LIMIT,
        "paging": further(made),
        "search_of_everything": searched(made),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--projects", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL instead of SQLite")
    options = parser.parse_args()
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="portal-scale-")))
        (folder / "static").mkdir()
        os.environ.update(PORTAL_DATA_DIR=str(folder), DJANGO_SETTINGS_MODULE="portal.settings", LOG_LEVEL="ERROR")
        os.environ.pop("DATABASE_URL", None)
        if options.postgres:
            os.environ["DATABASE_URL"] = services.create_database(running.enter_context(services.postgres()), "scale")
        import django

        django.setup()
        from django.db import connections

        from portal.site.processes import prepare

        prepare()
        found = run(options.projects, options.seed)
        connections.close_all()
    print(json.dumps(found, indent=2, ensure_ascii=False))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())

"""Serving the model's file: llama.cpp's OpenAI-compatible server, in a process of its own, on loopback only."""

import os
import signal
import time
from dataclasses import asdict, dataclass
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from crews.embedded import fetch, files
from crews.embedded.files import Found, ModelUnavailable
from crews.models.catalog import EMBEDDED
from portal.lib.processes import RunLock, holder, is_free, lock_file

HOST = "127.0.0.1"
SLOTS = 2  # requests at once
SLOT_TOKENS = 8192  # what one request may hold, prompt and answer together
PROMPT_CACHE_MIB = 256
NICENESS = 10

# How far the model process is, as its lock says.
FETCHING, LOADING, READY = "fetching", "loading", "ready"


@dataclass(frozen=True)
class Serving:
    """What the model process of this machine is doing. `done` and `total` are bytes while it fetches."""

    state: str
    port: int
    model: str = ""
    done: int = 0
    total: int = 0
    doing: str = ""
    pid: int = 0

    @property
    def is_ready(self) -> bool:
        return self.state == READY


def serving() -> Serving | None:
    """The model process of this data folder, or None when there is none."""
    facts = holder(lock_file("model"))
    if facts is None:
        return None
    return Serving(**{name: facts[name] for name in Serving.__dataclass_fields__ if name in facts} | _missing(facts))


def _missing(facts: dict[str, Any]) -> dict[str, Any]:
    # Between taking the lock and writing it, a holder has said nothing yet.
    return {name: value for name, value in {"state": LOADING, "port": settings.MODEL_PORT}.items() if name not in facts}


def status() -> dict[str, Any]:
    """What `manage.py model status` shows: the file that is (or would be) served, and whether it is."""
    spec, found, problem = files.wanted(), None, ""
    try:
        found = files.find(spec)
    except ModelUnavailable as exc:
        problem = str(exc)
    now = serving()
    if found is not None:
        spec = found.spec
    return {
        "model": spec.key,
        "name": spec.name,
        "publisher": spec.publisher,
        "source": spec.source,
        "licence": spec.licence,
        "sha256": spec.sha256,
        "size": spec.size,
        "path": str(found.path if found else files.folder() / spec.file_name),
        "fetched_from": found.source if found else "",
        "verified": found is not None,
        "running": now is not None,
        "serving": asdict(now) if now else None,
        "can": str(spec.can),
        "cannot": str(spec.cannot),
        "problem": problem,
    }


class _Noted:
    """Passes a fetch's progress on, and notes it in the lock, where other processes read it."""

    def __init__(self, lock: RunLock, report: fetch.Report) -> None:
        self._lock, self._report, self._noted = lock, report, 0.0

    def moved(self, done: int, total: int, doing: str) -> None:
        self._report.moved(done, total, doing)
        if time.monotonic() - self._noted > 0.5:
            self._noted = time.monotonic()
            self._lock.update(state=FETCHING, done=done, total=total, doing=doing)

    def note(self, text: str) -> None:
        self._report.note(text)


def run(report: fetch.Report) -> None:
    """Fetch the model if need be and serve it until SIGTERM or SIGINT.

    Raises `ModelUnavailable`, and `AlreadyRunning` when this data folder has a model process.
    """
    os.nice(NICENESS)
    with RunLock(lock_file("model")).acquire(port=settings.MODEL_PORT, state=FETCHING) as lock:
        found = fetch.ensure(_Noted(lock, report))
        lock.update(state=LOADING, model=found.spec.key)
        server = _start(found)
        lock.update(state=READY)
        report.note(_("Serving %(model)s at %(address)s.") % {"model": found.spec.name, "address": settings.MODEL_URL})
        ends = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)
        signal.sigwait(ends)
        # Its threads may be in the middle of an answer that nobody will read: nothing is worth waiting for.
        lock.release()
        os._exit(0 if server is not None else 1)


def _start(found: Found) -> Any:
    """llama.cpp's server; it answers when this returns."""
    if not is_free(HOST, settings.MODEL_PORT):
        raise ModelUnavailable(
            _("PORTAL_MODEL_PORT: port %d is taken by another program.") % settings.MODEL_PORT,
        )
    try:
        import xllamacpp
    except ImportError as exc:
        raise ModelUnavailable(
            _("The model's program does not start here (%s). It needs the library libgomp (Debian: libgomp1).") % exc
        ) from exc
    cores = len(os.sched_getaffinity(0))
    params = xllamacpp.CommonParams()
    params.model.path = str(found.path)
    params.n_ctx, params.n_parallel, params.kv_unified = SLOTS * SLOT_TOKENS, SLOTS, False
    params.hostnames, params.port, params.model_alias = [HOST], settings.MODEL_PORT, {EMBEDDED}
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = cores
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.ui, params.offline, params.verbosity = False, True, 1
    try:
        return xllamacpp.Server(params)
    except (RuntimeError, ValueError) as exc:
        raise ModelUnavailable(_("The model could not be loaded: %s") % exc) from exc

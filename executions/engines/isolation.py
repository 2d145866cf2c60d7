"""How far a run is kept from the rest of the machine, in tiers.

`user`      where the host is root: a user of its own for each run, and all of the next tier that the kernel has
`landlock`  no new privileges, no capabilities; the file system but for the code and the run's own folder is out of
            reach, and so is every port but the gateway's (`landlock`, `seccomp`)
`none`      neither works here: the engine can read what the portal's user can

The host finds its tier by trying it in a child (`best_tier`); a run that cannot enter that tier does not start.
"""

import ctypes
import enum
import ipaddress
import os
import resource
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from executions.engines import landlock, seccomp
from executions.engines.launch import ROOT
from executions.engines.registry import Engine

FIRST_UID = 60000
SLOTS = 1000
GIB = 1 << 30
MEMORY = 4 * GIB  # address space beyond what the host has already
FILE_SIZE = 200 << 20
OPEN_FILES = 1024
PROCESSES = 512  # threads count too

PR_SET_NO_NEW_PRIVS = 38
PR_CAPBSET_DROP = 24
_CAPABILITY_VERSION = 0x20080522
_LAST_CAPABILITY = 63

# What any program needs to run, resolve a name and check a certificate; nothing in it is a secret.
_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/bin", "/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/ld.so.cache"),
    *("/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf", "/etc/localtime"),
    *("/dev/urandom", "/dev/random", "/dev/zero"),
)


class Tier(enum.Enum):
    USER = "user"
    LANDLOCK = "landlock"
    NONE = "none"


@dataclass(frozen=True)
class Need:
    """What a run may touch: the code, its folder, the gateway."""

    code: tuple[Path, ...]
    work: Path
    port: int
    resolves_names: bool = False
    runs_programs: bool = False
    uid: int | None = None

    @classmethod
    def of(cls, engine: Engine, adapter: ModuleType, work: Path, gateway: str, uid: int | None) -> "Need":
        """What a run of `engine` needs to call the gateway at the URL `gateway`."""
        parts = urlsplit(gateway)
        return cls(
            code=code_folders(Path(str(adapter.__file__)).parent),
            work=work,
            port=parts.port or (443 if parts.scheme == "https" else 80),
            resolves_names=not _is_address(parts.hostname or ""),
            runs_programs=engine.runs_programs,
            uid=uid,
        )


class Slots:
    """Users for runs: numbers that no account has, one a run while it lasts."""

    def __init__(self, tier: Tier) -> None:
        self._free = list(range(FIRST_UID + SLOTS - 1, FIRST_UID - 1, -1)) if tier is Tier.USER else []

    def take(self) -> int | None:
        return self._free.pop() if self._free else None

    def give_back(self, uid: int | None) -> None:
        if uid is not None:
            self._free.append(uid)


def code_folders(adapter: Path) -> tuple[Path, ...]:
    """Where the interpreter, its packages and the engine's own code are."""
    installed = (Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    found = {Path(sys.prefix), Path(sys.base_prefix), *installed, ROOT / "executions" / "engines", adapter}
    return tuple(sorted(path for path in found if path.exists()))


def best_tier(adapter: Path, folder: Path) -> Tier:
    """The strongest tier that works here. `folder` is private to the portal; a probe makes a work folder in it."""
    for tier in (Tier.USER, Tier.LANDLOCK):
        if tier is Tier.USER and os.geteuid() != 0:
            continue
        if _holds(tier, adapter, folder):
            return tier
    return Tier.NONE


def enter(tier: Tier, need: Need) -> None:
    """Confine this process, which has one thread, for good. Raises OSError when the tier does not hold here."""
    limit_resources(tier)
    if tier is Tier.NONE:
        return
    if tier is Tier.USER:
        if need.uid is None:
            raise OSError("no user is free for this run")
        os.chown(need.work, need.uid, need.uid)
        os.setgroups([])
        os.setresgid(need.uid, need.uid, need.uid)
        os.setresuid(need.uid, need.uid, need.uid)
    drop_privileges()
    if landlock.version() > 0:
        read = [*map(Path, _SYSTEM), *need.code]
        landlock.restrict(read=read, write=[need.work], devices=[Path("/dev/null")], port=need.port,
                          execute=need.runs_programs)  # fmt: skip
    elif tier is Tier.LANDLOCK:
        raise OSError("this kernel has no Landlock")
    seccomp.restrict(datagrams=need.resolves_names)


def limit_resources(tier: Tier) -> None:
    """Bounds that a sane run never meets."""
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: FILE_SIZE,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_AS: _address_space() + MEMORY,
    }
    if tier is Tier.USER:  # it counts all processes of a user
        limits[resource.RLIMIT_NPROC] = PROCESSES
    for kind, wanted in limits.items():
        _, hard = resource.getrlimit(kind)
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (limit, limit))


def drop_privileges() -> None:
    """No capability is left, and no program that is started brings any back."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        for capability in range(_LAST_CAPABILITY + 1):
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails for numbers that the kernel does not have
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if libc.capset(header, nothing) != 0 or libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _holds(tier: Tier, adapter: Path, folder: Path) -> bool:
    """Whether a child in `tier` still reads the code and its own folder, and nothing else of ours."""
    with tempfile.TemporaryDirectory(prefix="probe-", dir=folder) as made:
        work, ours = Path(made, "work"), Path(made, "ours")
        work.mkdir()
        ours.touch(0o644)  # as files of the portal are made without further thought
        Path(made).chmod(0o711)
        uid = FIRST_UID + SLOTS if tier is Tier.USER else None
        need = Need(code=code_folders(adapter), work=work, port=9, uid=uid)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                enter(tier, need)
                code = 0 if _is_as_it_should_be(need, ours) else 1
            except OSError:  # it does not hold: the parent learns so
                code = 1
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _is_as_it_should_be(need: Need, ours: Path) -> bool:
    (need.work / "file").write_text("")
    for folder in need.code:
        next(folder.iterdir(), None)
    for file in (os.__file__, ctypes.__file__, __file__):
        Path(file).read_bytes()
    try:
        ours.read_bytes()
    except PermissionError:
        return True
    return False


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True

"""Starts one generated program inside a run that is isolated already, and takes from it what it has no use for.

    python -I confined.py FOLDER SECONDS ARGUMENT…

It may read the interpreter and its own folder, write there, use `SECONDS` of processor time and a bounded amount of
memory; it has no network at all, no rights that it could gain, and the environment that it was given. Ends with
`UNCONFINED` before anything was run when the kernel cannot hold that.
"""

import ctypes
import os
import resource
import signal
import sys
import sysconfig
import types
from pathlib import Path

UNCONFINED = 97
PR_SET_PDEATHSIG = 1
MIB = 1 << 20
MEMORY = 1024 * MIB
FILE_SIZE = 16 * MIB
OPEN_FILES = 128
PROCESSES = 512  # of its user's
_SYSTEM = (
    *("/usr/lib", "/lib", "/lib64", "/usr/lib64", "/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo"),
    *("/dev/urandom", "/dev/random", "/dev/zero"),
)


def main(folder: Path, seconds: int, program: list[str]) -> None:
    """Become the program. Does not return."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    interpreter = Path(sys.executable).resolve()
    try:
        confine(folder, seconds, interpreter)
        os.chdir(folder)
        # -S: the standard library alone; the folder of the program comes first in its path.
        arguments = [str(interpreter), "-E", "-s", "-S", "-B", *program]
        os.execve(interpreter, arguments, dict(os.environ))  # noqa: S606 - a list of our own
    except (OSError, ImportError) as exc:
        sys.stderr.write(f"not confined: {exc}\n")
        os._exit(UNCONFINED)


def confine(folder: Path, seconds: int, interpreter: Path) -> None:
    """Restrict this process for good. Raises OSError when the kernel cannot."""
    from executions.engines import isolation, landlock, seccomp

    if not seccomp.is_known() or landlock.version() < 1:
        raise OSError("this kernel cannot confine programs")
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_FSIZE: FILE_SIZE,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_NPROC: PROCESSES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, wanted in limits.items():
        _, hard = resource.getrlimit(kind)
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (limit, limit))
    isolation.drop_privileges()
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    home = Path(sys.base_prefix)
    read = [*map(Path, _SYSTEM), *installed, interpreter, home / "lib"]
    landlock.restrict(read=read, write=[folder], devices=[Path("/dev/null")], port=None, execute=True)
    seccomp.restrict(datagrams=False, streams=False)


def find_engines() -> None:
    """Have `executions.engines` found: a run may read that folder, but may not look for it in those above."""
    engines = Path(__file__).resolve().parents[1]
    for name, folder in (("executions", engines.parent), ("executions.engines", engines)):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package


if __name__ == "__main__":
    find_engines()
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])

"""Landlock, the kernel's sandbox for unprivileged processes (`man 7 landlock`), by its three system calls."""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_ASK_VERSION = 1
_RULE_PATH, _RULE_PORT = 1, 2

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1 << 0, 1 << 1

_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE  # those that fit what is no folder


class _Ruleset(ctypes.Structure):
    _fields_ = [("filesystem", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


class _PortRule(ctypes.Structure):
    _fields_ = [("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64)]


def version() -> int:
    """The version of the kernel's interface; 0 where there is none."""
    return max(0, ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION)))


def restrict(
    *, read: Iterable[Path], write: Iterable[Path], devices: Iterable[Path], port: int | None, execute: bool = False
) -> None:
    """Confine this thread and all it starts to these paths and to TCP connections to this port; None: to no port.

    `read` may be read (and, with `execute`, run), `write` also changed, `devices` are files to read and
    write. What the kernel's version does not know is left open: ports before 4, signals and abstract
    sockets before 6. Paths that do not exist are left out. Needs no-new-privileges; raises OSError.
    """
    abi = version()
    everything = (1 << (13 if abi < 2 else 14 if abi < 3 else 15 if abi < 5 else 16)) - 1
    ruleset = _Ruleset(
        filesystem=everything,
        network=_BIND_TCP | _CONNECT_TCP if abi >= 4 else 0,
        scoped=_SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if abi >= 6 else 0,
    )
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    rules = _call(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        reading = _READ_FILE | _READ_DIR | (_EXECUTE if execute else 0)
        for paths, rights in (
            (read, reading),
            (write, everything & ~_IOCTL_DEVICE & ~(0 if execute else _EXECUTE)),
            (devices, _READ_FILE | _WRITE_FILE | _TRUNCATE),
        ):
            for path in paths:
                _allow(rules, path, rights & everything)
        if abi >= 4 and port is not None:
            rule = _PortRule(allowed=_CONNECT_TCP, port=port)
            _call(_ADD_RULE, rules, _RULE_PORT, ctypes.byref(rule), ctypes.c_uint32(0))
        _call(_RESTRICT_SELF, rules, ctypes.c_uint32(0))
    finally:
        os.close(rules)


def _allow(rules: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rule = _PathRule(allowed=rights if path.is_dir() else rights & _FILE_RIGHTS, parent=descriptor)
        _call(_ADD_RULE, rules, _RULE_PATH, ctypes.byref(rule), ctypes.c_uint32(0))
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    result: int = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result

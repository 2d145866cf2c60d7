"""A filter of system calls for what Landlock leaves open: sockets that are not TCP, and other processes' memory.

Landlock does not guard connections to Unix sockets by path, and the portal's own are such.
"""

import ctypes
import os
import platform
import socket
import struct
from dataclasses import dataclass

PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | 1  # errno EPERM

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24  # offsets in struct seccomp_data
_SOCKET_TYPE = 0xF  # the rest are flags
_FOREIGN_NUMBERS = 0x40000000  # x32's

_COMMON = (425, 426, 427, 438)  # io_uring_*, which opens sockets past this filter; pidfd_getfd


@dataclass(frozen=True)
class _Machine:
    """The numbers of system calls on one architecture."""

    audit: int
    socket: int
    refused: tuple[int, ...]  # ptrace, process_vm_*, bpf, perf, userfaultfd, keys, mount, unshare, setns


_MACHINES = {
    "x86_64": _Machine(0xC000003E, 41, (101, 310, 311, 321, 298, 323, 248, 249, 250, 165, 272, 308)),
    "aarch64": _Machine(0xC00000B7, 198, (117, 270, 271, 280, 241, 282, 217, 218, 219, 40, 97, 268)),
}


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def is_known() -> bool:
    """Whether the numbers of this machine's system calls are known, so that `restrict` does something."""
    return platform.machine() in _MACHINES


def restrict(*, datagrams: bool, streams: bool = True) -> None:
    """Refuse those calls to this thread and all it starts; `datagrams`: allow UDP, which looking up names needs;
    `streams`: allow TCP.

    Does nothing on architectures whose numbers are not known here. Needs no-new-privileges; raises OSError.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return
    code = _filter(machine, datagrams, streams)
    program = _Program(len(code) // 8, code)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _filter(machine: _Machine, datagrams: bool, streams: bool) -> bytes:
    """The program: each jump names how many instructions to skip when it holds, and when it does not."""

    def line(code: int, value: int, holds: int = 0, fails: int = 0) -> bytes:
        return struct.pack("HBBI", code, holds, fails, value)

    refuse, allow = line(_RETURN, _REFUSE), line(_RETURN, _ALLOW)
    kinds = [*([socket.SOCK_STREAM] if streams else []), *([socket.SOCK_DGRAM] if datagrams else [])]
    lines = [
        *(line(_LOAD, _ARCHITECTURE), line(_JUMP_EQUAL, machine.audit, 1), refuse),
        *(line(_LOAD, _NUMBER), line(_JUMP_AT_LEAST, _FOREIGN_NUMBERS, 0, 1), refuse),
    ]
    for number in (*machine.refused, *_COMMON):
        lines += [line(_JUMP_EQUAL, number, 0, 1), refuse]
    lines += [line(_JUMP_EQUAL, machine.socket, 1), allow]
    lines += [line(_LOAD, _FIRST_ARGUMENT), line(_JUMP_EQUAL, socket.AF_INET, 2)]
    lines += [line(_JUMP_EQUAL, socket.AF_INET6, 1), refuse]
    lines += [line(_LOAD, _SECOND_ARGUMENT), line(_AND, _SOCKET_TYPE)]
    for kind in kinds:
        lines += [line(_JUMP_EQUAL, kind, 0, 1), allow]
    return b"".join([*lines, refuse])

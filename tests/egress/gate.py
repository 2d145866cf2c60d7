"""Runs a command where nothing outside can be reached, and says what tried to, and where to.

    python -m tests.egress [--allow HOST[:PORT]]… -- COMMAND…

The command gets a network of its own (a namespace of the kernel): loopback as usual, and a default
route into a tunnel whose other end is held here. So whatever leaves is seen, by whatever means it was
sent: there is no library to be preloaded and no system call to be watched, and neither a scrubbed
environment nor another user hides anything. A connection that is attempted waits for an answer that
never comes, which leaves time to look up in /proc whose it is. Name servers on loopback are listened
for there, so that names are seen too.

Ends with 3 when something tried to leave, else with the command's own code. Needs Linux, root (or
CAP_NET_ADMIN and CAP_SYS_ADMIN) and /dev/net/tun: `why_impossible` says what is missing.
"""

import contextlib
import ctypes
import fcntl
import ipaddress
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SEEN = 3  # the exit code
PATIENCE = 2.0  # seconds after the command's end in which what it sent may still arrive here
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_TUN, _NO_INFO = 0x1, 0x1000
_SET_TUN, _GET_FLAGS, _SET_FLAGS, _SET_ADDRESS, _SET_MASK, _ADD_ROUTE, _GET_INDEX = (
    *(0x400454CA, 0x8913, 0x8914, 0x8916, 0x891C, 0x890B, 0x8933),
)
_UP = 0x1
_DEVICE = b"egress0"
_TCP, _UDP, _ICMP6 = 6, 17, 58
_PROTOCOLS = {_TCP: "tcp", _UDP: "udp", 1: "icmp", _ICMP6: "icmp6"}


@dataclass(frozen=True)
class Attempt:
    """Something that tried to leave: `process` is its command line, with those of its parents."""

    process: str
    protocol: str
    host: str
    port: int
    name: str = ""  # that a name server was asked for

    def __str__(self) -> str:
        asked = f" asking for {self.name}" if self.name else ""
        return f"{self.protocol} to {self.host} port {self.port}{asked}, by {self.process}"


class Impossible(Exception):
    """A network of its own cannot be made here."""


def why_impossible() -> str:
    """What keeps the gate from working on this machine; empty when nothing does."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.egress", "--", sys.executable, "-c", ""],
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it does not start"])[-1]


def run(command: Sequence[str], *, allowed: Sequence[str] = ()) -> tuple[int, list[Attempt]]:
    """Run `command` shut in; its exit code and what tried to leave, beside what is `allowed` ("host", "host:port").

    Shuts this process in too, for good. Raises `Impossible`.
    """
    with _Tunnel() as tunnel:
        child = subprocess.Popen(command)
        code = child.wait()
        time.sleep(PATIENCE)
        seen = [found for found in tunnel.attempts if not {found.host, f"{found.host}:{found.port}"} & set(allowed)]
    return code, list(dict.fromkeys(seen))


class _Tunnel:
    """The way out, which ends here."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self._flows: set[tuple[int, int, str, int]] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> "_Tunnel":
        # Each thread has a network of its own: those that come after this one share it.
        if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK):
            raise Impossible(f"no network of its own: {os.strerror(ctypes.get_errno())}")
        try:
            self._file = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(self._file, _SET_TUN, struct.pack("16sH22x", _DEVICE, _TUN | _NO_INFO))
            _open_ways()
        except OSError as exc:
            raise Impossible(f"no tunnel: {exc}") from exc
        for target in (self._read, *self._name_servers()):
            threading.Thread(target=target, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def _read(self) -> None:
        while True:
            try:
                packet = os.read(self._file, 65536)
            except OSError:
                return
            if read := _parsed(packet):
                self._note(*read)

    def _note(self, protocol: int, port: int, host: str, to: int, payload: bytes) -> None:
        flow = (protocol, port, host, to)
        name = _question(payload) if to == 53 else ""
        with self._lock:
            if flow in self._flows:
                return
            self._flows.add(flow)
        process = _process_of(protocol, port)
        self.attempts.append(Attempt(process, _PROTOCOLS.get(protocol, str(protocol)), host, to, name))

    def _name_servers(self) -> Iterator[object]:
        """For each name server on loopback something that listens where it would."""
        with contextlib.suppress(OSError):
            for line in Path("/etc/resolv.conf").read_text().splitlines():
                words = line.split()
                if words[:1] == ["nameserver"] and len(words) > 1 and ipaddress.ip_address(words[1]).is_loopback:
                    listener = socket.socket(socket.AF_INET6 if ":" in words[1] else socket.AF_INET, socket.SOCK_DGRAM)
                    listener.bind((words[1], 53))
                    yield lambda listener=listener, host=words[1]: self._listen(listener, host)

    def _listen(self, listener: socket.socket, host: str) -> None:
        while True:
            payload, sender = listener.recvfrom(4096)
            self._note(_UDP, sender[1], host, 53, payload)


def _open_ways() -> None:
    """Bring loopback and the tunnel up, with a default route into it, for IPv4 and, where there is one, IPv6."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        address = struct.pack("16sHH4s8x", _DEVICE, socket.AF_INET, 0, socket.inet_aton("198.18.0.1"))
        fcntl.ioctl(control, _SET_ADDRESS, address)
        mask = struct.pack("16sHH4s8x", _DEVICE, socket.AF_INET, 0, socket.inet_aton("255.255.255.0"))
        fcntl.ioctl(control, _SET_MASK, mask)
        for device in (b"lo", _DEVICE):
            found = fcntl.ioctl(control, _GET_FLAGS, struct.pack("16sH14x", device, 0))
            flags = struct.unpack_from("H", found, 16)[0]
            fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sH14x", device, flags | _UP))
        index = struct.unpack_from("i", fcntl.ioctl(control, _GET_INDEX, struct.pack("16si12x", _DEVICE, 0)), 16)[0]
        anywhere = struct.pack("HH4s8x", socket.AF_INET, 0, bytes(4))
        device_name = ctypes.create_string_buffer(_DEVICE)
        # struct rtentry: padding, destination, gateway, mask, flags, …, the device's name, …
        route = struct.pack(
            "L16s16s16sHhLPh6xPLLH6x", 0, anywhere, anywhere, anywhere, _UP, 0, 0, 0, 0,
            ctypes.addressof(device_name), 0, 0, 0,
        )  # fmt: skip
        fcntl.ioctl(control, _ADD_ROUTE, route)
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
        own = socket.inet_pton(socket.AF_INET6, "2001:db8::1")
        fcntl.ioctl(control, _SET_ADDRESS, struct.pack("16sIi", own, 64, index))
        # struct in6_rtmsg: destination, source, gateway, type, lengths, metric, info, flags, device
        route = struct.pack("16s16s16sIHHILIi", bytes(16), bytes(16), bytes(16), 0, 0, 0, 1, 0, _UP, index)
        fcntl.ioctl(control, _ADD_ROUTE, route)


def _parsed(packet: bytes) -> tuple[int, int, str, int, bytes] | None:
    """Protocol, own port, destination, its port and what is sent; None for what the kernel says by itself."""
    if packet[0] >> 4 == 4:
        protocol, start = packet[9], (packet[0] & 0xF) * 4
        host = socket.inet_ntop(socket.AF_INET, packet[16:20])
    else:
        protocol, start = packet[6], 40
        host = socket.inet_ntop(socket.AF_INET6, packet[24:40])
        if ipaddress.ip_address(host).is_multicast and protocol in {0, _ICMP6}:
            return None  # neighbours and routers are looked for
    if protocol not in {_TCP, _UDP}:
        return protocol, 0, host, 0, b""
    port, to = struct.unpack_from("!HH", packet, start)
    return protocol, port, host, to, packet[start + 8 :]


def _question(payload: bytes) -> str:
    """The name that a DNS query asks for (RFC 1035)."""
    labels, at = [], 12
    while at < len(payload) and (length := payload[at]) and length < 64:
        labels.append(payload[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    return ".".join(labels)


def _process_of(protocol: int, port: int) -> str:
    """Whose socket has that port: the command line, and those of the parents."""
    kind = _PROTOCOLS.get(protocol, "raw")
    inodes = set()
    for table in (f"/proc/net/{kind}", f"/proc/net/{kind}6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                for descriptor in (folder / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        if str(descriptor.readlink()) in inodes:
                            return " < ".join(_lineage(int(folder.name)))
    return "a process that has ended"


def _lineage(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        while pid > 1 and pid != os.getpid():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ").split()
            yield f"{pid} {' '.join(words)[:200]}"
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

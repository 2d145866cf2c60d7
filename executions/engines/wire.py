"""The messages between a runner and an engine host: JSON in the packets of a Unix socket, one connection a run.

runner → host   {"start": {"run": "<execution>/<attempt>", "work": folder}} with four descriptors:
                the RunSpec (read), the events file, the bell (both write), the log
host → runner   {"pid": n}, and when the engine has ended {"exit": code} or {"signal": number}
runner → host   {"pause": true}: the engine's own process is asked to start no further task
runner → host   {"kill": true}; closing the connection does the same
runner → host   {"hello": true}; answered with {"engine", "version", "isolation", "pid"}
host → runner   {"refused": why}
"""

import json
import socket
from typing import Any

MAX_PACKET = 65536
MARKER = "PORTAL_RUN"  # environment variable of every process of a run: "<execution>/<attempt>"


def pack(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


def unpack(packet: bytes) -> dict[str, Any]:
    """Raises ValueError when the packet is not a JSON object."""
    message = json.loads(packet)
    if not isinstance(message, dict):
        raise ValueError("a message is a JSON object")
    return message


def new_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)

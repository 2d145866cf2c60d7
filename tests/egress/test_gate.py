"""Nothing of the portal reaches out, and the gate would notice if it did."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import services
from tests.egress import OUTSIDE, gate

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def can_be_closed() -> None:
    if why := gate.why_impossible():
        if services.required("egress"):
            pytest.fail(f"{why} (PORTAL_TEST_REQUIRE)", pytrace=False)
        pytest.skip(why)


def behind_the_gate(*command: str, allow: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    allowed = [word for host in allow for word in ("--allow", host)]
    return subprocess.run(
        [sys.executable, "-m", "tests.egress", *allowed, "--", *command],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


PLANTED = {
    "a connection": f"import socket; socket.create_connection(('{OUTSIDE}', 443), 0.2)",
    "a datagram": f"import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('{OUTSIDE}', 443))",
    "a name": "import socket; socket.getaddrinfo('telemetry.example.com', 443)",
    "a child of another user": (
        "import os, socket\n"
        "if os.fork() == 0:\n"
        "    os.setuid(65534); os.environ.clear(); s = socket.socket(); s.settimeout(1)\n"
        f"    s.connect(('{OUTSIDE}', 443))\n"
        "os.wait()\n"
    ),
    "a child that stays behind": (
        "import os, socket, time\n"
        "if os.fork() == 0:\n"
        f"    os.setsid(); time.sleep(0.3); socket.create_connection(('{OUTSIDE}', 443), 1)\n"
    ),
}


@pytest.mark.parametrize("what", PLANTED)
def test_what_is_planted_is_noticed(what: str) -> None:
    done = behind_the_gate("env", "RES_OPTIONS=timeout:1 attempts:1", sys.executable, "-c", PLANTED[what])
    leaks = [line for line in done.stdout.splitlines() if line.startswith("LEAK")]
    assert leaks, done
    assert done.returncode != 0
    assert "telemetry.example.com" in leaks[0] if what == "a name" else f"to {OUTSIDE} port 443" in leaks[0]
    if what != "a datagram":  # which is gone before anybody can ask whose it was
        assert "python" in leaks[0]


def test_what_is_expected_may_pass() -> None:
    planted = (sys.executable, "-c", f"import socket; socket.socket().connect_ex(('{OUTSIDE}', 443))")
    quick = ("timeout", "1", *planted)
    assert behind_the_gate("sh", "-c", 'timeout 1 "$@"; true', "x", *planted).returncode == gate.SEEN
    assert behind_the_gate(*quick, allow=(f"{OUTSIDE}:443",)).stdout == ""


def test_the_portal_keeps_to_itself() -> None:
    done = behind_the_gate(sys.executable, "-m", "tests.egress.scene")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_gateway_is_seen_when_it_goes_out() -> None:
    done = behind_the_gate(sys.executable, "-m", "tests.egress.scene", "--outside")
    leaks = [line for line in done.stdout.splitlines() if line.startswith("LEAK")]
    assert done.returncode == gate.SEEN, done.stdout + done.stderr
    assert {leak.split(", by")[0] for leak in leaks} == {f"LEAK tcp to {OUTSIDE} port 80"}
    assert any("manage.py gateway" in leak for leak in leaks)
    assert any("manage.py web" in leak for leak in leaks)

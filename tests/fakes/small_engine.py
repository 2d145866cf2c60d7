"""An engine with an interpreter of its own and one tiny package, which needs no network to be installed."""

import hashlib
import zipfile
from pathlib import Path

from executions.engines.environments import Environment
from executions.engines.registry import Engine

VERSION = "1.2.3"


def small_engine(folder: Path, *, megabytes: int = 1, wrong_hash: bool = False) -> Engine:
    """Makes the package's wheel in `folder`, to be found with `PIP_FIND_LINKS`, and the lock that names it."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"small_engine-{VERSION}-py3-none-any.whl"
    about = f"small_engine-{VERSION}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("small_engine.py", "answer = 42\n")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: small-engine\nVersion: {VERSION}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    digest = "0" * 64 if wrong_hash else hashlib.sha256(wheel.read_bytes()).hexdigest()
    lock = folder / "requirements.txt"
    lock.write_text(f"small-engine=={VERSION} --hash=sha256:{digest}\n")
    environment = Environment("small", lock=lock, megabytes=megabytes)
    return Engine(
        key="small", label="Small", module="small_engine", distribution="small-engine", environment=environment
    )

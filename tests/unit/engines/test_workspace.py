import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from executions.engines import workspace
from executions.engines.output import Failed


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "work"
    (found / "src" / "deep").mkdir(parents=True)
    (found / "src" / "deep" / "main.py").write_text("print('안녕')")
    (found / "run.sh").write_text("#!/bin/sh")
    (found / "run.sh").chmod(0o700)
    (found / "empty").mkdir()
    return found


def moved(folder, tmp_path):
    """The folder's files where a later attempt finds them."""
    there = tmp_path / "there"
    there.mkdir()
    name = workspace.Keeper(folder).keep()[workspace.KEY]
    (folder / name).rename(there / name)
    workspace.Keeper(there).restore()
    return there


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_files_come_back_as_they_were(folder, tmp_path):
    (folder / "link").symlink_to("src/deep/main.py")
    there = moved(folder, tmp_path)
    assert tree(there) == ["empty", "link", "run.sh", "src", "src/deep", "src/deep/main.py"]
    assert (there / "link").read_text() == "print('안녕')"
    assert os.access(there / "run.sh", os.X_OK)


def test_tasks_that_end_at_the_same_time_keep_their_files_one_after_the_other(folder):
    (folder / "large").write_bytes(os.urandom(1 << 20))
    keeper = workspace.Keeper(folder)
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda _: keeper.keep()[workspace.KEY], range(24)))
    archives = {(folder / name).read_bytes() for name in kept}
    assert len(set(kept)) == 24
    assert len(archives) == 1  # none has the unfinished archive of another in it


def test_what_a_task_removes_meanwhile_is_left_out(folder, tmp_path, monkeypatch):
    def remove_and_ask(path, ask=os.lstat):
        found = ask(path)
        if path.name == "run.sh":
            path.unlink()
        elif path.name == "main.py":
            path.unlink()
            raise FileNotFoundError
        return found

    monkeypatch.setattr(workspace.os, "lstat", remove_and_ask)
    assert tree(moved(folder, tmp_path)) == ["empty", "src", "src/deep"]


def test_the_same_files_make_the_same_archive(folder, tmp_path):
    keeper = workspace.Keeper(folder)
    names = [keeper.keep()[workspace.KEY]]
    os.utime(folder / "run.sh", (1, 1))
    names.append(keeper.keep()[workspace.KEY])
    assert names[0] != names[1]
    assert (folder / names[0]).read_bytes() == (folder / names[1]).read_bytes()  # nor is the first in the second
    there = tmp_path / "there"
    there.mkdir()
    for path in reversed(tree(folder)):  # made in another order
        if (folder / path).is_file() and not path.startswith("portal-"):
            (there / path).parent.mkdir(parents=True, exist_ok=True)
            (there / path).write_bytes((folder / path).read_bytes())
            (there / path).chmod((folder / path).stat().st_mode)
    (there / "empty").mkdir()
    workspace.pack(there, there / "portal-workspace-1.tar.gz")
    assert (there / "portal-workspace-1.tar.gz").read_bytes() == (folder / names[0]).read_bytes()


def test_what_leads_out_or_is_no_file_is_left_behind(folder, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (folder / "absolute").symlink_to(tmp_path / "secret")
    (folder / "src" / "up").symlink_to("../../secret")
    (folder / "src" / "in").symlink_to("../run.sh")
    os.mkfifo(folder / "pipe")
    assert tree(moved(folder, tmp_path)) == ["empty", "run.sh", "src", "src/deep", "src/deep/main.py", "src/in"]


@pytest.mark.parametrize(("limit", "value"), [("MAX_BYTES", 10), ("MAX_FILES", 2)])
def test_more_than_can_be_kept_is_a_failure_and_leaves_no_archive(folder, monkeypatch, limit, value):
    before = tree(folder)
    monkeypatch.setattr(workspace, limit, value)
    with pytest.raises(Failed, match="too many to be kept"):
        workspace.Keeper(folder).keep()
    assert tree(folder) == before


def test_without_an_archive_nothing_is_put_back(tmp_path):
    workspace.Keeper(tmp_path).restore()
    assert tree(tmp_path) == []


@pytest.mark.parametrize("name", ["../out", "/elsewhere"])
def test_an_archive_that_writes_elsewhere_is_refused(tmp_path, name):
    work = tmp_path / "work"
    work.mkdir()
    with tarfile.open(work / "portal-workspace-1.tar.gz", "w:gz") as tar:
        link = tarfile.TarInfo("door")
        link.type, link.linkname = tarfile.SYMTYPE, name
        tar.addfile(link)
        item = tarfile.TarInfo("door")
        item.size = 2
        tar.addfile(item, io.BytesIO(b"hi"))
    with pytest.raises(Failed, match="could not be put back"):
        workspace.Keeper(work).restore()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../out", "/elsewhere", "src/../../out"])
def test_a_file_whose_name_leads_elsewhere_is_refused(tmp_path, name):
    work = tmp_path / "work"
    work.mkdir()
    with tarfile.open(work / "portal-workspace-1.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(Failed, match="could not be put back"):
        workspace.Keeper(work).restore()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("raw", [b"", b"no archive", b"\x1f\x8b\x08\x00torn"])
def test_an_archive_that_is_torn_is_a_failure(tmp_path, raw):
    (tmp_path / "portal-workspace-1.tar.gz").write_bytes(raw)
    with pytest.raises(Failed, match="could not be put back"):
        workspace.Keeper(tmp_path).restore()

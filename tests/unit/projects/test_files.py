"""The rules for files of a bundle."""

import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from portal.lib.problems import InvalidValues
from projects.deliverables import files

GOOD = [
    "a",
    "src/main.py",
    ".gitignore",
    "docs/한글 이름.md",
    "a..b",
    "x" * 250,
    "e\u0301.txt",
    "con/aux",
    "...",
    "ab:c",
]
BAD = [
    *("", " ", "/etc/passwd", "..", "../a", "a/../b", "a//b", "a/", "./a", "a/.", "C:/x", "c:x", "\\a", "a\\b"),
    *("a\0b", "a\nb", "a\x7f", "a\u202eb", "a\u2028b", "\ufeffa", "a /b", "a/ b", "x" * 251, "a\ud800"),
]


def entry(path, content="x"):
    return {"path": path, "content": content}


@pytest.mark.parametrize("path", GOOD)
def test_good_paths(path):
    assert files.path_fault(path) == ""


@pytest.mark.parametrize("path", BAD)
def test_bad_paths_are_told_why(path):
    assert files.path_fault(path).endswith(".")
    with pytest.raises(InvalidValues) as caught:
        files.cleaned([entry("fine"), entry(path)])
    (error,) = caught.value.errors
    assert (error.field, error.code) == ("files.1.path", "invalid_path")


@pytest.mark.parametrize(
    "paths", [["a", "a"], ["A.py", "a.PY"], ["a", "a/b"], ["a/b", "A"], ["\u00e9", "e\u0301"], ["x/y/z", "x/y"]]
)
def test_a_path_stands_there_once(paths):
    with pytest.raises(InvalidValues) as caught:
        files.cleaned(map(entry, paths))
    assert [error.code for error in caught.value.errors] == ["taken"]


def test_files_may_share_folders():
    assert list(files.cleaned(map(entry, ["b/c", "b/a", "b/d/e", "a"]))) == ["a", "b/a", "b/c", "b/d/e"]


def test_there_are_not_too_many():
    with pytest.raises(InvalidValues) as caught:
        files.cleaned(entry(f"f{number}") for number in range(100_000))
    assert [error.code for error in caught.value.errors] == ["too_many"]


@pytest.mark.parametrize("odd", [{}, {"path": 1}, {"path": "a", "content": None}, {"path": ["a"]}])
def test_a_file_is_two_texts(odd):
    with pytest.raises(InvalidValues):
        files.cleaned([odd])
    assert files.fitting([odd, entry("a")])[0] == {"a": "x"}


def test_what_does_not_fit_is_left_out_and_the_rest_stays():
    big = "x" * (files.MAX_BYTES - 10)
    kept, reasons = files.fitting([entry("a", big), entry("b", "0123456789a"), entry("c", "0123")])
    assert list(kept) == ["a", "c"]
    assert len(reasons) == 1
    assert files.fitting([entry("a", "123")], beside=files.MAX_BYTES - 2)[0] == {}


paths = st.text(alphabet=st.sampled_from("aB./\\ :\n한é-_~"), max_size=12) | st.text(max_size=20)


@given(st.lists(paths, max_size=8))
@example(["a/b", "a"])
def test_whatever_is_kept_unpacks_inside_its_folder(tmp_path_factory, given_paths):
    kept, _reasons = files.fitting(map(entry, given_paths))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zipped:
        for path, text in kept.items():
            zipped.writestr(path, text)
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(packed) as zipped:
        zipped.extractall(folder)
    found = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert found == set(kept)
    assert all(Path(folder, path).resolve().is_relative_to(folder.resolve()) for path in kept)


@given(st.lists(paths, max_size=8))
def test_what_is_clean_is_kept_whole(given_paths):
    entries = list(map(entry, given_paths))
    kept, reasons = files.fitting(entries)
    if reasons:
        with pytest.raises(InvalidValues):
            files.cleaned(entries)
    else:
        assert files.cleaned(entries) == kept
        assert len(kept) == len(given_paths)

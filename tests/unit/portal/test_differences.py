"""What changed between two texts."""

import time

import pytest

from portal.lib.differences import MOST_LINES, Piece, differences


def sides(old, new):
    pieces = differences(old, new)
    return (
        "".join(piece.text for piece in pieces if piece.kind != "added"),
        "".join(piece.text for piece in pieces if piece.kind != "removed"),
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("a", ""),
        ("", "a\n"),
        ("one\ntwo\nthree", "one\n2\nthree\nfour"),
        ("녹차는 향이 좋다.\n", "녹차는 맛이 좋다.\n끝"),
        ("\r\n\r\n", "\n"),
        ("x\n" * (MOST_LINES + 1), "y\n" * 3),
        ("word " * 700, "word " * 699 + "other"),
    ],
)
def test_both_texts_can_be_read_from_it(old, new):
    assert sides(old, new) == (old, new)


def test_only_the_word_that_changed_is_marked():
    assert differences("Green tea is good.\nEnd", "Green tea is fine.\nEnd") == [
        Piece("same", "Green tea is "),
        Piece("removed", "good"),
        Piece("added", "fine"),
        Piece("same", ".\nEnd"),
    ]


def test_equal_texts_are_one_piece():
    assert differences("a\nb\n", "a\nb\n") == [Piece("same", "a\nb\n")]


def test_lines_with_little_in_common_stand_one_after_the_other():
    kinds = [piece.kind for piece in differences("alpha beta gamma", "one two three four five")]
    assert kinds == ["removed", "added"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a\n" * 2000, "a\nb\n" * 1000),
        ("a " * 300, "a b " * 150),
        ("x\n\n" * 1000, "y\n\n" * 1000),
        ("a\n" * 2000, "a\nb\n" * 90),
        ("".join(f"Line {n}.\n\n" for n in range(900)), "".join(f"Line {n}!\n\n" for n in range(900))),
    ],
)
def test_what_repeats_itself_is_compared_in_a_moment(old, new):
    began = time.process_time()
    assert sides(old, new) == (old, new)
    assert time.process_time() - began < 10  # without a bound: minutes

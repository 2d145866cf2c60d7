"""Numbers as they stand in addresses and headers."""

MOST_DIGITS = 18  # so many fit into every column for whole numbers


def whole(text: str) -> int | None:
    """The whole number that `text` is in plain digits; None for other text, and for what no column could hold.

    `isdigit` alone takes “²” for a number, which `int` does not, and `int` takes no more than some thousand digits.
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS else None

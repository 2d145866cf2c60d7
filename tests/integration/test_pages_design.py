"""The design system keeps its promises: colours only as tokens, enough contrast; every word has its Korean."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from django.conf import settings

CSS = Path(settings.BASE_DIR) / "static" / "css"
# The API documentation is other people's page, with what it needs to keep its look.
SHEETS = sorted(
    str(path.relative_to(CSS)) for path in CSS.rglob("*.css") if path.name not in {"tokens.css", "documentation.css"}
)
PO = Path(settings.BASE_DIR) / "locale" / "ko" / "LC_MESSAGES" / "django.po"
TONES = ["neutral", "info", "success", "warning", "danger"]
GROUNDS = ["bg", "bg-sunken", "surface", "surface-raised", "surface-hover", "surface-active"]
# text on ground, and what WCAG AA asks of it
PAIRS = [
    *[("text", ground, 4.5) for ground in GROUNDS],
    *[("text-muted", ground, 4.5) for ground in GROUNDS],
    *[("text-faint", ground, 4.5) for ground in ["bg", "bg-sunken", "surface"]],
    *[("accent-text", ground, 4.5) for ground in ["bg", "surface", "accent-soft", "warning-soft"]],
    *[("green-text", ground, 4.5) for ground in ["bg", "surface", "green-soft", "green-softer", "warning-soft"]],
    *[("text", ground, 4.5) for ground in ["green-soft", "green-softer"]],
    *[
        ("text-on-accent", ground, 4.5)
        for ground in ["accent", "accent-hover", "green", "green-hover", "danger-button", "danger-hover"]
    ],
    *[(f"{tone}-text", f"{tone}-soft", 4.5) for tone in TONES],
    *[(f"{tone}-text", "surface", 4.5) for tone in TONES],
    *[("text", f"{tone}-soft", 4.5) for tone in TONES],
    *[(f"hue-{n}", f"hue-{n}-soft", 4.5) for n in range(1, 7)],
    *[("line-field", ground, 3) for ground in ["surface", "bg"]],
    *[("focus", ground, 3) for ground in ["surface", "bg"]],
]


def tokens() -> dict[str, tuple[str, str]]:
    found = re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\);", (CSS / "tokens.css").read_text())
    return {name: (light, dark) for name, light, dark in found}


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "ground", "least"), PAIRS)
def test_text_stands_out_from_its_ground(text, ground, least, theme):
    known = tokens()
    assert contrast(known[text][theme], known[ground][theme]) >= least


@pytest.mark.parametrize("sheet", SHEETS)
def test_colours_exist_only_as_tokens(sheet):
    css = re.sub(r"/\*.*?\*/", "", (CSS / sheet).read_text(), flags=re.S)
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b|\brgba?\(|\bhsla?\(|\boklch\(|:\s*(?:white|black)\b", css)


@pytest.mark.parametrize("sheet", SHEETS)
def test_every_token_that_is_used_is_there(sheet):
    css = (CSS / sheet).read_text()
    known = set(re.findall(r"(--[\w-]+):", (CSS / "tokens.css").read_text() + css))
    local = {"--tone-text", "--tone-soft", "--tone-solid"}  # set by `.is-<tone>`
    assert set(re.findall(r"var\((--[\w-]+)", css)) - known - local == set()


def test_every_sheet_is_linked_once():
    linked = re.findall(r"css/([\w/]+\.css)", (CSS.parent.parent / "templates/components/styles.html").read_text())
    assert sorted(linked) == sorted(["tokens.css", *SHEETS])


@pytest.mark.parametrize("sheet", SHEETS)
def test_a_sheet_stays_short_enough_to_read(sheet):
    assert len((CSS / sheet).read_text().splitlines()) <= 500


@pytest.mark.skipif(shutil.which("msgfmt") is None, reason="gettext's tools are missing")
class TestKorean:
    def test_nothing_is_left_untranslated(self):
        left = subprocess.run(
            ["msgattrib", "--untranslated", "--no-obsolete", str(PO)], capture_output=True, text=True, check=True
        )
        unsure = subprocess.run(["msgattrib", "--only-fuzzy", str(PO)], capture_output=True, text=True, check=True)
        assert (left.stdout, unsure.stdout) == ("", "")

    def test_the_compiled_catalog_is_that_of_the_text(self, tmp_path):
        made = tmp_path / "django.mo"
        subprocess.run(["msgfmt", "--check-format", "-o", str(made), str(PO)], check=True)
        assert made.read_bytes() == PO.with_suffix(".mo").read_bytes()

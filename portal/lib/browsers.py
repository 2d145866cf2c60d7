"""What a browser says of itself in `User-Agent`, in words: enough to tell one's own devices apart."""

import re
from dataclasses import dataclass

# The first that matches names it: most browsers also carry the names of those they descend from.
_BROWSERS = [
    ("Edge", re.compile(r"\bEdg(?:e|A|iOS)?/")),
    ("Opera", re.compile(r"\b(?:OPR|Opera)/")),
    ("Samsung Internet", re.compile(r"\bSamsungBrowser/")),
    ("Whale", re.compile(r"\bWhale/")),
    ("Firefox", re.compile(r"\b(?:Firefox|FxiOS)/")),
    ("Chrome", re.compile(r"\b(?:Chrome|HeadlessChrome|Chromium|CriOS)/")),
    ("Safari", re.compile(r"\bVersion/\S+.*\bSafari/")),
]
_SYSTEMS = [
    ("iPhone", re.compile(r"\biPhone\b")),
    ("iPad", re.compile(r"\biPad\b")),
    ("Android", re.compile(r"\bAndroid\b")),
    ("Windows", re.compile(r"\bWindows\b")),
    ("macOS", re.compile(r"\bMac(?:intosh| OS X)\b")),
    ("ChromeOS", re.compile(r"\bCrOS\b")),
    ("Linux", re.compile(r"\b(?:Linux|X11)\b")),
]
_HANDHELD = {"iPhone", "iPad", "Android"}
_PRODUCT = re.compile(r"[\w.-]{1,40}")


@dataclass(frozen=True)
class Browser:
    """`name` and `system` as people call them, empty where nothing is known."""

    name: str
    system: str

    @property
    def is_handheld(self) -> bool:
        return self.system in _HANDHELD


def browser_of(user_agent: str) -> Browser:
    """Which browser on which system sent `user_agent`. A program (`curl/8.5`) is called by its own name."""
    system = next((name for name, pattern in _SYSTEMS if pattern.search(user_agent)), "")
    name = next((name for name, pattern in _BROWSERS if pattern.search(user_agent)), "")
    if not name and not user_agent.startswith("Mozilla/") and (product := _PRODUCT.match(user_agent)):
        name = product[0]
    return Browser(name, system)

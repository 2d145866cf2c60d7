"""What browsers are called."""

import pytest

from portal.lib.browsers import browser_of

KNOWN = {
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:130.0) Gecko/20100101 Firefox/130.0": ("Firefox", "Windows", False),
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/129.0 Safari/537.36": (
        "Chrome", "Linux", False,
    ),
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/17.5 Safari/605.1.15": (
        "Safari", "macOS", False,
    ),
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Mobile Safari/604.1": (
        "Safari", "iPhone", True,
    ),
    "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/129.0 Safari/537.36 Edg/129.0": ("Edge", "Windows", False),
    "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 SamsungBrowser/26.0 Chrome/122.0 Mobile Safari/537.36": (
        "Samsung Internet", "Android", True,
    ),
    "curl/8.5.0": ("curl", "", False),
    "python-httpx/0.27": ("python-httpx", "", False),
    "Mozilla/5.0 (strange)": ("", "", False),
    "": ("", "", False),
}  # fmt: skip


@pytest.mark.parametrize("agent", KNOWN)
def test_it_is_called_by_name_and_system(agent):
    found = browser_of(agent)
    assert (found.name, found.system, found.is_handheld) == KNOWN[agent]

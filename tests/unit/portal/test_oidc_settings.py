"""The settings of single sign-on: what they mean, and what stops the start."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from portal.lib.env import ConfigError
from tests.stack import ROOT

GOOD = {"OIDC_ISSUER": "https://id.example.org/realms/agents/", "OIDC_CLIENT_SECRET": "s" * 20}


def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **environment: str) -> dict[str, Any]:
    """The settings as they are read with `environment`."""
    for name, value in {"PORTAL_DATA_DIR": str(tmp_path), **environment}.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(ROOT / "portal" / "settings.py"))


def test_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = read(monkeypatch, tmp_path)
    assert found["AUTHENTICATION_BACKENDS"] == ["django.contrib.auth.backends.ModelBackend"]
    found = read(monkeypatch, tmp_path, **GOOD)
    assert found["OIDC_ISSUER"] == "https://id.example.org/realms/agents"
    assert found["OIDC_AUDIENCE"] == "agent-portal"
    assert found["OIDC_AUTHORIZED_PARTIES"] == ["agent-portal"]
    assert found["OIDC_ROLE_MAP"] == {"viewer": "viewer", "user": "user", "admin": "admin"}
    assert found["OIDC_DEFAULT_ROLE"] == ""
    assert not any(name.startswith(("HS", "none")) for name in found["OIDC_ALGORITHMS"])
    assert len(found["AUTHENTICATION_BACKENDS"]) == 2


def test_a_role_map_may_name_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = read(monkeypatch, tmp_path, **GOOD, OIDC_ROLE_MAP="/staff/a=b = user, ops=admin")
    assert found["OIDC_ROLE_MAP"] == {"/staff/a=b": "user", "ops": "admin"}


def test_wrong_values_stop_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = {
        "OIDC_ISSUER": "keycloak.example.org",
        "OIDC_CLIENT_SECRET": "${OIDC_CLIENT_SECRET}",
        "OIDC_SCOPES": "profile email",
        "OIDC_ROLES_FROM": "userinfo",
        "OIDC_ROLE_MAP": "admins=root",
        "OIDC_DEFAULT_ROLE": "guest",
        "OIDC_ALGORITHMS": "RS256,HS256",
        "OIDC_LEEWAY_SECONDS": "3000",
        "OIDC_RENEW_SECONDS": "0",
        "OIDC_OUTAGE_SECONDS": "for ever",
    }
    for name, value in wrong.items():
        with monkeypatch.context() as patched, pytest.raises(ConfigError, match=rf"^{name}: [^\n]+$"):
            read(patched, tmp_path, **{**GOOD, name: value})
    with monkeypatch.context() as patched, pytest.raises(ConfigError, match=r"^OIDC_CLIENT_SECRET: "):
        read(patched, tmp_path, OIDC_ISSUER=GOOD["OIDC_ISSUER"])
    for nothing in ("none", ","):
        with monkeypatch.context() as patched, pytest.raises(ConfigError, match=r"^OIDC_ALGORITHMS: "):
            read(patched, tmp_path, **{**GOOD, "OIDC_ALGORITHMS": nothing})

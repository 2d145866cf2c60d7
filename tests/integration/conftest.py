"""What the gateway's tests share: a fake provider, and the real gateway in front of it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.deadlines import DEADLINE
from tests.fakes.llm import FakeLLM

if TYPE_CHECKING:
    from tests.fakes.gateway import GatewayServer


@pytest.fixture
def quick(settings: Any) -> None:
    """Retries come at once, and no model is taken for silent on a slow machine."""
    settings.LLM_FIRST_TOKEN_TIMEOUT = settings.LLM_NEXT_TOKEN_TIMEOUT = DEADLINE
    settings.LLM_RETRY_MILLISECONDS = 10
    settings.LLM_MAX_TRIES = 2


@pytest.fixture
def fake() -> Iterator[FakeLLM]:
    with FakeLLM() as server:
        yield server


@pytest.fixture
def gateway(quick: None) -> "Iterator[GatewayServer]":
    from tests.fakes.gateway import GatewayServer  # needs Django, which is not set up when this file is read

    with GatewayServer() as server:
        yield server

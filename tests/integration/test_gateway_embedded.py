"""A run that is started before the embedded model is there."""

import concurrent.futures

import pytest

from crews.embedded.serve import FETCHING, READY
from crews.models import LLMProvider
from executions.models import ExecutionEvent
from portal.lib.processes import RunLock, lock_file
from tests.deadlines import DEADLINE, wait_for
from tests.factories.crews import LLMModelFactory, LLMProviderFactory
from tests.fakes.gateway import HELLO, GatewayServer, client, running
from tests.fakes.llm import FakeLLM

pytestmark = pytest.mark.django_db(transaction=True)


def test_it_waits_until_the_model_serves_and_says_so(settings):
    provider = LLMProviderFactory(kind=LLMProvider.Kind.EMBEDDED, api_base="")
    model = LLMModelFactory(id="embedded", provider=provider, route="openai/embedded")
    _, token = running(model)
    with (
        FakeLLM() as fake,
        GatewayServer() as gateway,
        client(gateway, token) as http,
        RunLock(lock_file("model")).acquire(state=FETCHING, port=0) as lock,
        concurrent.futures.ThreadPoolExecutor(1) as threads,
    ):
        settings.MODEL_URL = fake.url.removesuffix("/v1")
        answer = threads.submit(http.post, "/chat/completions", json={"model": "role:agent", "messages": HELLO})
        log = ExecutionEvent.objects.filter(type="log", data__kind="model_loading")
        wait_for(log.exists, "the log says what the run waits for")
        assert not answer.done()
        assert fake.ledger == []
        lock.update(state=READY)
        assert answer.result(DEADLINE).status_code == 200
    assert log.count() == 1

"""What a new portal starts with."""

import importlib.util
import json
from decimal import Decimal
from pathlib import Path

import pytest
from django.core.management import call_command

from crews import catalog
from crews.builtin_tools import BUILTIN
from crews.models import Agent, Crew, LLMModel, LLMProvider, Tool
from crews.recommend import recommendations, recommended
from crews.seed import seed_catalog, seed_demo
from crews.validation import clean_inputs, problems_of
from tests.factories.accounts import UserFactory

IDS = {
    *("embedded", "gpt-4", "gpt-4o", "claude-3", "claude-3-haiku", "gemini-pro", "gemini-ultra", "llama-3"),
    *("llama-3-8b", "mistral-large", "mistral-7b", "deepseek-coder", "codellama"),
}
ENTRIES = [entry for provider in catalog.PROVIDERS for entry in provider.models]


@pytest.fixture(scope="module")
def litellm_map():
    """litellm's own price list, read without importing litellm."""
    package = Path(importlib.util.find_spec("litellm").origin).parent
    return json.loads((package / "model_prices_and_context_window_backup.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_the_catalog_agrees_with_litellm(entry, litellm_map):
    known = litellm_map.get(entry.route) or litellm_map.get(entry.route.partition("/")[2])
    assert known, f"litellm knows no {entry.route}"
    assert known["mode"] == "chat"
    assert known["supports_function_calling"]
    assert entry.context_window == known["max_input_tokens"]
    prices = [known["input_cost_per_token"], known["output_cost_per_token"]]
    assert entry.prices == tuple(Decimal(repr(price * 10**6)).quantize(Decimal("0.0001")) for price in prices)


@pytest.mark.django_db
class TestCatalog:
    def test_all_models_tools_and_providers_are_there_and_valid(self):
        seed_catalog()
        assert set(LLMModel.objects.values_list("pk", flat=True)) == IDS
        assert set(Tool.objects.values_list("name", flat=True)) == set(BUILTIN)
        for row in [*LLMModel.objects.all(), *LLMProvider.objects.all(), *Tool.objects.all()]:
            if getattr(row, "kind", "") != "embedded":
                row.full_clean()
        assert [model.pk for model in LLMModel.objects.all() if model.is_runnable] == ["embedded"]

    def test_repeating_it_changes_nothing_that_was_edited(self):
        seed_catalog()
        LLMModel.objects.filter(pk="gpt-4o").update(price_in=9, enabled=False)
        LLMProvider.objects.filter(name="OpenAI").update(name="Our OpenAI", api_key="k")
        LLMModel.objects.filter(pk="mistral-7b").delete()
        before = set(LLMProvider.objects.values_list("name", flat=True))
        seed_catalog()
        edited = LLMModel.objects.get(pk="gpt-4o")
        assert (edited.price_in, edited.enabled) == (9, False)
        assert set(LLMProvider.objects.values_list("name", flat=True)) == before
        assert not LLMModel.objects.filter(pk="mistral-7b").exists()

    def test_the_embedded_model_says_which_one_it_is(self, settings):
        settings.EMBEDDED_MODEL = "qwen2.5-coder-1.5b"
        seed_catalog()
        assert "Qwen2.5-Coder" in LLMModel.objects.get(pk="embedded").name
        settings.EMBEDDED_MODEL = "smollm2"
        seed_catalog()
        assert "SmolLM2" in LLMModel.objects.get(pk="embedded").name
        LLMModel.objects.filter(pk="embedded").update(name="House model")
        seed_catalog()
        assert LLMModel.objects.get(pk="embedded").name == "House model"


@pytest.mark.django_db
class TestRecommendations:
    def test_without_keys_only_embedded_can_be_reached(self):
        seed_catalog()
        assert set(recommendations().values()) == {"embedded"}

    def test_the_best_that_can_be_reached_is_named(self):
        seed_catalog()
        LLMProvider.objects.filter(name__in=["Google", "OpenAI"]).update(api_key="k")
        assert recommended("research") == "gpt-4"
        assert recommended("documents") == "gpt-4o"
        assert recommended("code") == "embedded"
        LLMModel.objects.filter(pk="gpt-4").update(health="down")
        assert recommended("research") == "gemini-pro"


@pytest.mark.django_db
class TestDemo:
    def test_both_crews_can_run_as_they_are(self):
        seed_catalog()
        owner = UserFactory(admin=True)
        made = seed_demo(owner)
        assert made[0].name == "Research and write"
        assert len(made) == 2
        for crew in made:
            assert problems_of(crew) == []
            assert (crew.owner, crew.visibility, crew.process) == (owner, "shared", "parallel")
            assert clean_inputs(crew, {}).values["topic"]
            side_by_side = crew.tasks.filter(context=None)
            assert side_by_side.count() == 2
            assert set(crew.tasks.exclude(context=None).get().context.all()) == set(side_by_side)
            for row in [crew, *crew.tasks.all(), *crew.agents.all(), *crew.inputs.all()]:
                row.full_clean()
        assert seed_demo(owner) == []

    def test_the_command_waits_for_an_admin_and_brings_nothing_back(self):
        call_command("seed")
        assert LLMModel.objects.count() == len(IDS)
        assert not Crew.objects.exists()
        UserFactory(admin=True)
        call_command("seed")
        assert Crew.objects.count() == 2
        assert Agent.objects.count() == 6
        Crew.objects.filter(name="Research and write").delete()
        call_command("seed")
        assert Crew.objects.count() == 1

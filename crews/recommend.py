"""Which model of the catalog suits a purpose, among those that can be reached."""

from collections.abc import Mapping

from crews.models import EMBEDDED, LLMModel

# Purpose → catalog ids, the best first.
RECOMMENDED: Mapping[str, tuple[str, ...]] = {
    "research": ("gpt-4", "gemini-pro"),
    "code": ("deepseek-coder", "codellama"),
    "documents": ("claude-3", "gpt-4o"),
    "fast": ("claude-3-haiku", "mistral-7b"),
}


def recommended(purpose: str) -> str:
    """The catalog id that suits `purpose` (research, code, documents, fast); `embedded` when none can be reached."""
    return recommendations()[purpose]


def recommendations() -> dict[str, str]:
    """`recommended` for every purpose. One query."""
    wanted = {model_id for ids in RECOMMENDED.values() for model_id in ids}
    models = LLMModel.objects.select_related("provider").filter(pk__in=wanted)
    reachable = {model.pk for model in models if model.is_runnable and model.health != LLMModel.Health.DOWN}
    return {
        purpose: next((model_id for model_id in ids if model_id in reachable), EMBEDDED)
        for purpose, ids in RECOMMENDED.items()
    }

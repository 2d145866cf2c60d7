"""The LLM catalog that comes along: providers, and which model each catalog id is served by today.

Routes, prices (US$ per million tokens) and context windows are those of litellm's own map
(`tests/unit/crews/test_catalog.py` compares them). Where the model that gave an id its name is no
longer served, the route is its successor's and the description says so.
"""

from dataclasses import dataclass
from decimal import Decimal

from crews.models import EMBEDDED, LLMProvider

Kind = LLMProvider.Kind


@dataclass(frozen=True)
class Entry:
    """A model of the catalog; prices in US$ per million tokens."""

    id: str
    name: str
    route: str
    context_window: int
    price_in: str
    price_out: str
    description: str
    good_for: tuple[str, ...] = ()

    @property
    def prices(self) -> tuple[Decimal, Decimal]:
        return Decimal(self.price_in), Decimal(self.price_out)


@dataclass(frozen=True)
class Provider:
    """Where models of the catalog are reached."""

    name: str
    kind: LLMProvider.Kind
    api_base: str
    models: tuple[Entry, ...]
    needs_key: bool = True
    enabled: bool = True
    is_near: bool = False  # on the person's own machine


PROVIDERS = (
    Provider(
        "OpenAI",
        Kind.OPENAI_COMPATIBLE,
        "https://api.openai.com/v1",
        (
            Entry(
                "gpt-4", "GPT-4", "openai/gpt-4.1", 1047576, "2", "8",
                "Strong at research and analysis. GPT-4 was retired in October 2026; GPT-4.1, its successor, answers.",
                ("research",),
            ),
            Entry(
                "gpt-4o", "GPT-4o", "openai/gpt-4o", 128000, "2.5", "10",
                "All-round model that writes well: documents, reports, plans.",
                ("documents",),
            ),
        ),
    ),
    Provider(
        "Anthropic",
        Kind.LITELLM,
        "",
        (
            Entry(
                "claude-3", "Claude 3 Sonnet", "anthropic/claude-sonnet-5-5", 1000000, "2", "10",
                "Long, careful documents. Claude 3 Sonnet is no longer served; Claude Sonnet 5.5, its heir, answers.",
                ("documents",),
            ),
            Entry(
                "claude-3-haiku", "Claude 3 Haiku", "anthropic/claude-haiku-4-5", 200000, "1", "5",
                "Fast answers. Claude 3 Haiku is no longer served; Claude Haiku 4.5, its successor, answers.",
                ("fast",),
            ),
        ),
    ),
    Provider(
        "Google",
        Kind.LITELLM,
        "",
        (
            Entry(
                "gemini-pro", "Gemini Pro", "gemini/gemini-2.5-pro", 1048576, "1.25", "10",
                "Research over long material. The first Gemini Pro is no longer served; Gemini 2.5 Pro answers.",
                ("research",),
            ),
            Entry(
                "gemini-ultra", "Gemini Ultra", "gemini/gemini-pro-latest", 1048576, "2", "12",
                "Google's strongest general model. There is no Ultra any more; the newest Gemini Pro answers.",
            ),
        ),
    ),
    Provider(
        "Mistral AI",
        Kind.OPENAI_COMPATIBLE,
        "https://api.mistral.ai/v1",
        (
            Entry(
                "mistral-large", "Mistral Large", "mistral/mistral-large-latest", 262144, "0.5", "1.5",
                "General model, strong in European languages.",
            ),
            Entry(
                "mistral-7b", "Mistral 7B", "mistral/ministral-8b-latest", 262144, "0.15", "0.15",
                "Fast, cheap answers. Mistral 7B is no longer served; Ministral 8B, its successor, answers.",
                ("fast",),
            ),
        ),
    ),
    Provider(
        "DeepSeek",
        Kind.OPENAI_COMPATIBLE,
        "https://api.deepseek.com/v1",
        (
            Entry(
                "deepseek-coder", "DeepSeek Coder", "deepseek/deepseek-v4-flash", 1000000, "0.3", "1.2",
                "Code. DeepSeek Coder has become part of DeepSeek's general model; V4 Flash answers.",
                ("code",),
            ),
        ),
    ),
    Provider(
        "DeepInfra",
        Kind.OPENAI_COMPATIBLE,
        "https://api.deepinfra.com/v1/openai",
        (
            Entry(
                "llama-3", "Llama 3 70B", "deepinfra/meta-llama/Llama-3.3-70B-Instruct", 131072, "0.23", "0.4",
                "Open model for general work, in its latest version, 3.3.",
            ),
            Entry(
                "llama-3-8b", "Llama 3 8B", "deepinfra/meta-llama/Meta-Llama-3-8B-Instruct", 8192, "0.03", "0.06",
                "Small open model for simple, cheap steps.",
            ),
            Entry(
                "codellama", "Code Llama", "deepinfra/Qwen/Qwen3-Coder-480B-A35B-Instruct-Turbo", 262144, "0.3", "1",
                "Code, by an open model. Code Llama is hardly served any more; Qwen3 Coder answers in its place.",
                ("code",),
            ),
        ),
    ),
    # Served on the person's own machine: they switch it on and add the models they have pulled.
    Provider(
        "Ollama", Kind.OPENAI_COMPATIBLE, "http://127.0.0.1:11434/v1", (),
        needs_key=False, enabled=False, is_near=True,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Embedded:
    """What the embedded model is; which one is the setting EMBEDDED_MODEL."""

    name: str
    description: str


EMBEDDED_PROVIDER = "This machine"
EMBEDDED_ROUTE = f"openai/{EMBEDDED}"
EMBEDDED_CONTEXT = 8192  # tokens of one request, question and answer together
EMBEDDED_DEFAULTS = {"temperature": 0.4, "top_p": 0.9, "top_k": 40, "repeat_penalty": 1.1}
EMBEDDED_MODELS = {
    "qwen2.5-coder-1.5b": Embedded(
        "Qwen2.5-Coder 1.5B (embedded)",
        "A small model that runs on this machine: no key, no cost, nothing leaves the house. It drafts short texts "
        "under given headings, lists, tables and small pieces of code, in English and, less well, in Korean. It does "
        "not research: it knows no news, invents facts and figures with confidence, and loses the thread in long "
        "texts. Keep tasks short, ask for named headings, and check what it says.",
    ),
    "smollm2": Embedded(
        "SmolLM2 135M (embedded)",
        "A tiny model for trying out and testing that everything works. It writes words, but nothing you could use: "
        "do not judge a crew by it.",
    ),
}

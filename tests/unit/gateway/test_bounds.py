"""The bound of a prompt is above what real tokenizers make of it, and not far above prose."""

import hashlib
import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest

from executions.gateway import bounds

ROOT = Path(__file__).resolve().parents[3]
RANDOM = random.Random(1)
TEXTS = {
    "prose": (ROOT / "README.md").read_text(),
    "code": (ROOT / "executions/models/moves.py").read_text(),
    "markup": max((ROOT / "templates").rglob("*.html"), key=lambda path: path.stat().st_size).read_text(),
    "json": json.dumps([{"id": n, "x": RANDOM.random(), "name": f"n{n}", "l": [1, 2, 3]} for n in range(100)]),
    "table": "\n".join(",".join(str(RANDOM.randint(0, 10**6)) for _ in range(8)) for _ in range(100)),
    "hash": hashlib.shake_128(b"1").hexdigest(2000),
    "capitals": " ".join("".join(RANDOM.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=8)) for _ in range(200)),
    "signs": "=-=-{}[]();:,.!@#$%^&*'" * 100,
    "korean": "사람과 대화하며 일하는 에이전트가 예산을 넘지 않게 지켜 주는 포털입니다. " * 40,
    "chinese": "人工智能门户让团队运行代理并设定预算，永不超支。" * 40,
    "arabic": "مرحبا بالعالم هذه بوابة الوكلاء " * 40,
    "emoji": "😀🎉🚀🌍" * 50,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers() -> list[Any]:
    """OpenAI's, from the files that litellm carries, so that nothing is fetched; and Anthropic's older one."""
    tiktoken = pytest.importorskip("tiktoken")
    from tokenizers import Tokenizer

    spec = importlib.util.find_spec("litellm")
    assert spec
    assert spec.origin
    folder = Path(spec.origin).parent / "litellm_core_utils" / "tokenizers"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        known = [tiktoken.get_encoding(name) for name in ("cl100k_base", "o200k_base")]
    anthropic = Tokenizer.from_file(str(folder / "anthropic_tokenizer.json"))
    return [*(lambda text, e=e: len(e.encode(text, disallowed_special=())) for e in known),
            lambda text: len(anthropic.encode(text).ids)]  # fmt: skip


@pytest.mark.parametrize("kind", TEXTS)
def test_a_text_has_no_more_tokens_than_its_bound(tokenizers: list[Any], kind: str) -> None:
    most = max(count(TEXTS[kind]) for count in tokenizers)
    assert most <= bounds.bound_of(TEXTS[kind])
    if kind in {"prose", "code", "korean"}:
        assert bounds.bound_of(TEXTS[kind]) < 2 * most


def test_everything_that_a_model_reads_is_in_the_bound() -> None:
    tools = [{"type": "function", "function": {"name": "calculator", "description": "x" * 300}}]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "y" * 300}}
    bare = {"messages": [{"role": "user", "content": "z" * 300}]}
    assert bounds.prompt_bound(bare) == 100 + bounds.A_MESSAGE
    assert bounds.prompt_bound({**bare, "tools": tools}) > 200
    assert bounds.prompt_bound({"messages": [*bare["messages"], {"role": "assistant", "tool_calls": [call]}]}) > 200
    parts = [{"type": "text", "text": "z" * 300}, {"type": "image_url", "image_url": {"url": "data:" + "A" * 10**6}}]
    assert bounds.prompt_bound({"messages": [{"role": "user", "content": parts}]}) == 108 + bounds.A_PICTURE
    assert bounds.prompt_bound({"messages": [{"role": "user", "content": "\ud800 half"}]}) > 8

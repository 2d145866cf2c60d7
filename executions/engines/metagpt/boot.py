"""Importing MetaGPT 0.8.2 so that it reads no configuration, writes no log, and loads no vendor's SDK.

Its configuration is read while `metagpt.config2` is imported, from files in the home folder: here it comes from code.
A dozen packages that its software company never calls are replaced by empty ones, which saves two thirds of the
time and memory of the import.
"""

import importlib
import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import Any

# Imported by MetaGPT for providers and tools that no run uses.
UNUSED = (
    *("anthropic", "pandas", "nbclient", "nbclient.exceptions", "nbclient.util", "nbformat", "nbformat.v4"),
    *("tree_sitter_python", "tree_sitter", "docx", "docx.shared", "playwright", "playwright.async_api"),
    "metagpt.tools.libs",
)
# Never called: each call goes through `provider.RoleLLM`, which knows the gateway.
NOWHERE = {"api_type": "openai", "api_key": "none", "base_url": "http://127.0.0.1:9/v1", "model": "none"}


def boot() -> None:
    """Make `metagpt` ready to be imported. Does nothing the second time."""
    if "metagpt.provider" in sys.modules:
        return
    os.environ.setdefault("METAGPT_PROJECT_ROOT", os.environ.get("HOME", "/tmp"))  # noqa: S108 - never written to
    os.environ["GIT_PYTHON_REFRESH"] = "quiet"  # there may be no git, and nothing uses it
    quiet()
    for name in UNUSED:
        sys.modules[name] = _Unused(name)
    _skip_vendors()
    from metagpt.utils import yaml_model

    def read_yaml(cls: type, *_: Any, **__: Any) -> dict[str, Any]:
        return {"llm": dict(NOWHERE), "mermaid": {"engine": "none"}}

    yaml_model.YamlModel.read_yaml = classmethod(read_yaml)
    from metagpt.provider.human_provider import HumanProvider
    from metagpt.provider.openai_api import OpenAILLM

    package = sys.modules["metagpt.provider"]
    package.HumanProvider = HumanProvider  # type: ignore[attr-defined]
    package.OpenAILLM = OpenAILLM  # type: ignore[attr-defined]


def quiet() -> None:
    """Have MetaGPT's log say nothing, from its first line on."""
    logger = importlib.import_module("loguru").logger
    logger.remove()
    logger.add = lambda *_, **__: 0  # `metagpt.logs` would open a file in the host's folder, and the terminal


class _Unused(types.ModuleType):
    """A package that is imported and never used: it has every name, each a class that does nothing."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__spec__ = importlib.util.spec_from_loader(name, None)

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (object,), {"__init__": lambda self, *_, **__: None})


class _Anything(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


def _skip_vendors() -> None:
    """Stand in for `metagpt.provider`, whose own `__init__` imports twelve SDKs; its modules stay the real ones."""
    spec = importlib.util.find_spec("metagpt")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("metagpt is not installed")
    package = types.ModuleType("metagpt.provider")
    package.__path__ = [str(Path(spec.submodule_search_locations[0]) / "provider")]
    sys.modules["metagpt.provider"] = package

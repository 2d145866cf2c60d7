"""Works the stages of this project with MetaGPT. See README.md.

python run.py                        all stages, into output/
python run.py --from development     from there on, with the documents that came along
"""

import asyncio
import importlib.util
import os
import sys
import types
from pathlib import Path

# MetaGPT wants a configuration when it is imported; the models of the roles, and their keys, are given to it below.
_home = Path(__file__).resolve().parent / ".metagpt"
(_home / "config").mkdir(parents=True, exist_ok=True)
(_home / "config" / "config2.yaml").write_text("llm:\n  api_type: openai\n  api_key: none\n", encoding="utf-8")
os.environ["METAGPT_PROJECT_ROOT"] = str(_home)

# Its package of providers imports the SDKs of a dozen vendors; here the one that speaks OpenAI's protocol is enough.
_found = importlib.util.find_spec("metagpt")
if _found is None or not _found.submodule_search_locations:
    sys.exit("MetaGPT is not installed: see README.md.")
_providers = types.ModuleType("metagpt.provider")
_providers.__path__ = [str(Path(_found.submodule_search_locations[0]) / "provider")]
sys.modules["metagpt.provider"] = _providers

from metagpt.provider.human_provider import HumanProvider  # noqa: E402
from metagpt.provider.openai_api import OpenAILLM  # noqa: E402

_providers.HumanProvider, _providers.OpenAILLM = HumanProvider, OpenAILLM

from metagpt.actions import Action  # noqa: E402
from metagpt.config2 import Config  # noqa: E402
from metagpt.context import Context  # noqa: E402
from metagpt.logs import logger  # noqa: E402
from metagpt.roles import Role  # noqa: E402
from metagpt.schema import Message  # noqa: E402
from stages import Model, Project, Stage, opened  # noqa: E402


class Write(Action):
    """Write one document from what the role was told."""

    async def run(self, history: list[Message]) -> str:
        return await self._aask(history[-1].content)


def config(model: Model) -> Config:
    parameters = {name: model.parameters[name] for name in ("temperature", "top_p") if name in model.parameters}
    if "max_tokens" in model.parameters:
        parameters["max_token"] = model.parameters["max_tokens"]
    return Config.from_llm_config(
        {
            "api_type": "openai",
            "model": model.name,
            "base_url": model.base_url,
            "api_key": model.api_key,
            "calc_usage": False,  # it would download a tokenizer to count with
            **parameters,
        }
    )


async def work(project: Project, stage: Stage) -> None:
    """One stage: its role writes each of its documents."""
    for wanted in stage.deliverables:
        role = Role(
            name=stage.role.name,
            profile=stage.role.name,
            goal=stage.role.goal,
            desc=f"You are the {stage.role.name}. {stage.role.backstory} Your goal: {stage.role.goal}",
            context=Context(),
            config=config(project.model(stage.role)),
        )
        role.set_actions([Write])
        answer = await role.run(project.brief(stage, wanted))
        if answer is None or not answer.content.strip():
            sys.exit(f"{stage.name}: {stage.role.name} gave no answer.")
        project.keep(stage, wanted, answer.content)


async def main() -> None:
    project = opened()
    for role in {stage.role for stage in project.stages}:
        project.model(role)  # what is missing is said before anything is asked
    for stages in project.waves():
        await asyncio.gather(*(work(project, stage) for stage in stages))
    print(f"Done: {project.output}")


if __name__ == "__main__":
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    asyncio.run(main())

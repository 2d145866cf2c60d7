"""The five templates: stages, outline, recommended models and folders of a kind of project.

Names and descriptions are shown in the reader's language; outlines and instructions go to the models, in the
project's.
"""

from dataclasses import dataclass, field
from typing import Any

from django.utils.translation import gettext_noop as _

from projects.models import Project, Stage
from projects.plans import Words

N = Stage.Name
META_GPT, CREW_AI = Project.Engine.META_GPT.value, Project.Engine.CREW_AI.value


@dataclass(frozen=True)
class Builtin:
    """A template that comes along."""

    id: str
    name: str
    description: str
    project_type: str
    selected_ai: str
    outline: Words
    stages: list[dict[str, Any]]
    models: dict[str, str]
    folders: tuple[str, ...]
    technical: dict[str, Any] = field(default_factory=dict)


def _company(hours: tuple[float, ...], instructions: dict[str, str]) -> list[dict[str, Any]]:
    """MetaGPT's five stages, one after the other."""
    roles = ("Product Manager", "Architect", "Project Manager", "Engineer", "QA Engineer")
    names = (N.REQUIREMENT, N.DESIGN, N.PLANNING, N.DEVELOPMENT, N.TESTING)
    return [
        {
            "stage_name": name.value,
            "responsible_role": role,
            "requires_approval": True,
            "instructions": instructions.get(name.value, ""),
            "estimated_hours": hours[number],
            "depends_on": [names[number - 1].value] if number else [],
        }
        for number, (name, role) in enumerate(zip(names, roles, strict=True))
    ]


def _trio(hours: tuple[float, ...], instructions: dict[str, str]) -> list[dict[str, Any]]:
    """CrewAI's three stages: research and writing side by side, then the plan."""
    named = ((N.RESEARCH, "Researcher"), (N.WRITING, "Writer"), (N.PLANNING, "Planner"))
    return [
        {
            "stage_name": name.value,
            "responsible_role": role,
            "requires_approval": True,
            "instructions": instructions.get(name.value, ""),
            "estimated_hours": hours[number],
            "depends_on": [N.RESEARCH.value, N.WRITING.value] if name is N.PLANNING else [],
        }
        for number, (name, role) in enumerate(named)
    ]


_COMPANY_MODELS = {
    "Product Manager": "gpt-4",
    "Architect": "claude-3",
    "Project Manager": "gpt-4o",
    "Engineer": "deepseek-coder",
    "QA Engineer": "codellama",
}
_TRIO_MODELS = {"Researcher": "gemini-pro", "Writer": "gpt-4o", "Planner": "claude-3"}

WEB_APP = Builtin(
    id="web_app",
    name=_("Web application"),
    description=_(
        "A web application from the requirement to tested code: pages, accounts and data, kept small enough to be "
        "started with one command."
    ),
    project_type=Project.Type.WEB_APP.value,
    selected_ai=META_GPT,
    outline=Words(
        "- Who uses it, and what they come for\n"
        "- The pages, and what can be done on each\n"
        "- What is stored, and who may see or change it\n"
        "- Signing in: needed or not, and for what\n"
        "- What happens when something goes wrong (empty lists, wrong input, no connection)\n"
        "- What it deliberately does not do in its first version",
        "- 누가 무엇을 하려고 사용하는가\n"
        "- 어떤 화면이 있고, 각 화면에서 무엇을 할 수 있는가\n"
        "- 무엇을 저장하고, 누가 보거나 바꿀 수 있는가\n"
        "- 로그인이 필요한가, 무엇을 위해 필요한가\n"
        "- 잘못되었을 때 무엇이 일어나는가(빈 목록, 잘못된 입력, 연결 끊김)\n"
        "- 첫 버전에서 일부러 하지 않는 것",
    ),
    stages=_company(
        (4, 8, 3, 24, 8),
        {
            "requirement": "Name every page, and for each what a visitor sees and can do there.",
            "design": "Keep request handling, rules and storage in files of their own; templates hold no logic.",
            "planning": "Order the files so that each can be written and checked with those before it.",
            "development": "Start with one command and without any service beside it. Escape what users type in.",
            "testing": "Test the rules without a browser, and each page's handler once.",
        },
    ),
    models=_COMPANY_MODELS,
    folders=("app", "app/pages", "app/templates", "app/static", "app/storage", "tests", "docs"),
    technical={"language": "Python 3.11", "storage": "SQLite", "interface": "HTML pages rendered on the server"},
)

MOBILE_APP = Builtin(
    id="mobile_app",
    name=_("Mobile app"),
    description=_(
        "Everything that a team needs before it builds an app: research on users and competitors, the product "
        "document, and a launch plan that brings both together."
    ),
    project_type=Project.Type.MOBILE_APP.value,
    selected_ai=CREW_AI,
    outline=Words(
        "- For whom the app is, and in which moment of their day\n"
        "- The one thing that it must do well\n"
        "- What works without a connection\n"
        "- Which sensors, notifications and permissions it needs, and why\n"
        "- What it knows about a person, and where that is kept\n"
        "- Phones and systems that it must run on\n"
        "- How it earns its cost",
        "- 누구를 위한 앱이며, 하루 중 어느 순간에 쓰는가\n"
        "- 반드시 잘해야 하는 한 가지\n"
        "- 연결 없이도 되는 것\n"
        "- 필요한 센서, 알림, 권한과 그 이유\n"
        "- 사람에 대해 무엇을 알고, 어디에 보관하는가\n"
        "- 지원해야 하는 기기와 운영체제\n"
        "- 비용을 어떻게 감당하는가",
    ),
    stages=_trio(
        (6, 6, 4),
        {
            "research": "Say for each competing product what its users complain about.",
            "writing": "Write for the people who will use the app, not for those who build it.",
            "planning": "Name for each week one result that can be shown on a phone.",
        },
    ),
    models=_TRIO_MODELS,
    folders=("research", "product", "product/screens", "plan", "assets"),
    technical={"platforms": ["iOS", "Android"], "offline": "core function works without a connection"},
)

API = Builtin(
    id="api",
    name=_("API"),
    description=_(
        "A service or command line program with a contract that others can rely on: requirements, design, tasks, code "
        "and tests of every operation."
    ),
    project_type=Project.Type.API.value,
    selected_ai=META_GPT,
    outline=Words(
        "- Who calls it, and for what\n"
        "- The operations: what each is given, what it answers, what it changes\n"
        "- The data, its fields and their limits\n"
        "- Errors: which there are, and what a caller can do about each\n"
        "- Who may call what\n"
        "- How much it must carry, and how fast",
        "- 누가 무엇을 위해 호출하는가\n"
        "- 작업: 각각 무엇을 받고, 무엇을 답하고, 무엇을 바꾸는가\n"
        "- 데이터, 필드와 그 한계\n"
        "- 오류: 어떤 것이 있고, 호출한 쪽이 무엇을 할 수 있는가\n"
        "- 누가 무엇을 호출할 수 있는가\n"
        "- 얼마나 많이, 얼마나 빨리 처리해야 하는가",
    ),
    stages=_company(
        (3, 6, 2, 16, 6),
        {
            "requirement": "Write one requirement an operation, with an example of a call and its answer.",
            "design": "Separate the operations from how they are called and from how data is stored.",
            "planning": "One task a file; the data structures come first.",
            "development": "Check every input, and answer errors with a code and a sentence.",
            "testing": "Test every operation with a good input, a wrong one, and one at the limit.",
        },
    ),
    models=_COMPANY_MODELS,
    folders=("service", "service/operations", "service/storage", "tests", "docs"),
    technical={"language": "Python 3.11", "dependencies": "standard library where possible"},
)

DATA_ANALYSIS = Builtin(
    id="data_analysis",
    name=_("Data analysis"),
    description=_(
        "From a question to an analysis that can be repeated: what is known and which data there is, the report's "
        "text with its measures, and the plan of the work."
    ),
    project_type=Project.Type.DATA_ANALYSIS.value,
    selected_ai=CREW_AI,
    outline=Words(
        "- The question, and which decision depends on its answer\n"
        "- The data: where it comes from, from when to when, what a row is\n"
        "- What is known to be wrong or missing in it\n"
        "- The measures, each with how it is calculated\n"
        "- How sure the answer has to be\n"
        "- Who reads the result, and in which form\n"
        "- What must not be shown (persons, secrets)",
        "- 질문과, 그 답에 달린 결정\n"
        "- 데이터: 출처, 기간, 한 행의 의미\n"
        "- 틀렸거나 빠진 것으로 알려진 것\n"
        "- 지표와 각각의 계산 방법\n"
        "- 답이 얼마나 확실해야 하는가\n"
        "- 누가 어떤 형태로 결과를 읽는가\n"
        "- 보여서는 안 되는 것(개인, 비밀)",
    ),
    stages=_trio(
        (6, 5, 3),
        {
            "research": "List the data sources, what each can and cannot answer, and how its quality is checked.",
            "writing": "Write the outline of the report, each measure defined. Leave room for numbers; invent none.",
            "planning": "Name for each step its input, its output, and how somebody else can repeat it.",
        },
    ),
    models={"Researcher": "gpt-4", "Writer": "claude-3", "Planner": "gpt-4o"},
    folders=("data/raw", "data/clean", "analysis", "report", "report/figures", "plan"),
    technical={"language": "Python 3.11", "reproducible": "one command makes the report from the raw data"},
)

ML = Builtin(
    id="ml",
    name=_("Machine learning"),
    description=_(
        "A model from the question to code that trains, measures and predicts: with a baseline that it must beat, and "
        "tests that need no large data."
    ),
    project_type=Project.Type.ML.value,
    selected_ai=META_GPT,
    outline=Words(
        "- What is predicted, for whom, and what they do with it\n"
        "- The data: rows, fields, labels, how many, and how they were got\n"
        "- The measure of success, and the simple baseline that must be beaten\n"
        "- What a wrong prediction costs, in each direction\n"
        "- Which groups it must be fair to, and how that is measured\n"
        "- Where it runs, how fast, and how often it is trained again",
        "- 무엇을 누구를 위해 예측하고, 그것으로 무엇을 하는가\n"
        "- 데이터: 행, 필드, 정답, 개수, 얻은 방법\n"
        "- 성공의 척도와, 넘어야 하는 단순한 기준\n"
        "- 틀린 예측의 비용, 방향마다\n"
        "- 어떤 집단에 공정해야 하고, 어떻게 재는가\n"
        "- 어디서, 얼마나 빨리 실행하고, 얼마나 자주 다시 학습하는가",
    ),
    stages=_company(
        (5, 8, 3, 24, 10),
        {
            "requirement": "Name the measure of success, the baseline, and what a wrong prediction costs.",
            "design": "Keep reading data, features, training, measuring and predicting in files of their own.",
            "planning": "The baseline and its measurement come before the model.",
            "development": "Fix every random seed. Never let data of the test part reach the training.",
            "testing": "Test with a tiny made-up data set: that training runs, measures are right, and no label leaks.",
        },
    ),
    models={**_COMPANY_MODELS, "Architect": "gpt-4", "QA Engineer": "deepseek-coder"},
    folders=("data", "features", "models", "evaluation", "predict", "tests", "docs"),
    technical={"language": "Python 3.11", "baseline": "required", "reproducible": "fixed seeds"},
)

BUILTIN: dict[str, Builtin] = {made.id: made for made in (WEB_APP, MOBILE_APP, API, DATA_ANALYSIS, ML)}

"""What each engine's company does: its roles, its stages, and what a stage has to produce.

The texts are worded for the small embedded model too: goals of a sentence, headings that are named. They are
written in the project's language, whoever reads them.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from projects.models import Deliverable, Project, Stage

T, N = Deliverable.Type, Stage.Name


@dataclass(frozen=True)
class Words:
    """A text in the languages that projects have."""

    en: str
    ko: str

    def text(self, language: str) -> str:
        return self.ko if language == Project.Language.KO else self.en


@dataclass(frozen=True)
class RolePlan:
    """A role: what its model should be good for, what it wants, and how much a small model may write at once."""

    name: str
    purpose: str
    goal: Words
    backstory: Words
    max_tokens: int = 900


@dataclass(frozen=True)
class Wanted:
    """A deliverable that a stage has to produce."""

    type: str
    title: Words


@dataclass(frozen=True)
class StagePlan:
    """A stage as an engine's company does it."""

    stage_name: str
    role: str
    wanted: tuple[Wanted, ...]
    depends_on: tuple[str, ...]
    task: Words
    expected: Words


ROLES: dict[str, tuple[RolePlan, ...]] = {
    Project.Engine.META_GPT: (
        RolePlan(
            "Product Manager",
            "documents",
            Words("Turn what is asked for into requirements that can be checked.",
                  "요청을 확인할 수 있는 요구사항으로 바꿉니다."),
            Words("You write short, exact product requirements.", "짧고 정확한 제품 요구사항을 씁니다."),
        ),
        RolePlan(
            "Architect",
            "documents",
            Words("Design the simplest system that fulfils the requirements.",
                  "요구사항을 만족하는 가장 단순한 시스템을 설계합니다."),
            Words("You prefer few files and plain data structures.", "적은 파일과 단순한 자료 구조를 선호합니다."),
        ),
        RolePlan(
            "Project Manager",
            "documents",
            Words("Break the design down into tasks in the order of their dependencies.",
                  "설계를 의존 순서에 따라 작업으로 나눕니다."),
            Words("You name each file, and what it needs of the others.",
                  "각 파일과 그 파일이 다른 파일에서 필요로 하는 것을 적습니다."),
        ),
        RolePlan(
            "Engineer",
            "code",
            Words("Write complete code that runs, as the tasks and the design say.",
                  "작업과 설계에 따라 실행되는 완전한 코드를 씁니다."),
            Words("You write plain, readable code without placeholders.", "빈자리 없이 읽기 쉬운 코드를 씁니다."),
            1400,
        ),
        RolePlan(
            "QA Engineer",
            "code",
            Words("Find out whether the code does what the requirements say.",
                  "코드가 요구사항대로 동작하는지 확인합니다."),
            Words("You write tests that fail when something is wrong.", "잘못되면 실패하는 테스트를 씁니다."),
            1200,
        ),
    ),
    Project.Engine.CREW_AI: (
        RolePlan(
            "Researcher",
            "research",
            Words("Give short, concrete facts about users, competitors and risks.",
                  "사용자, 경쟁 제품, 위험에 대한 짧고 구체적인 사실을 알려 줍니다."),
            Words("You write bullet lists, and say what you do not know.",
                  "항목으로 쓰고, 모르는 것은 모른다고 합니다."),
            700,
        ),
        RolePlan(
            "Writer",
            "documents",
            Words("Write clear product text that people like to read.", "읽기 쉬운 분명한 제품 글을 씁니다."),
            Words("You write short Markdown sections.", "짧은 마크다운 글을 씁니다."),
            700,
        ),
        RolePlan(
            "Planner",
            "documents",
            Words("Turn notes into a plan that a team can follow.", "메모를 팀이 따라갈 수 있는 계획으로 바꿉니다."),
            Words("You write tables with weeks, work and results.", "주차, 할 일, 결과가 있는 표를 씁니다."),
            800,
        ),
    ),
}  # fmt: skip

# The purpose of a role that stands in no table: of a crew of one's own, say.
OTHER_PURPOSE = "documents"

STAGES: dict[str, tuple[StagePlan, ...]] = {
    Project.Engine.META_GPT: (
        StagePlan(
            N.REQUIREMENT,
            "Product Manager",
            (Wanted(T.REQUIREMENT, Words("Product requirements", "제품 요구사항")),),
            (),
            Words("Write the product requirements: goals, user stories, a pool of requirements with priorities, and "
                  "what is still open.",
                  "제품 요구사항을 쓰세요: 목표, 사용자 이야기, 우선순위가 있는 요구사항, 아직 정해지지 않은 것."),
            Words("Markdown with goals, user stories, requirements and open questions",
                  "목표, 사용자 이야기, 요구사항, 열린 질문이 있는 마크다운"),
        ),
        StagePlan(
            N.DESIGN,
            "Architect",
            (Wanted(T.DESIGN_DOC, Words("System design", "시스템 설계")),
             Wanted(T.ARCHITECTURE, Words("Architecture", "아키텍처"))),
            (N.REQUIREMENT,),
            Words("Design the system: the approach, its files, data structures and interfaces, and how a request runs "
                  "through it.",
                  "시스템을 설계하세요: 접근 방식, 파일, 자료 구조와 인터페이스, 요청이 처리되는 흐름."),
            Words("Markdown with approach, files, data structures, interfaces and the call flow",
                  "접근 방식, 파일, 자료 구조, 인터페이스, 호출 흐름이 있는 마크다운"),
        ),
        StagePlan(
            N.PLANNING,
            "Project Manager",
            (Wanted(T.TASK_PLAN, Words("Task plan", "작업 계획")),),
            (N.DESIGN,),
            Words("Break the design down into tasks, one a file, in the order of their dependencies, with the "
                  "packages that are needed.",
                  "설계를 파일마다 하나의 작업으로, 의존 순서대로 나누고 필요한 패키지를 적으세요."),
            Words("Markdown with packages, tasks in order and what the files share",
                  "패키지, 순서가 있는 작업, 파일들이 공유하는 것이 있는 마크다운"),
        ),
        StagePlan(
            N.DEVELOPMENT,
            "Engineer",
            (Wanted(T.CODE, Words("Code", "코드")),),
            (N.PLANNING,),
            Words("Write the code of every file in the task plan, complete and without placeholders.",
                  "작업 계획의 모든 파일의 코드를 빈자리 없이 완전하게 쓰세요."),
            Words("Every file of the task plan, complete", "작업 계획의 모든 파일, 완전하게"),
        ),
        StagePlan(
            N.TESTING,
            "QA Engineer",
            (Wanted(T.TEST_PLAN, Words("Test plan and result", "테스트 계획과 결과")),),
            (N.DEVELOPMENT,),
            Words("Write what is to be tested and why, and the tests of the code, each of which can fail.",
                  "무엇을 왜 테스트하는지와, 실패할 수 있는 코드의 테스트를 쓰세요."),
            Words("Markdown with the cases, and the test files", "테스트 항목이 있는 마크다운과 테스트 파일"),
        ),
    ),
    Project.Engine.CREW_AI: (
        StagePlan(
            N.RESEARCH,
            "Researcher",
            (Wanted(T.REPORT, Words("Research report", "조사 보고서")),),
            (),
            Words("Write three bullets of one sentence each under each heading: ## User problems, ## Competing "
                  "products, ## What to measure, ## Risks.",
                  "다음 제목 아래에 한 문장짜리 항목을 각각 3개씩 쓰세요: ## 사용자의 문제, ## 경쟁 제품, "
                  "## 측정할 것, ## 위험."),
            Words("Markdown with exactly these four headings and three bullets each",
                  "제목 4개와 각각 항목 3개가 있는 마크다운"),
        ),
        StagePlan(
            N.WRITING,
            "Writer",
            (Wanted(T.DOCUMENT, Words("Product document", "제품 문서")),),
            (),
            Words("Write one paragraph of three sentences that says what it is, for whom, and why. Then write ## Key "
                  "features with five bullets, ## How it is used with three steps, and ## What it does not do with two "
                  "bullets.",
                  "무엇이고, 누구를 위한 것이며, 왜 필요한지 세 문장의 문단으로 쓰세요. 이어서 항목 5개의 "
                  "## 주요 기능, 3단계의 ## 사용 방법, 항목 2개의 ## 하지 않는 것을 쓰세요."),
            Words("One paragraph, then the three headings with their bullets, in Markdown",
                  "문단 하나와 제목 3개가 있는 마크다운"),
        ),
        StagePlan(
            N.PLANNING,
            "Planner",
            (Wanted(T.PLAN, Words("Launch plan", "출시 계획")),),
            (N.RESEARCH, N.WRITING),
            Words("Use the research and the product document above. Write a six week plan as a Markdown table with "
                  "the columns Week, Work, Result (six rows, each week different work), then ## Who does what with one "
                  "bullet a role, and ## Risks with two bullets.",
                  "위의 조사와 제품 문서를 바탕으로 6주 계획을 표로 쓰세요(열: 주차, 할 일, 결과. 6행이며 매주 "
                  "다른 일). 이어서 역할마다 항목 하나의 ## 담당과 항목 2개의 ## 위험을 쓰세요."),
            Words("A Markdown table with six rows, then two headings with bullets",
                  "6행의 마크다운 표와 제목 2개"),
        ),
    ),
}  # fmt: skip

# What a stage produces that stands in no table: of a template of one's own, say.
_OTHER_WANTED: dict[str, str] = {
    N.REQUIREMENT: T.REQUIREMENT,
    N.DESIGN: T.DESIGN_DOC,
    N.ARCHITECTURE: T.ARCHITECTURE,
    N.PLANNING: T.PLAN,
    N.DEVELOPMENT: T.DOCUMENT,
    N.TESTING: T.TEST_PLAN,
    N.DEPLOYMENT: T.DOCUMENT,
    N.RESEARCH: T.REPORT,
    N.WRITING: T.DOCUMENT,
}
_OTHER_TASK = Words(
    "Do the work of the stage “{stage}” for this project, from the earlier work that you are given. Use headings.",
    "주어진 앞 단계의 결과를 바탕으로 이 프로젝트의 “{stage}” 단계를 수행하세요. 제목을 사용하세요.",
)
_OTHER_EXPECTED = Words("A Markdown document with headings", "제목이 있는 마크다운 문서")
_OTHER_GOAL = Words("Do the work of your role well.", "맡은 역할을 잘 수행합니다.")

# The stages that MetaGPT's company knows; CrewAI does whatever it is told.
FIXED_STAGES = frozenset(plan.stage_name for plan in STAGES[Project.Engine.META_GPT])


def slug(text: str) -> str:
    """`Product Manager` as a key: `product_manager`. At most 40 plain characters: it travels in headers."""
    plain = re.sub(r"[^a-z0-9]+", "_", text.strip().casefold()).strip("_")[:40]
    return plain or f"role_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def role_plan(engine: str, role: str) -> RolePlan:
    """What is known of a role of an engine, by its name in any case of letters."""
    for plan in ROLES[engine]:
        if plan.name.casefold() == role.casefold():
            return plan
    return RolePlan(role, OTHER_PURPOSE, _OTHER_GOAL, Words("", ""))


def stage_plan(engine: str, stage_name: str) -> StagePlan:
    """What a stage of an engine does. One that its company does not know is a document with headings."""
    for plan in STAGES[engine]:
        if plan.stage_name == stage_name:
            return plan
    label = str(Stage.Name(stage_name).label)
    kind = _OTHER_WANTED[stage_name]
    title = str(T(kind).label)
    task = Words(_OTHER_TASK.en.format(stage=label), _OTHER_TASK.ko.format(stage=label))
    return StagePlan(stage_name, "", (Wanted(kind, Words(title, title)),), (), task, _OTHER_EXPECTED)


def purpose(engine: str, role: str) -> str:
    """What a role's model should be good for: a key of `crews.recommend.RECOMMENDED`."""
    return role_plan(engine, role).purpose


def roles_of(project: Project) -> list[str]:
    """The names of the roles of a project: those of its engine's company, its stages' and its crew's. Two queries."""
    of_stages = project.stages.order_by("stage_order").values_list("responsible_role", flat=True)
    of_crew = project.crew.agents.values_list("role", flat=True) if project.crew else ()
    return _different([plan.name for plan in ROLES[project.selected_ai]], of_stages, of_crew)


def _different(*names: Iterable[str]) -> list[str]:
    """Each name once, whatever its case of letters, in order."""
    found: dict[str, str] = {}
    for some in names:
        for name in some:
            found.setdefault(name.casefold(), name)
    return list(found.values())


def role_named(project: Project, name: str) -> str | None:
    """The project's role of that name, whatever its case of letters or as its key; None when it has none."""
    wanted = name.strip()
    return next(
        (role for role in roles_of(project) if role.casefold() == wanted.casefold() or slug(role) == wanted), None
    )

"""The crews that a newcomer runs first, worded for the small embedded model.

Goals and backstories of a sentence, headings that are named, and answers with a limit: that is
what keeps a model of this size on the subject.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class DemoAgent:
    role: str
    goal: str
    backstory: str
    max_tokens: int


@dataclass(frozen=True)
class DemoTask:
    name: str
    role: str
    description: str
    expected_output: str
    context: tuple[str, ...] = ()


@dataclass(frozen=True)
class DemoCrew:
    name: str
    description: str
    topic_label: str
    topic: str
    agents: tuple[DemoAgent, ...]
    tasks: tuple[DemoTask, ...]


DEMO_CREWS = (
    DemoCrew(
        name="Research and write",
        description=(
            "Three agents on one topic: a researcher and a writer work side by side, then a planner turns both into "
            "a plan."
        ),
        topic_label="Topic",
        topic="a health tracking mobile app for runners",
        agents=(
            DemoAgent("Researcher", "Give short, concrete facts.", "You write bullet lists.", 450),
            DemoAgent("Writer", "Write clear product text.", "You write short Markdown sections.", 450),
            DemoAgent("Planner", "Turn notes into a plan.", "You write tables with weeks and results.", 650),
        ),
        tasks=(
            DemoTask(
                "Research",
                "Researcher",
                "Topic: {topic}.\nWrite three bullets of one sentence each under each heading: ## User problems, "
                "## Competing products, ## What to measure.",
                "Markdown with exactly these three headings and three bullets each",
            ),
            DemoTask(
                "Write",
                "Writer",
                "Topic: {topic}.\nWrite one paragraph of three sentences that says what it is, for whom, and why. "
                "Then write the heading ## Key features with exactly four bullets of one sentence each.",
                "One paragraph, then the heading and four bullets, in Markdown",
            ),
            DemoTask(
                "Plan",
                "Planner",
                "Use the research and the product text above. Write a six week launch plan for {topic} as a Markdown "
                "table with the columns Week, Work, Result (six rows, each week different work), then ## Risks with "
                "two bullets.",
                "A Markdown table with six rows, and two risks",
                ("Research", "Write"),
            ),
        ),
    ),
    DemoCrew(
        name="조사하고 쓰기",
        description=(
            "하나의 주제를 세 에이전트가 맡습니다. 조사와 글쓰기를 나란히 하고, 기획자가 둘을 모아 계획을 만듭니다."
        ),
        topic_label="주제",
        topic="러너를 위한 건강 추적 모바일 앱",
        agents=(
            DemoAgent("조사원", "짧고 구체적인 사실을 알려 줍니다.", "항목으로 정리합니다. 한국어로만 쓰세요.", 450),
            DemoAgent("작가", "분명한 제품 소개를 씁니다.", "짧은 마크다운 글을 씁니다. 한국어로만 쓰세요.", 450),
            DemoAgent(
                "기획자", "메모를 계획으로 바꿉니다.", "주차와 결과물이 있는 표를 씁니다. 한국어로만 쓰세요.", 650
            ),
        ),
        tasks=(
            DemoTask(
                "조사",
                "조사원",
                "주제: {topic}.\n다음 제목 아래에 각각 3개의 항목을 쓰세요: "
                "## 사용자의 문제, ## 경쟁 제품, ## 필요한 데이터.",
                "제목 3개와 항목 9개의 마크다운",
            ),
            DemoTask(
                "글쓰기",
                "작가",
                "주제: {topic}.\n한 문단의 제품 소개와, ## 주요 기능 아래 4개의 항목을 쓰세요.",
                "한 문단과 항목 4개의 짧은 마크다운",
            ),
            DemoTask(
                "계획",
                "기획자",
                "위의 조사와 소개를 바탕으로 {topic}의 6주 출시 계획을 쓰세요. "
                "표: 주차 | 할 일 | 결과물. 마지막에 ## 위험 2개.",
                "6행의 마크다운 표와 위험 2개",
                ("조사", "글쓰기"),
            ),
        ),
    ),
)

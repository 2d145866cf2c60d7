"""Deliverables as Markdown, made from structured answers; and what later roles read out of Markdown again.

People edit and approve the Markdown, so nothing later depends on the data beneath it: the only thing that is taken
out of it again is which files to write, and that is found in whatever form they wrote it.
"""

import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from executions.engines.metagpt import diagrams, trials
from executions.engines.metagpt.wording import say
from executions.engines.protocol import File

Values = dict[str, Any]
MAX_FILES = 20

_PATH = re.compile(r"(?<![\w/.-])((?:[\w-]+/)*[\w-]+\.[A-Za-z][A-Za-z0-9]{0,7})(?![\w/-])")
_HEADING = re.compile(r"^#{1,4}\s+(.*?)\s*$")
_PLANNED = re.compile(r"task list|files?\b|작업 목록|파일", re.IGNORECASE)
# What ends in one of these is source that an engineer writes.
_SOURCE = frozenset(
    {
        *("py", "js", "mjs", "ts", "tsx", "jsx", "vue", "html", "css", "scss", "json", "yaml", "yml", "toml", "sql"),
        *("java", "kt", "swift", "go", "rs", "c", "h", "cpp", "hpp", "cs", "rb", "php", "sh", "dart", "r", "md"),
    }
)
_DATA = frozenset({"json", "yaml", "yml", "toml", "md", "sql"})  # often only read or written by the program
_BLOCK = re.compile(r"^#{2,4}\s+`?([\w./-]+\.\w+)`?\s*\n+```[\w+-]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)


def requirement(title: str, values: Values, asked: str, language: str) -> str:
    """A product requirement document."""
    word = partial(say, language=language)
    chart = values["Competitive Quadrant Chart"]
    rivals = [(item["product"], item["assessment"]) for item in values["Competitive Analysis"]]
    pool = [(item["priority"], item["requirement"]) for item in values["Requirement Pool"]]
    return _document(
        title,
        [
            (word("Original requirement"), "\n".join(f"> {line}".rstrip() for line in asked.strip().splitlines())),
            (word("Product goals"), _bullets(values["Product Goals"])),
            (word("User stories"), _bullets(values["User Stories"])),
            (word("Requirement analysis"), values["Requirement Analysis"]),
            (word("Requirement pool"), _table((word("Priority"), word("Requirement")), sorted(pool, key=_first))),
            (word("User interface"), values["UI Design draft"]),
            (word("Programming language"), values["Programming Language"]),
            (word("Competitive analysis"), _table((word("Product"), word("Assessment")), rivals)),
            (word("Competitive position"), diagrams.fenced(diagrams.quadrant(chart, word("Competitive position")))),
            (word("Open questions"), values["Anything UNCLEAR"]),
        ],
    )


def design(title: str, values: Values, language: str) -> str:
    """What is to be built, in words."""
    word = partial(say, language=language)
    files = [*values["File list"], *(item["file"] for item in values["Data structures and interfaces"])]
    usage = [(f"`{item['example'].strip('`')}`", item["result"]) for item in values["Usage"]]
    return _document(
        title,
        [
            (word("Implementation approach"), values["Implementation approach"]),
            (word("Usage"), _table((word("Example"), word("Result")), usage)),
            (word("Files"), _bullets(f"`{path}`" for path in dict.fromkeys(files))),
            (word("Open questions"), values["Anything UNCLEAR"]),
        ],
    )


def architecture(title: str, values: Values, language: str) -> str:
    """How it is built: classes and calls."""
    word = partial(say, language=language)
    found = values["Data structures and interfaces"]
    told = "\n\n".join(
        "\n".join(
            [
                f"### {item['name']}",
                f"`{item['file']}`: {item['purpose']}",
                *(["", _bullets(f"`{member}`" for member in members)] if members else []),
            ]
        )
        for item in found
        for members in [[*item["attributes"], *item["methods"]]]
    )
    return _document(
        title,
        [
            (word("Classes"), told),
            (word("Class diagram"), diagrams.fenced(diagrams.classes(found))),
            (word("Call flow"), diagrams.fenced(diagrams.calls(values["Program call flow"]))),
        ],
    )


def plan(title: str, values: Values, language: str) -> str:
    """Which files are to be written, in which order."""
    word = partial(say, language=language)
    tasks = in_order(values["Logic Analysis"])
    lines = []
    for number, task in enumerate(tasks, start=1):
        uses = ", ".join(f"`{path}`" for path in task["uses"])
        lines.append(f"{number}. `{task['file']}`: {task['does']}" + (f" ({word('uses')} {uses})" if uses else ""))
    routes = [(item["method"], f"`{item['path']}`", item["does"]) for item in values["Full API spec"]]
    packages = [name for name in values["Required packages"] if name.strip().lower() not in {"none", "-", "n/a"}]
    sections = [
        (word("Task list"), "\n".join(lines)),
        (word("Packages"), _bullets(packages) if packages else word("None: the standard library will do.")),
        (word("Shared knowledge"), values["Shared Knowledge"]),
        (word("Open questions"), values["Anything UNCLEAR"]),
    ]
    if routes:
        heads = (word("Method"), word("Path"), word("Purpose"))
        sections.insert(2, (word("API"), _table(heads, routes)))
    return _document(title, sections)


def in_order(tasks: Sequence[Values]) -> list[Values]:
    """Each file once, after those that it uses, and what starts the program last; otherwise in the order in which
    they were given."""
    by_file = {task["file"]: task for task in reversed(tasks)}
    left = list(dict.fromkeys(task["file"] for task in tasks))
    uses = {path: {other for other in by_file[path]["uses"] if other in by_file and other != path} for path in left}
    done: list[str] = []
    while left:
        ready = [path for path in left if uses[path] <= set(done)]
        following = ready[0] if ready else min(left, key=lambda path: len(uses[path] - set(done)))
        done.append(following)
        left.remove(following)
    return [
        {**by_file[path], "uses": [other for other in by_file[path]["uses"] if other in uses[path]]}
        for path in trials.entry_last(done)
    ]


def testing(title: str, values: Values, language: str, rest: Iterable[tuple[str, str]]) -> str:
    """What is tested and how; `rest`: sections on what came of it."""
    word = partial(say, language=language)
    cases = [(item["title"], item["steps"], item["expected"]) for item in values["Test cases"]]
    heads = (word("Case"), word("Steps"), word("Expected"))
    return _document(
        title,
        [
            (word("Test approach"), values["Test approach"]),
            (word("Test cases"), _table(heads, cases)),
            (word("Risks"), _bullets(values["Risks"])),
            *rest,
        ],
    )


def other(title: str, values: Values, language: str) -> str:
    """Any document that has no form of its own."""
    sections = [(item["heading"], item["text"]) for item in values["Sections"]]
    return _document(title, [(say("Summary", language), values["Summary"]), *sections])


def assembled(title: str, sections: Iterable[tuple[str, str]]) -> str:
    """A document of sections that are Markdown already."""
    return _document(title, sections)


def file_table(files: Sequence[File], language: str) -> str:
    word = partial(say, language=language)
    rows = [(f"`{file['path']}`", str(len(file["content"].splitlines()))) for file in files]
    return _table((word("File"), word("Lines")), rows)


def listing(files: Iterable[File]) -> str:
    """Files as Markdown, from which `listed` reads them."""
    return "\n\n".join(
        f"### {file['path']}\n\n```{file['path'].rpartition('.')[2]}\n{file['content'].rstrip()}\n```" for file in files
    )


def listed(markdown: str) -> dict[str, str]:
    """The files that stand in a text, each a heading with its path and a block of code."""
    return dict(_BLOCK.findall(markdown))


def is_source(path: str) -> bool:
    """Whether a file is one that an engineer writes: text that is no source is made by the program when it runs."""
    return path.rpartition(".")[2].lower() in _SOURCE or path.rpartition("/")[2] == "requirements.txt"


def planned_files(markdown: str) -> list[str]:
    """The source files that a plan or a design names, in its order: those under the heading about them, else all."""
    under: list[str] = []
    everywhere: list[str] = []
    about_files = inside_code = False
    for line in markdown.splitlines():
        if line.lstrip().startswith("```"):
            inside_code = not inside_code
        heading = None if inside_code else _HEADING.match(line)
        if heading:
            about_files = bool(_PLANNED.search(heading[1]))
        if inside_code:
            continue
        paths = [path for path in _PATH.findall(line) if is_source(path)]
        everywhere += paths
        if about_files and re.match(r"\s*([-*+]|\d+[.)]|\|)", line):
            under += paths[:1]  # the rest of the line says what the file uses
    chosen = under or [path for path in everywhere if path.rpartition(".")[2].lower() not in _DATA]
    return list(dict.fromkeys(path.lstrip("./") for path in chosen))[:MAX_FILES]


def _document(title: str, sections: Iterable[tuple[str, str]]) -> str:
    parts = [f"# {title}", *(f"## {heading}\n\n{body.strip()}" for heading, body in sections if body.strip())]
    return "\n\n".join(parts) + "\n"


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", str(text)).replace("|", r"\|").strip()


def _first(row: Sequence[str]) -> str:
    return row[0]

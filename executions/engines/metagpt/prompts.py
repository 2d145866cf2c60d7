"""What engineers are asked. The same materials give the same words."""

from collections.abc import Mapping, Sequence

from executions.engines.metagpt import checks

MOST_OUTPUT = 1500  # characters of a program's words that a model is shown


def write(path: str, plan: Sequence[str], done: Mapping[str, str], before: str = "") -> str:
    """Asks for one file of a program; `done`: the finished ones; `before`: the file's earlier version."""
    later = [other for other in plan if other not in done and other != path]
    earlier = (
        f"The earlier version of {path}, which is to be made better:\n{_block(path, before)}\n\n" if before else ""
    )
    return (
        f"{_finished(done)}{earlier}=== Now: write the file {path} ===\n"
        f"{_rules(path, plan, done, later)}\n"
        "Answer with one block of code and nothing else."
    )


def again(path: str, problems: Sequence[str]) -> str:
    """What is added when the first version of a file was wrong.

    The wrong version is not shown: small models copy it.
    """
    told = "\n".join(f"- {problem}" for problem in problems)
    return f"\nAvoid these mistakes of an earlier version of {path}:\n{told}"


def rewrite(path: str, code: str, plan: Sequence[str], done: Mapping[str, str], wishes: Sequence[str]) -> str:
    """Asks for a better version of a file that a reviewer found wanting."""
    told = "\n".join(f"- {wish}" for wish in wishes)
    return (
        f"{_finished(done)}The file {path} as it is:\n{_block(path, code)}\n\n"
        f"=== Now: write the corrected file {path} ===\nWhat has to change:\n{told}\n"
        f"{_rules(path, plan, done, [])}\n"
        "Keep the names of its classes and functions. Answer with the whole file as one block of code and nothing else."
    )


def review(path: str, code: str, done: Mapping[str, str], problems: Sequence[str]) -> str:
    """Asks for a judgement on a file."""
    found = "; ".join(problems) or "nothing"
    return (
        f"{_finished(done)}=== Now: review the file {path} ===\n{_block(path, code)}\n"
        f"Automatic checks found: {found}\n"
        "Does it do what is asked for, is its logic right, is anything missing, does it use the other files as they "
        "are? Name only what is wrong for certain, and what to change. Result: LGTM if it can stay as it is, LBTM if "
        "it must be rewritten. Answer as JSON."
    )


def test(path: str, code: str, test_path: str, others: Mapping[str, str]) -> str:
    """Asks for the tests of a file."""
    module = checks.module_name(path)
    offered = checks.module_of(code) if not checks.syntax_error(path, code) else checks.Module()
    names = ", ".join([*offered.classes, *offered.functions]) or "*"
    return (
        f"{_used(path, code, others)}The file {path}:\n{_block(path, code)}\n\n"
        f"=== Now: write its tests, the file {test_path} ===\n"
        "- use unittest and nothing else that has to be installed\n"
        f"- the tests start in the folder of {path}; import with: from {module} import {names}\n"
        "- 3 to 6 short test methods, each with data of its own; wrong input too\n"
        "- import what you use; files go into tempfile.TemporaryDirectory() (import tempfile); no network\n"
        "- where the code calls input(), patch it with unittest.mock.patch\n"
        "- expect what the project asks for and what the code returns; read it carefully\n"
        "Answer with one block of code and nothing else."
    )


def why_failed(path: str, code: str, test_path: str, test_code: str, output: str) -> str:
    """Asks for the cause of failing tests."""
    return (
        f"The file {path}:\n{_block(path, code)}\n\nIts tests, {test_path}:\n{_block(test_path, test_code)}\n\n"
        f"What running them gave:\n{output[-MOST_OUTPUT:]}\n\n"
        "=== Now: why did they fail? ===\n"
        "Say the cause in one or two sentences, and which of the two files is wrong: the program, when it does not do "
        "what the project asks for, or the test, when it expects something else than that. Answer as JSON."
    )


def debug(path: str, code: str, test_path: str, test_code: str, output: str, cause: str) -> str:
    """Asks for corrected tests."""
    return (
        f"The file {path}, which stays as it is:\n{_block(path, code)}\n\n"
        f"Its tests, {test_path}:\n{_block(test_path, test_code)}\n\n"
        f"What running them gave:\n{output[-MOST_OUTPUT:]}\n\nThe cause: {cause}\n\n"
        f"=== Now: write the corrected file {test_path} ===\n"
        "Use unittest. Answer with the whole file as one block of code and nothing else."
    )


def starts(path: str, plan: Sequence[str]) -> bool:
    """Whether a file of the plan is the one that starts the program."""
    return path == plan[-1] or path.rpartition("/")[2] == "main.py"


def _rules(path: str, plan: Sequence[str], done: Mapping[str, str], later: Sequence[str]) -> str:
    rules = [
        "complete, working code: no placeholders, nothing left to do",
        "only what belongs into this file; the classes and functions that the design names for it, by those names",
    ]
    if not path.endswith(".py"):
        return "\n".join(f"- {rule}" for rule in rules)
    rules.append("the standard library alone, unless the requirement names other packages")
    usable = [other for other in done if other.endswith(".py")]
    if usable:
        known = "; ".join(f"from {checks.module_name(other)} import …" for other in usable)
        rules.append(f"import what it needs of the finished files ({known}); use only names that they have")
    if later:
        rules.append(f"do not import {', '.join(later)}: they are written later")
    if starts(path, plan):
        rules.append("it starts the program: it ends with if __name__ == '__main__': main()")
        rules.append("wrong input gives a message, no traceback")
    else:
        rules.append("it starts nothing by itself when it is imported")
    return "\n".join(f"- {rule}" for rule in rules)


def _finished(done: Mapping[str, str]) -> str:
    if not done:
        return ""
    blocks = "\n\n".join(f"The finished file {path}:\n{_block(path, code)}" for path, code in done.items())
    return f"{blocks}\n\n"


def _used(path: str, code: str, others: Mapping[str, str]) -> str:
    """What the other files that this one uses offer."""
    lines = [
        f"{other} has:\n{checks.outline(text)}\n\n"
        for other, text in others.items()
        if other != path and other.endswith(".py") and checks.module_name(other).split(".")[-1] in code
    ]
    return "".join(lines)


def _block(path: str, code: str) -> str:
    return f"```{path.rpartition('.')[2].replace('py', 'python')}\n{code.rstrip()}\n```"

"""What agents are told beyond what the crew's author wrote. The same spec gives the same words."""

from collections.abc import Sequence

from executions.engines.protocol import Review


def sent_back(reviews: Sequence[Review]) -> str:
    """The agent's last answer to a task, and what people asked for when they sent its answers back, oldest first."""
    asked = [text for review in reviews if (text := review["feedback"].strip())] or ["A better answer."]
    wishes = asked[0] if len(asked) == 1 else "\n".join(f"{n}. {text}" for n, text in enumerate(asked, start=1))
    return (
        "You have answered this task before, and a person has sent your answer back.\n\n"
        f"Your last answer:\n{reviews[-1]['output'].strip()}\n\n"
        f"What the person asks you to change:\n{wishes}\n\n"
        "Answer the task again, and do all that the person asks for. Give the whole new answer, not only what changed."
    )

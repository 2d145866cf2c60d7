import json
import os
import threading

import pytest

from executions.engines import output as engine_output
from executions.engines.output import Failed, Output


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "events.jsonl"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield descriptor, lambda: [json.loads(line) for line in path.read_bytes().splitlines()]
    os.close(descriptor)


def test_an_event_says_what_whose_and_when(written):
    descriptor, lines = written
    Output(descriptor).event("task.started", task="7", role="Writer", data={"name": "글쓰기"})
    (line,) = lines()
    assert line.pop("at").endswith("+00:00")
    assert line == {"kind": "event", "type": "task.started", "task": "7", "role": "Writer", "data": {"name": "글쓰기"}}


def test_lines_of_many_threads_are_whole_and_their_times_rise(written):
    descriptor, lines = written
    output = Output(descriptor)
    threads = [
        threading.Thread(target=lambda n=n: [output.event("log", data={"n": n, "text": "x" * 5000}) for _ in range(50)])
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = lines()
    assert len(found) == 400
    assert [line["at"] for line in found] == sorted(line["at"] for line in found)


def test_the_result_is_the_last_line(written):
    descriptor, lines = written
    output = Output(descriptor)
    output.result("done")
    output.event("log")
    output.failure("error", "too late")
    assert lines() == [{"kind": "result", "output": "done"}]


def test_long_texts_are_cut_and_say_so_but_never_the_result(written):
    descriptor, lines = written
    output = Output(descriptor)
    output.event("tool.completed", data={"result": "a" * 300_000})
    output.event("tool.completed", data={str(n): "b" * 150_000 for n in range(5)})
    output.result("c" * 1_000_000)
    first, second, last = lines()
    assert first["data"]["result"] == "a" * engine_output.MAX_TEXT + engine_output.CUT
    assert second["data"]["cut"].endswith(engine_output.CUT)
    assert len(last["output"]) == 1_000_000


def test_half_a_character_from_a_model_breaks_nothing(written):
    descriptor, lines = written
    Output(descriptor).event("log", data={"text": "a\ud800b"})
    assert lines()[0]["data"]["text"] == "a?b"


def test_a_bell_that_is_full_or_unheard_is_no_obstacle(written):
    descriptor, lines = written
    read, write = os.pipe2(os.O_NONBLOCK)
    output = Output(descriptor, write)
    output.event("log")
    assert os.read(read, 10) == b"\0"
    while True:
        try:
            os.write(write, b"\0" * 65536)
        except BlockingIOError:
            break
    output.event("log")
    os.close(read)
    output.event("log")
    assert len(lines()) == 3
    os.close(write)


def test_the_output_of_a_task_is_whole_or_refused(written):
    descriptor, lines = written
    output = Output(descriptor)
    for type_ in ("task.completed", "approval.requested"):
        output.event(type_, task="1", data={"output": "a" * 900_000})
        with pytest.raises(Failed, match=r"too long to be kept: 2\.\d MB, and at most 1 MB"):
            output.event(type_, task="1", data={"output": "한" * 900_000})
    with pytest.raises(Failed):
        output.result("a" * (1 << 20))
    output.failure("error", "\0" * (1 << 20))  # six bytes each
    assert [len(line["data"]["output"]) for line in lines()[:2]] == [900_000, 900_000]
    assert len(lines()) == 3


def test_files_are_kept_before_the_output_of_a_task_is_written_and_for_nothing_else(written):
    descriptor, lines = written
    kept = []

    def keep():
        kept.append(len(lines()))
        return {"workspace": "archive"}

    output = Output(descriptor, keep_files=keep)
    output.event("task.started", task="1")
    output.event("task.completed", task="1", data={"output": "a"})
    output.event("log")
    assert kept == [1]
    assert lines()[1]["data"] == {"output": "a", "workspace": "archive"}


def test_an_attempt_may_end_unfinished(written):
    descriptor, lines = written
    output = Output(descriptor)
    output.unfinished("waiting")
    output.event("log")
    assert lines() == [{"kind": "waiting"}]


def made(content):
    return {"type": "code", "title": "Code", "content": "", "files": [{"path": "main.py", "content": content}]}


def test_deliverables_are_never_cut(written):
    descriptor, lines = written
    text = "x = 1\n" * 50_000
    Output(descriptor).event("task.completed", task="t", data={"output": "Done.", "deliverables": [made(text)] * 2})
    (line,) = lines()
    assert [one["files"][0]["content"] for one in line["data"]["deliverables"]] == [text, text]


def test_deliverables_that_are_too_long_are_refused_with_a_sentence(written):
    descriptor, lines = written
    output = Output(descriptor)
    with pytest.raises(Failed, match=r"too long to be kept: 1\.[0-9] MB, and at most 1 MB"):
        output.event("task.completed", task="t", data={"output": "Done.", "deliverables": [made("x" * 1_200_000)]})
    output.event("log", data={"message": "It goes on."})
    assert [line["type"] for line in lines()] == ["log"]

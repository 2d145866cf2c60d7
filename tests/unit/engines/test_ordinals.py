import json
import threading
from collections import Counter

from executions.engines.ordinals import Ordinals


def body(*messages, **more):
    return json.dumps({"model": "role:a", "messages": list(messages), **more}).encode()


def user(text):
    return {"role": "user", "content": text}


def turn(call_id):
    call = {"id": call_id, "type": "function", "function": {"name": "add", "arguments": "{}"}}
    return [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": call_id, "content": "3"}]


def take(ordinals, raw, *, method="POST", path="/v1/chat/completions", task="1", role="a"):
    return ordinals.take(method, path, task, role, raw)


def test_identical_requests_are_counted_and_others_are_not():
    ordinals = Ordinals()
    hello, bye = body(user("hello")), body(user("bye"))
    assert [take(ordinals, raw) for raw in (hello, bye, hello, hello, bye)] == [0, 0, 1, 2, 1]


def test_another_task_agent_path_or_method_counts_for_itself():
    ordinals = Ordinals()
    raw = body(user("hello"))
    assert take(ordinals, raw) == take(ordinals, raw, task="2") == take(ordinals, raw, role="b") == 0
    assert take(ordinals, raw, path="/v1/tools/add") == take(ordinals, raw, method="PUT") == 0
    assert take(ordinals, raw) == 1


def test_what_does_not_change_the_answer_makes_no_difference():
    ordinals = Ordinals()
    assert take(ordinals, body(user("hello"), stream=True, seed=1, stop=None)) == 0
    assert take(ordinals, body(user("hello"), user="me", model="role:b")) == 1
    assert take(ordinals, body(user("hello"), temperature=0.5)) == 0


def test_ids_of_tool_calls_count_by_their_place():
    ordinals = Ordinals()
    assert take(ordinals, body(user("add"), *turn("call_x"), *turn("call_y"))) == 0
    assert take(ordinals, body(user("add"), *turn("call_1"), *turn("call_2"))) == 1
    assert take(ordinals, body(user("add"), *turn("call_1"), *turn("call_1"))) == 0


def test_what_is_no_json_is_counted_as_it_is():
    ordinals = Ordinals()
    assert [take(ordinals, raw) for raw in (b"", b"\xff", b"[]", b"", b"\xff")] == [0, 0, 0, 1, 1]


def test_many_threads_get_each_number_once():
    ordinals, found = Ordinals(), Counter()

    def ask():
        for _ in range(200):
            found[take(ordinals, body(user("hello")))] += 1

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == Counter(range(1600))

"""Files of tasks: what a line may hold, one line for each fault, and the windows that a model reads."""

import gzip
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.errors import ProbeError
from olmo_dynamics.probes.tasks import SHIPPED, Task, TaskItem, TaskRequests, read_tasks
from olmo_dynamics.probes.tokenizer import ProbeTokenizer
from tests.runs import tiny_tokenizer

CHOICE = {"context": "Question: 7 + 5 =\nAnswer:", "choices": ["12", "13"], "gold": 0}
PAIR = {"good": "The keys are here.", "bad": "The keys is here."}


def written(path, *lines):
    path.write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), encoding="utf-8"
    )
    return path


def test_a_line_is_a_question_or_a_pair_and_blank_lines_are_passed_over(tmp_path):
    file = written(tmp_path / "mine.jsonl", {**CHOICE, "id": 7}, "", {**PAIR, "delimiter": "", "context": "So:"})
    with gzip.open(tmp_path / "other.jsonl.gz", "wb") as packed:
        packed.write(b"\xef\xbb\xbf" + file.read_bytes())
    mine, other = read_tasks([file, tmp_path / "other.jsonl.gz"])
    assert mine.items == other.items == (
        TaskItem(CHOICE["context"], ("12", "13"), 0, " ", 1), TaskItem("So:", tuple(PAIR.values()), 0, "", 3),
    )  # fmt: skip
    assert (mine.name, other.name, mine.origin) == ("mine", "other", str(file))


def test_the_shipped_tasks_have_dozens_of_items_that_differ_with_the_right_answers_spread():
    tasks = read_tasks(SHIPPED)
    assert [task.name for task in tasks] == list(SHIPPED)
    for task in tasks:
        assert 24 <= len(task.items) == len({(item.context, item.choices) for item in task.items}) <= 48
    for task in tasks[:2]:
        counts = np.bincount([item.gold for item in task.items], minlength=4)
        assert {len(item.choices) for item in task.items} == {4} and counts.min() >= 3


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "must be a JSON object in UTF-8 (got: Expecting property name enclosed in double quotes at column 2)"),
        ("[1]", "must be a JSON object (got [1])"),
        ({**CHOICE, "choice": 1}, "must have no field but context, choices, gold, delimiter, id (got 'choice'); did you mean "
                                  "'choices'?"),
        ({**PAIR, "gold": 0}, "must have no field but context, good, bad, delimiter, id (got 'gold'); did you mean 'good'?"),
        ({"good": "A."}, "must have text as bad (got nothing)"),
        ({**CHOICE, "context": 3}, "must have text as context (got 3)"),
        ({**CHOICE, "context": " \n"}, "must have a context with a letter, or none (got ' \\n')"),
        ({**CHOICE, "choices": ["12"]}, 'must have a list of at least 2 texts as choices (got ["12"])'),
        ({**CHOICE, "choices": ["12", ""]}, 'must have choices that differ, none of them empty (got ["12", ""])'),
        ({**CHOICE, "choices": ["12", "12"]}, 'must have choices that differ, none of them empty (got ["12", "12"])'),
        ({**CHOICE, "gold": 2}, "must have a whole number from 0 to 1 as gold, the place of the right choice (got 2)"),
        ({**CHOICE, "gold": True}, "must have a whole number from 0 to 1 as gold, the place of the right choice (got true)"),
        ('{"good": "\\ud800", "bad": "x"}', 'must have text as good (got "\\ud800")'),
    ],
)  # fmt: skip
def test_a_bad_line_is_refused_in_one_line_with_its_number(tmp_path, line, told):
    file = written(tmp_path / "bad.jsonl", CHOICE, line)
    with pytest.raises(ProbeError) as error:
        read_tasks([file])
    assert str(error.value) == f"{file} line 2 {told}"


def test_files_that_cannot_be_tasks_are_refused(tmp_path):
    empty, text = written(tmp_path / "empty.jsonl"), written(tmp_path / "code.txt")
    other = written(tmp_path / "code.jsonl", PAIR)
    for given_files, told in (
        ([empty], f"{empty} must hold at least one item (got no line with text)"),
        ([text], "tasks must be files of JSON lines (*.jsonl, *.jsonl.gz), or of arithmetic, code, agreement, stereotypes "
                 f"(got {text})"),
        (["code", other], f"tasks must differ in their names (got code and {other} for code); rename a file"),
    ):  # fmt: skip
        with pytest.raises(ProbeError, match=f"^{re.escape(told)}$"):
            read_tasks(given_files)


def task(*items):
    return Task("mine", items, "mine.jsonl")


TEXTS = st.text("the model next.", min_size=1, max_size=12)


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(TEXTS | st.just(""), st.lists(TEXTS, min_size=2, max_size=3, unique=True)), min_size=1, max_size=3
    )
)
def test_windows_and_targets_are_the_text_cut_on_the_left(drawn):
    tokenizer = ProbeTokenizer(tiny_tokenizer().encode())
    items = [TaskItem(context if context.strip() else "", tuple(choices), 0) for context, choices in drawn]
    longest = 5
    found = TaskRequests.of([task(*items)], tokenizer, vocab_size=300, longest=longest)
    expected = []
    for item in items:
        for choice in item.choices:
            kept = item.context.rstrip()
            whole = tokenizer.encode(item.context + " " + choice)
            before = len(tokenizer.encode(kept)) if kept else 1
            expected.append((whole if kept else [0, *whole], before))
    for row, (ids, before) in enumerate(expected):
        inputs, answer = ids[:-1][-longest:], ids[before:][-longest:]
        np.testing.assert_array_equal(found.token_ids[row][found.mask[row]], inputs)
        np.testing.assert_array_equal(found.targets[row][found.targets[row] >= 0], answer)
        np.testing.assert_array_equal(
            np.flatnonzero(found.targets[row] >= 0) + len(answer), len(inputs) + np.arange(len(answer))
        )
    assert found.cut == sum(len(ids) > longest + 1 for ids, _ in expected)


def test_an_answer_that_the_tokenizer_joins_to_its_context_is_refused():
    tokenizer = ProbeTokenizer(tiny_tokenizer().encode())
    with pytest.raises(ProbeError) as error:
        TaskRequests.of([task(TaskItem("th", ("e", "zz"), 0, "", 4))], tokenizer, vocab_size=300, longest=9)
    assert str(error.value) == (
        "mine.jsonl line 4 must have choices with tokens of their own (got 'e', which the tokenizer joins to the context); begin "
        "it with a space, or end the context at a word"
    )
    largest = max(tokenizer.encode("the z"))
    with pytest.raises(ProbeError, match=f"token id {largest} is outside the model's vocabulary of {largest} ids"):
        TaskRequests.of([task(TaskItem("the", ("z", "b"), 0))], tokenizer, vocab_size=largest, longest=9)

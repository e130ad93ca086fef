"""Files of conversations: what is read, and how a wrong line is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from uhlm_edge.common.errors import DataError
from uhlm_edge.common.prompts import read_prompts

GOOD = {"messages": [{"role": "user", "content": "hi"}], "answer": "hello"}
ROWS = Path(__file__).parents[2] / "common" / "data" / "tasks.jsonl"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"answer": "x"}', 'give "prompt" or "messages"'),
        ('{"prompt": 5}', '"prompt" must be text'),
        ({**GOOD, "messages": []}, '"messages" must be a list'),
        ({**GOOD, "messages": [{"role": "me", "content": "x"}]}, "message 1: role"),
        ({**GOOD, "messages": [{"role": "user", "content": 3}]}, "message 1: content"),
        ({**GOOD, "messages": [{"role": "assistant", "content": "x"}]}, "the last message"),
        ({"messages": GOOD["messages"]}, 'either "answer" or "reference"'),
        ({**GOOD, "reference": "x"}, 'either "answer" or "reference"'),
        ({**GOOD, "answer": 4}, '"answer" must be text'),
        ({**GOOD, "answer": " "}, '"answer" must be text'),
    ],
)
def test_a_wrong_row_is_named_by_line_and_reason(tmp_path: Path, row: object, reason: str) -> None:
    file = tmp_path / "rows.jsonl"
    text = row if isinstance(row, str) else json.dumps(row)
    file.write_text(f"{json.dumps(GOOD)}\n\n{text}\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:3: ") as error:
        read_prompts(file, 1, scored=True)
    assert reason in str(error.value)


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_prompts(tmp_path / "none")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(DataError, match="holds no prompts"):
        read_prompts(tmp_path / "empty")
    (tmp_path / "latin").write_bytes(b"{}\n\xff\n")
    with pytest.raises(DataError, match="latin:2: not UTF-8"):
        read_prompts(tmp_path / "latin")
    with pytest.raises(DataError, match="limit"):
        read_prompts(ROWS, 0)


def test_rows_keep_their_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f"\n{json.dumps(GOOD)}\n{json.dumps(GOOD)}\n")
    assert [case.line for case in read_prompts(file)] == [2, 3]
    assert len(read_prompts(file, 1)) == 1


def test_a_text_file_holds_a_prompt_per_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\n two \n")
    prompts = read_prompts(file)
    assert [(p.conversation, p.messages[0]["content"]) for p in prompts] == [(1, "one"), (3, "two")]


def test_prompts_of_one_dialogue_share_its_number(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{**GOOD, "conversation": 7}, {**GOOD, "conversation": 7}, GOOD]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert [p.conversation for p in read_prompts(file)] == [7, 7, 3]

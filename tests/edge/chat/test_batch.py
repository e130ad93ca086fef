"""Many prompts from a file: in order, each on its own, and none twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ...commands import run_here

pytestmark = pytest.mark.slow

ROWS = [
    {"prompt": "What is the capital of Peru?"},
    {"messages": [{"role": "user", "content": "What is 17 plus 25?"}]},
    {"prompt": "word " * 3000},
]
FLAGS = ["run", "--offline", "--seed", "1", "--prompts"]


def test_a_run_that_was_cut_short_goes_on_where_it_was(tmp_path: Path) -> None:
    prompts, out, whole = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "whole.jsonl"))
    prompts.write_text("\n".join(map(json.dumps, ROWS)), "utf-8")
    first = run_here([*FLAGS, str(prompts), "--out", str(whole)], tmp_path)
    assert first.code == 1
    assert "1 of 3 rows could not be answered" in first.err
    lines = whole.read_text("utf-8").splitlines(keepends=True)
    rows = [json.loads(line) for line in lines]
    assert [row["line"] for row in rows] == [1, 2, 3]
    assert rows[0]["text"] == "The capital of Peru is Lima."
    assert rows[0]["finish_reason"] == "stop"
    assert "context" in rows[2]["error"]
    out.write_text(lines[0] + lines[1][:20], "utf-8")  # killed in the middle of a line
    again = run_here([*FLAGS, str(prompts), "--out", str(out)], tmp_path)
    assert "1 of 3 are in" in again.err
    resumed = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [r.get("text") for r in resumed] == [r.get("text") for r in rows]


def test_wrong_files_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text(json.dumps(ROWS[0]), "utf-8")
    bad.write_text('{"text": 1}\n', "utf-8")
    for arguments, words in (
        ([str(bad)], "bad.jsonl:1"),
        ([str(tmp_path / "none")], "cannot be read"),
        ([str(good), "--out", str(bad)], "holds something else than answers"),
    ):
        result = run_here([*FLAGS, *arguments], tmp_path)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert words in result.err
    assert bad.read_text("utf-8") == '{"text": 1}\n'


def test_a_template_says_where_the_prompt_goes(tmp_path: Path) -> None:
    template = tmp_path / "ask.txt"
    template.write_text("What is the capital of {prompt}?\n", "utf-8")
    asked = ["run", "--offline", "--seed", "1", "--template", str(template), "Peru"]
    assert run_here(asked, tmp_path).out == "The capital of Peru is Lima.\n"
    template.write_text("no place\n", "utf-8")
    refused = run_here(asked, tmp_path)
    assert refused.code == 2
    assert "has no {prompt}" in refused.err


def test_answers_match_a_schema_or_a_grammar_from_a_file(tmp_path: Path) -> None:
    schema, grammar, prompts = (tmp_path / name for name in ("s.json", "g.gbnf", "p.jsonl"))
    schema.write_text('{"type": "array", "items": {"type": "boolean"}, "minItems": 2}', "utf-8")
    grammar.write_text('root ::= "yes" | "no"', "utf-8")
    prompts.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1]), "utf-8")
    alone = ["run", "--offline", "--seed", "1"]
    said = json.loads(run_here([*alone, "--json-schema", str(schema), "hi"], tmp_path).out)
    assert len(said) >= 2
    assert set(map(type, said)) == {bool}
    many = run_here([*alone, "--grammar", str(grammar), "--prompts", str(prompts)], tmp_path)
    assert all(json.loads(line)["text"] in ("yes", "no") for line in many.out.splitlines())
    both = run_here(
        [*alone, "--grammar", str(grammar), "--json-schema", str(schema), "hi"], tmp_path
    )
    assert (both.code, both.complaints) == (
        2, ["uhlm-edge: give --grammar or --json-schema, not both"],
    )  # fmt: skip
    schema.write_text("[", "utf-8")
    wrong = run_here([*alone, "--json-schema", str(schema), "hi"], tmp_path)
    assert wrong.code == 2
    assert "not JSON" in wrong.complaints[0]


def test_a_budget_holds_for_all_rows_together_and_each_tells_what_is_spent(tmp_path: Path) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("\n".join(json.dumps(row) for row in ROWS[:2]), "utf-8")
    capped = {"UHLM_BUDGET_SESSION_UPLOADS": "3"}
    flags = ["run", "--strategy", "hlm", "--seed", "1", "--prompts", str(prompts)]
    first, second = map(json.loads, run_here(flags, tmp_path, more=capped).out.splitlines())
    for row in (first, second):
        assert row["stats"]["budget"]["session"]["uploads"] == {"spent": 3, "cap": 3}
    assert first["stats"]["uploads"] == 3
    assert "budget" in first["stats"]["offline_reason"]
    assert (second["stats"]["uploads"], second["finish_reason"]) == (0, "stop")
    assert second["stats"]["unverified"] > 0


@pytest.mark.parametrize("more", [["hi"], ["--dry-run"], ["--template", "t.txt"]])
def test_what_is_for_one_prompt_is_refused_beside_a_file_of_them(
    more: list[str], tmp_path: Path
) -> None:
    """--dry-run above all: it promises that nothing is sent."""
    prompts = tmp_path / "p.txt"
    prompts.write_text("Hello!\n")
    wrong = run_here([*FLAGS, str(prompts), *more], tmp_path)
    assert (wrong.code, wrong.out) == (2, "")
    (line,) = wrong.complaints
    assert line.startswith("uhlm-edge: --prompts answers the rows of a file: leave out ")


def test_an_output_file_is_refused_for_one_prompt(tmp_path: Path) -> None:
    wrong = run_here(["run", "hi", "--offline", "--out", str(tmp_path / "o")], tmp_path)
    assert (wrong.code, wrong.out) == (2, "")
    assert "--out belongs to --prompts" in wrong.err

"""Each benchmark's rows in their published formats, and its check, by worked examples."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2.errors import ConfigError, InputFileError
from r2.problem import Problem
from r2.problems import competition_math, csqa, gsm8k, musique, p3, strategyqa
from r2.problems.benchmark import benchmarks, judge
from r2.problems.checks import exact_match, token_f1, yes_or_no
from r2.problems.row import FieldError
from r2.problems.source import parse_source
from r2.settings import Columns
from storage.sources.own_file import QuestionFile
from storage.sources.problem_files import benchmark_file, gold_plans_of, problems_of, question_file

HOP = {
    "id": "2hop__1",
    "question": "Who founded the maker of X?",
    "answer": "The Steve Jobs",
    "answer_aliases": ["Jobs"],
    "paragraphs": [{"idx": 0, "title": "X", "paragraph_text": "X is made\nby Apple.", "is_supporting": True}],
    "question_decomposition": [{"id": 1, "question": "X >> maker", "answer": "Apple"}],
}


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def read(source: str, data_dir: Path | None = None, limit: int | None = None) -> list[Problem]:
    return list(problems_of(parse_source(source), limit, 0, data_dir))


def test_gsm8k_takes_the_number_behind_the_mark_and_drops_commas():
    asked = gsm8k.problem({"question": "How many?", "answer": "It is <<2*600=1200>>1200.\n#### 1,200"}, 3)
    assert (asked.problem_id, asked.target) == ("gsm8k-3", "1200")
    assert judge(asked, "about 1,200 pens")
    assert judge(asked, "The answer is $1200.")
    assert not judge(asked, "1201")
    with pytest.raises(FieldError, match="'answer'"):
        gsm8k.problem({"question": "How many?", "answer": "many"}, 0)


@pytest.mark.parametrize(
    "row",
    [
        {
            "question": {"stem": "Where?", "choices": [{"label": "A", "text": "bank"}, {"label": "B", "text": "mall"}]},
            "answerKey": "B",
        },
        {"question": "Where?", "choices": {"label": ["A", "B"], "text": ["bank", "mall"]}, "answerKey": "B"},
        {"question": "Where?", "choices": {"A": "bank", "B": "mall"}, "answer": "B"},
    ],
)
def test_csqa_reads_the_published_the_hub_and_the_flat_form(row: dict[str, object]):
    asked = csqa.problem(row, 0)
    assert (asked.question, asked.choices, asked.target) == ("Where?", ("bank", "mall"), "B")
    assert judge(asked, "B")
    assert judge(asked, "(B) mall")
    assert judge(asked, "the mall")
    assert not judge(asked, "A")


def test_musique_is_judged_by_squads_exact_match_over_the_aliases_and_f1_beside_it():
    asked = musique.problem(HOP, 0)
    assert asked.context == "X: X is made by Apple."
    assert judge(asked, "steve jobs.")
    assert judge(asked, "Jobs")
    assert not judge(asked, "Steve Wozniak")
    # "steve wozniak" shares one of two words with "steve jobs": precision 1/2, recall 1/2
    assert musique.f1(asked, "Steve Wozniak") == 0.5
    assert musique.f1(asked, "") == 0.0


def test_strategyqa_takes_booleans_and_words():
    asked = strategyqa.problem({"qid": "q1", "question": "Is it?", "answer": True}, 0)
    assert (asked.problem_id, asked.target) == ("q1", "yes")
    assert judge(asked, "Yes, because ...")
    assert judge(asked, "True.")
    assert not judge(asked, "no")
    assert not judge(asked, "I would say yes")


def test_math_takes_the_last_box_with_braces_to_any_depth():
    row = {"problem": "p", "solution": r"First \boxed{1}. So \boxed{\frac{1}{\sqrt{2}}}.", "level": "Level 1"}
    asked = competition_math.math_problem(row, 0)
    assert asked.target == r"\frac{1}{\sqrt{2}}"
    assert judge(asked, r"\boxed{\frac{\sqrt{2}}{2}}")
    assert not judge(asked, r"\frac{1}{2}")
    assert competition_math.last_boxed("no box") is None
    assert competition_math.last_boxed(r"\boxed{never closed") is None


@pytest.mark.parametrize(
    ("target", "right", "wrong"),
    [
        ("239", "239", "238"),
        ("0.5", "1/2", "0.51"),
        ("2^(n-1)", "2^n/2", "2^n"),
        ("C(10, 5), or equivalently 252", "252", "253"),
        ("No", "No, it never does", "Yes"),
        ("n(n+1)/2", "(n^2+n)/2", "n^2"),
    ],
)
def test_expressions_are_compared_by_what_they_mean(target: str, right: str, wrong: str):
    asked = Problem("p", "q", target=target, benchmark="champ")
    assert judge(asked, right)
    assert judge(asked, target)
    assert not judge(asked, wrong)


@pytest.mark.parametrize("bomb", ["9^9^9^9^9", "10**99999999", "99999999!", "(" * 5000, "\\frac" * 100])
def test_no_answer_makes_the_check_of_expressions_hang(bomb: str):
    assert not judge(Problem("p", "q", target="4", benchmark="math"), bomb)


def test_champ_leaves_out_what_no_check_can_judge():
    row = {"question": "Prove it.", "answer": "Because", "answer_kind": "text"}
    assert competition_math.champ_problem(row, 0) is None
    assert competition_math.champ_problem({**row, "answer": "4", "answer_kind": "number"}, 0) is not None


def test_a_puzzle_takes_any_value_that_solves_it():
    pytest.importorskip("pyseccomp", exc_type=(ImportError, RuntimeError))
    row = {
        "name": "Even:0",
        "sat": "def sat(n: int):\n    return n % 2 == 0 and n > 3",
        "sol_bodies": ["    return 4"],
        "sol_header": "def sol():",
    }
    asked = p3.problem(row, 0)
    assert asked.problem_id == "Even:0"
    assert judge(asked, asked.target or "")
    assert judge(asked, "`2 * 3`")
    assert not judge(asked, "5")


def test_a_reasoning_task_is_made_by_name_and_difficulty_and_checked_by_its_own_score():
    pytest.importorskip("reasoning_gym")
    problems = read("rg:chain_sum?min_terms=3&max_terms=3", limit=5)
    assert len({p.problem_id for p in problems}) == 5
    assert all(len([w for w in p.question.split() if w in "+-"]) >= 2 for p in problems)
    assert all(judge(p, p.target or "") for p in problems)
    assert not any(judge(p, str(int(p.target or "0") + 1)) for p in problems)
    assert read("rg:chain_sum?min_terms=3&max_terms=3", limit=5) == problems
    with pytest.raises(ConfigError, match="no task 'chain'"):
        read("rg:chain")
    with pytest.raises(ConfigError, match="refuses"):
        read("rg:chain_sum?min_turns=3")


def test_scan_reads_its_published_lines(tmp_path: Path):
    (tmp_path / "tasks.txt").write_text(
        "IN: jump twice OUT: I_JUMP I_JUMP\nIN: walk left OUT: I_TURN_LEFT I_WALK\n", "utf-8"
    )
    assert [p.target for p in read(f"scan:{tmp_path / 'tasks.txt'}")] == ["I_JUMP I_JUMP", "I_TURN_LEFT I_WALK"]


@pytest.mark.parametrize(
    ("source", "row", "message"),
    [
        ("gsm8k", {"question": "How many?", "answer": "many"}, "line 2, field 'answer'"),
        ("gsm8k", {"answer": "#### 4"}, "line 2, field 'question'"),
        ("csqa", {"question": "Where?", "choices": {"A": "bank"}, "answerKey": "C"}, "line 2, field 'answerKey'"),
        ("musique", {**HOP, "paragraphs": ["text"]}, "line 2, field 'paragraphs'"),
        ("strategyqa", {"question": "Is it?", "answer": "perhaps"}, "line 2, field 'answer'"),
        ("math", {"problem": "p", "solution": "4"}, "line 2, field 'solution'"),
        ("scan", {"question": "jump", "answer": "I_WALK"}, "line 2, field 'answer'"),
        ("p3", {"answer": "4"}, "line 2, field 'sat'"),
    ],
)
def test_a_file_that_is_not_in_its_format_names_file_line_and_field(
    tmp_path: Path, source: str, row: dict[str, object], message: str
):
    good = {
        "gsm8k": {"question": "q", "answer": "#### 1"},
        "csqa": {"question": "q", "choices": {"A": "x"}, "answer": "A"},
        "musique": HOP,
        "strategyqa": {"question": "q", "answer": True},
        "math": {"problem": "p", "solution": "\\boxed{1}"},
        "scan": {"question": "jump", "answer": "I_JUMP"},
        "p3": {"sat": "def sat(x): return x", "name": "n"},
    }
    path = written(tmp_path / "rows.jsonl", good[source], row)
    with pytest.raises(InputFileError, match=message) as error:
        read(f"{source}:{path}")
    assert str(path) in str(error.value)


def test_files_that_are_not_there_or_not_one_are_named(tmp_path: Path):
    with pytest.raises(InputFileError, match=r"no file .*gone\.jsonl"):
        read("gsm8k:gone.jsonl", tmp_path)
    (tmp_path / "gsm8k").mkdir()
    with pytest.raises(ConfigError, match="found none"):
        read("gsm8k", tmp_path)
    for name in ("a.jsonl", "b.jsonl"):
        written(tmp_path / "gsm8k" / name, {"question": "q", "answer": "#### 1"})
    with pytest.raises(ConfigError, match=r"gsm8k/a\.jsonl, gsm8k/b\.jsonl"):
        read("gsm8k", tmp_path)
    assert benchmark_file(parse_source("gsm8k:gsm8k/b.jsonl"), tmp_path) == tmp_path / "gsm8k" / "b.jsonl"
    with pytest.raises(ConfigError, match="no such benchmark"):
        read("gsm9k")


def test_a_list_in_one_json_file_is_read_too(tmp_path: Path):
    (tmp_path / "train.json").write_text(json.dumps([{"qid": "a", "question": "Is it?", "answer": False}]), "utf-8")
    assert [p.target for p in read(f"strategyqa:{tmp_path / 'train.json'}")] == ["no"]
    (tmp_path / "bad.json").write_text("[1]", "utf-8")
    with pytest.raises(InputFileError, match="entry 1"):
        read(f"strategyqa:{tmp_path / 'bad.json'}")


def test_the_same_source_is_the_same_file_and_its_problems_survive_the_way_through_it(tmp_path: Path):
    source = written(tmp_path / "m.jsonl", HOP)
    first = question_file(f"musique:{source}", None, 0, None, tmp_path)
    assert question_file(f"musique:{source}", None, 0, None, tmp_path) == first
    assert first.check == ""
    row = json.loads(first.path.read_text("utf-8"))
    assert (row["aliases"], row["benchmark"]) == (["Jobs"], "musique")
    mine = question_file("file:mine.csv?check=gsm8k&question=q", None, 0, None, tmp_path)
    assert mine == QuestionFile(Path("mine.csv"), "gsm8k", Columns(question="q"))


@given(st.text(max_size=40), st.text(max_size=40))
def test_every_check_answers_for_any_text(answer: str, target: str):
    for name in ("", *benchmarks()):
        if name not in ("p3", "math", "champ"):  # processes and a parser of LaTeX: shown above
            assert judge(Problem("p", "q", target=target, benchmark=name, choices=("x", "y")), answer) in (True, False)
    assert 0 <= token_f1(answer, [target]) <= 1
    assert not exact_match(answer, [target]) or token_f1(answer, [target]) == 1
    assert yes_or_no(answer) in ("yes", "no", None)


def test_a_users_file_is_a_source_of_problems_and_its_bad_row_is_named_by_line(tmp_path: Path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"id": "a", "question": "What is 1 + 1?", "answer": "2"}\n', "utf-8")
    [problem] = problems_of(parse_source(f"file:{path}?check=arithmetic"), None, 0)
    assert (problem.question, problem.target, problem.benchmark) == ("What is 1 + 1?", "2", "arithmetic")
    path.write_text('{"id": "a", "answer": "2"}\n', "utf-8")
    with pytest.raises(InputFileError, match="line 1"):
        list(problems_of(parse_source(f"file:{path}"), None, 0))


def test_rows_of_ones_own_have_no_gold_plans_and_it_says_where_plans_are_seen():
    with pytest.raises(ConfigError, match=r"file:mine.csv: rows of your own have no gold plans.*r2 sql"):
        gold_plans_of(parse_source("file:mine.csv"), None, 0)

"""A newcomer's own file: its delimiter, its encoding, its column names, one JSON array; and what no file can be."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2.errors import ConfigError, InputFileError
from r2.evaluation.settings import EvaluateSettings
from r2.problem import Problem
from r2.problems.source import parse_source
from r2.settings import AnswerSettings, Columns, LabelSettings
from storage.evaluations.problems import evaluated_problems, identified_problems
from storage.runs.plan import plan_run, read_plan
from storage.sources import csv_rows as csv_files
from storage.sources.column_names import columns_in, told
from storage.sources.csv_rows import csv_rows, delimiter_of
from storage.sources.first_rows import check_some_can_be_asked
from storage.sources.json_rows import json_rows
from storage.sources.lines import MAX_LINE_BYTES
from storage.sources.own_file import CHOOSES, own_files
from storage.sources.problem_files import problems_of
from storage.sources.questions import BadRow, read_questions
from storage.sources.values import RowError
from tasks.labelling.finished import answering_of


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path) -> list[Problem | BadRow]:
    return list(read_questions(path, Columns()))


def bad(path: Path) -> list[tuple[int, str]]:
    return [(row.line, row.error_type) for row in read(path) if isinstance(row, BadRow)]


NAME = st.text("abcdefghijklmnop", min_size=1, max_size=8)
CELL = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=12)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    header = draw(st.lists(NAME, min_size=2, max_size=4, unique=True))
    cells = st.lists(CELL, min_size=len(header), max_size=len(header)).filter(any)
    return header, draw(st.lists(cells, max_size=6))


@settings(max_examples=150, deadline=None)
@given(tables(), st.sampled_from([",", ";", "\t", "|"]), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_a_table_is_read_as_it_was_written_whatever_its_delimiter(
    tmp_path_factory: pytest.TempPathFactory,
    table: tuple[list[str], list[list[str]]],
    delimiter: str,
    line_end: str,
    is_quoted: bool,
):
    header, rows = table
    written = io.StringIO(newline="")
    if is_quoted:
        writer = csv.writer(written, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    else:
        writer = csv.writer(written, delimiter=delimiter, lineterminator=line_end)
    writer.writerows([header, *rows])
    path = file(tmp_path_factory.mktemp("csv"), "t.csv", written.getvalue())
    assert [row for _, row in csv_rows(path)] == [dict(zip(header, row, strict=True)) for row in rows]


@settings(max_examples=100, deadline=None)
@given(st.text('ab,;"\n', max_size=80))
def test_every_line_of_any_text_is_in_a_row_or_is_named(tmp_path_factory: pytest.TempPathFactory, text: str):
    path = file(tmp_path_factory.mktemp("csv"), "t.csv", "x,y\n" + text)
    numbers = [number for number, _ in csv_rows(path)]
    assert numbers == sorted(set(numbers))
    assert (not numbers) == (not text.strip("\n"))


@pytest.mark.parametrize(
    ("name", "content", "delimiter"),
    [
        ("q.csv", "qid;prompt\n1;What, is it, then?\n", ";"),
        ("q.csv", "id,question\n1,a; b; c\n", ","),
        ("q.csv", "id|question\n", "|"),
        ("q.csv", "question\na; b\nc; d\n", ","),
        ("q.csv", "question; please\na\nb\n", ","),
        ("q.tsv", "id\tquestion\n1\ta,b\n", "\t"),
        ("q.tsv", "id,question\n1,a\n", ","),
        ("q.csv.gz", "", ","),
    ],
)
def test_the_delimiter_is_the_one_that_header_and_rows_agree_on(
    tmp_path: Path, name: str, content: str, delimiter: str
):
    if name.endswith(".gz"):
        import gzip

        path = file(tmp_path, name, gzip.compress(b"id;question\n1;x\n"))
        assert delimiter_of(path) == ";"
    else:
        assert delimiter_of(file(tmp_path, name, content)) == delimiter


def test_a_quote_that_is_never_closed_is_one_bad_row_under_its_own_line(tmp_path: Path):
    path = file(tmp_path, "q.csv", 'id,question\n1,"open\n2,"a, b"\n3,"two\nlines"\n4,"never\n5,last\n')
    assert bad(path) == [(2, "bad_csv"), (6, "bad_csv")]
    good = [row for row in read(path) if isinstance(row, Problem)]
    assert [(p.problem_id, p.question) for p in good] == [("2", "a, b"), ("3", "two\nlines"), ("5", "last")]


def test_lines_behind_too_many_open_quotes_are_passed_over_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(csv_files, "MAX_AGAIN_BYTES", 40)
    path = file(tmp_path, "q.csv", "id,question\n" + 'a",",b\n' * 10)
    rows = [(number, str(row)) for number, row in csv_rows(path)]
    assert [number for number, _ in rows] == [2]
    assert "Lines 3 to 11 are passed over" in rows[0][1]


@pytest.mark.parametrize(
    ("header", "said"),
    [("id,question,question", "names 'question' 2 times"), ("id,question,,", "column 3 of the header has no name")],
)
def test_a_header_that_is_no_set_of_names_is_refused(tmp_path: Path, header: str, said: str):
    with pytest.raises(InputFileError, match=f"line 1: .*{said}"):
        read(file(tmp_path, "q.csv", f"{header}\n1,a,b\n"))


def test_blanks_around_names_blank_lines_and_the_index_of_pandas_are_no_harm(tmp_path: Path):
    path = file(tmp_path, "q.csv", "\n, id , question\n0,a,What?\n")
    assert read(path) == [Problem("a", "What?", 0, extra={"": "0"})]


def test_a_row_of_another_length_keeps_its_id_and_every_field(tmp_path: Path):
    [row] = read(file(tmp_path, "q.csv", "id,question\n7,one, two\n"))
    assert isinstance(row, BadRow)
    assert (row.given_id, row.question, dict(row.extra)) == ("7", "one", {"column 3": " two"})


def test_windows_text_is_named_with_the_command_that_converts_it(tmp_path: Path):
    good = b"id,question,kind\n1,What?,food\n" + "2,What?,café\n".encode("cp1252")
    first, second = read(file(tmp_path, "q.csv", good))
    assert isinstance(first, Problem) and isinstance(second, BadRow)
    assert (second.given_id, second.line) == ("2", 3)
    assert "the byte 0xe9 is 'é' in CP1252" in second.message and "iconv -f CP1252 -t UTF-8" in second.message
    [row] = read(file(tmp_path, "q.jsonl", '{"id": "1", "question": "café"}'.encode("cp1252")))
    assert isinstance(row, BadRow) and "iconv -f CP1252 -t UTF-8 q.jsonl > q.utf8.jsonl" in row.message


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_array_is_read_row_by_row(tmp_path: Path, indent: int | None):
    rows = [{"id": "a", "question": 'x]"\\'}, {"id": "b", "question": "y", "extra": [{"}": [1]}]}]
    path = file(tmp_path, "q.json", json.dumps(rows, indent=indent))
    assert [row for _, row in json_rows(path)] == rows


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=5), st.recursive(st.text(max_size=9), st.lists, max_leaves=5))))
def test_any_array_of_objects_is_read_as_it_is(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]):
    path = file(
        tmp_path_factory.mktemp("json"), "q.json", json.dumps(rows, ensure_ascii=False).encode("utf-8", "ignore")
    )
    kept = [json.loads(json.dumps(row, ensure_ascii=False).encode("utf-8", "ignore")) for row in rows]
    assert [row for _, row in json_rows(path)] == kept


def test_in_an_array_each_row_that_is_none_is_one_bad_row(tmp_path: Path):
    long = '{"question": "' + "x" * (MAX_LINE_BYTES + 2_000_000) + '"}'
    path = file(tmp_path, "q.json", f'[5, {{"question": NaN}}, {long}, {{"question": "last"}}]')
    rows = [row for _, row in json_rows(path)]
    assert [row.error_type for row in rows[:3] if isinstance(row, RowError)] == [
        "bad_json",
        "bad_json",
        "line_too_long",
    ]
    assert rows[3] == {"question": "last"}


@pytest.mark.parametrize("content", ['[{"question": "a"}', '[{"question": "a"}] x', '[{"question": "a}]'])
def test_an_array_that_is_broken_off_is_refused(tmp_path: Path, content: str):
    with pytest.raises(InputFileError, match="no whole JSON array"):
        read(file(tmp_path, "q.json", content))


def test_other_names_of_the_columns_are_taken_and_said(tmp_path: Path):
    path = file(tmp_path, "q.csv", "qid;prompt;gold;note\nx1;What is 2 + 2?;4;n\n")
    columns = columns_in(path, Columns())
    assert told(Columns(), columns).startswith(
        "the columns 'qid' as 'id', 'prompt' as 'question', 'gold' as 'answer' are taken"
    )
    extra = {"qid": "x1", "prompt": "What is 2 + 2?", "note": "n"}
    assert list(read_questions(path, columns)) == [Problem("x1", "What is 2 + 2?", 0, "4", extra=extra)]


@pytest.mark.parametrize(
    ("row", "given", "taken"),
    [
        ({"question": "q", "prompt": "p", "Answer": "1"}, {}, {"answer": "Answer"}),
        ({"Question": "q", "prompt": "p"}, {}, {"question": "Question"}),
        ({"prompt": "q", "gold": "1"}, {"answer": "none"}, {"question": "prompt"}),
        ({"prompt": "p", "text": "t"}, {"question": "text"}, {}),
        ({"prompt": "q", "qid": "", "uuid": "u"}, {}, {"question": "prompt", "id": "uuid"}),
        ({"messages": [], "prompt": "p"}, {}, {}),
        ({"custom_id": "c", "body": {}}, {}, {}),
    ],
)
def test_a_name_is_taken_only_where_ours_is_missing_and_it_is_the_only_one(
    tmp_path: Path, row: dict[str, object], given: dict[str, str], taken: dict[str, str]
):
    before = Columns(**given)
    after = columns_in(file(tmp_path, "q.jsonl", json.dumps(row)), before)
    assert after == before.model_copy(update=taken)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "p", "text": "t"}, r"--question-column prompt, in --problems file:.*q.jsonl\?question=prompt$"),
        ({"question": "q", "gold": 1, "target": 2}, r"--answer-column gold, .*For none of them: --answer-column none"),
    ],
)
def test_several_names_for_one_thing_are_refused(tmp_path: Path, row: dict[str, object], said: str):
    with pytest.raises(InputFileError, match=said):
        columns_in(file(tmp_path, "q.jsonl", json.dumps(row)), Columns())


def test_a_source_of_problems_finds_the_columns_as_an_input_does_and_names_those_that_cannot_be_told(tmp_path: Path):
    path = file(tmp_path, "q.csv", "qid;prompt;text;gold\nx1;What is 2 + 2?;note;4\n")
    with pytest.raises(InputFileError, match=r"file:.*q.csv\?question=prompt"):
        list(problems_of(parse_source(f"file:{path}"), None, 0))
    source = f"file:{path}?question=prompt&check=arithmetic"
    extra = {"qid": "x1", "prompt": "What is 2 + 2?", "text": "note"}
    assert list(problems_of(parse_source(source), None, 0)) == [
        Problem("x1", "What is 2 + 2?", 0, "4", "arithmetic", extra=extra)
    ]
    [own] = own_files([source, "scan"])
    assert (
        own.told() == f"the columns 'qid' as 'id', 'gold' as 'answer' are taken ({CHOOSES} and its like choose others)"
    )
    answering = answering_of(LabelSettings(problems=source, lake=str(tmp_path / "lake")))
    plan = plan_run(answering, "pool")
    assert [(row.problem_id, row.question, row.target, bad) for row, bad in plan.rows(0)] == [
        ("x1", "What is 2 + 2?", "4", None)
    ]
    with pytest.raises(ConfigError, match=r"no option 'prompt'\. Known: check, question, id, answer"):
        own_files([f"file:{path}?prompt=question"])


def test_an_evaluation_begun_without_the_columns_that_are_found_now_goes_on(tmp_path: Path):
    rows = [{"qid": f"x{i}", "question": f"What is {i} + 2?", "answer": str(i + 2)} for i in range(12)]
    path = file(tmp_path, "q.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    settings = EvaluateSettings(problems=(f"file:{path}",))
    older = evaluated_problems(settings, finds_columns=False)
    assert {problem.problem_id for problem in older.dev} < {f"line-{n}" for n in range(1, 13)}
    new, name = identified_problems(settings, str, lambda name: False)
    assert name == new.digest != older.digest
    assert {problem.problem_id for problem in new.dev} < {row["qid"] for row in rows}
    assert identified_problems(settings, str, lambda name: name == older.digest) == (older, older.digest)


def test_a_run_with_taken_names_is_the_run_with_those_names_given_and_an_old_one_goes_on(tmp_path: Path):
    path = file(tmp_path, "q.jsonl", '{"question": "2 + 2?", "gold": 4}')
    plain = AnswerSettings(input=str(path), lake=str(tmp_path / "lake"))
    named = plain.model_copy(update={"columns": Columns(answer="gold")})
    plan = plan_run(plain, "pool")
    assert plan.run_id == plan_run(named, "pool").run_id == named.run_id(plan.input_digest, "pool")
    assert read_plan(plan.run_dir, plain).settings.columns.answer == "gold"
    # The same file as an earlier version planned it: without the gold answers.
    old = plain.model_copy(update={"lake": str(tmp_path / "old")})
    old_id = old.run_id(plan.input_digest, "pool")
    stored = json.loads((plan.run_dir / "manifest.json").read_bytes())
    folder = tmp_path / "old" / "_runs" / old_id
    folder.mkdir(parents=True)
    stored = {**stored, "run_id": old_id, "settings": old.model_dump(mode="json")}
    (folder / "manifest.json").write_text(json.dumps(stored), "utf-8")
    again = plan_run(old, "pool")
    assert (again.run_id, again.settings.columns.answer) == (old_id, "answer")


def test_a_file_of_which_nothing_can_be_asked_is_refused_with_what_mends_it(tmp_path: Path):
    path = file(tmp_path, "q.csv", "id,weather\n" + "".join(f"{i},x\n" for i in range(150)))
    with pytest.raises(InputFileError, match=r"none of the first 100 rows can be asked\. .*--question-column"):
        plan_run(AnswerSettings(input=str(path), lake=str(tmp_path / "lake")), "pool")
    assert not (tmp_path / "lake").exists()
    windows = file(tmp_path, "w.csv", "id,question\n1,é\n".encode("cp1252"))
    with pytest.raises(InputFileError, match=r"none of its 1 rows .*iconv -f CP1252 -t UTF-8 w.csv > w.utf8.csv"):
        check_some_can_be_asked(windows, Columns())


def test_one_good_row_or_a_reason_of_single_rows_is_no_reason_to_stop(tmp_path: Path):
    check_some_can_be_asked(file(tmp_path, "a.csv", "id,question\n1,\n2,What?\n"), Columns())
    check_some_can_be_asked(file(tmp_path, "b.jsonl", '{"question": "a\\u0000"}\n'), Columns())
    check_some_can_be_asked(file(tmp_path, "c.jsonl", '{"custom_id": "x", "body": {}}\n'), Columns())
    check_some_can_be_asked(file(tmp_path, "d.jsonl", ""), Columns())

"""The command `r2` as its user meets it: what flags mean, what help says, which settings files it takes."""

import importlib
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel
from typer.core import TyperGroup, TyperOption
from typer.testing import CliRunner

from flows.cli.app import app
from flows.cli.command import CHANGED, RENAMED
from flows.cli.console import print_calls
from flows.cli.options import PANELS
from flows.cli.root import JOBS, overview
from flows.cli.sft import _print_executed
from r2.errors import ConfigError
from r2.evaluation.settings import EvaluateSettings
from r2.evaluation.sweep import SweepSettings
from r2.methods.estimate import CallEstimate
from r2.pool.file.config import load_pool
from r2.settings import FLAGS, AnswerSettings, LabelSettings, load
from r2.training.grpo.scorer_settings import TuneSettings
from r2.training.grpo.settings import GrpoSettings
from r2.training.sft.settings import SftSettings
from tests.support.paths import ROOT

ROOT_COMMAND: Any = typer.main.get_command(app)
CONFIGS = sorted((ROOT / "configs").rglob("*.toml"))
SETTINGS: dict[str, type[BaseModel]] = {
    "answer": AnswerSettings,
    "label": LabelSettings,
    "sft": SftSettings,
    "grpo": GrpoSettings,
    "evaluate": EvaluateSettings,
    "policy sweep": SweepSettings,
}


def leaves(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from leaves(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


COMMANDS = dict(leaves(ROOT_COMMAND))
CHECKS = "a check of answers is named, and prices are checked or not (r2 pool prices)"


def flags(command: Any) -> list[TyperOption]:
    return [param for param in command.params if isinstance(param, TyperOption) and not param.hidden]


def meaning(flag: TyperOption) -> str:
    """The first sentence of its help."""
    return re.split(r"(?<=\.)\s", flag.help or "")[0]


def parsed(words: list[str]) -> dict[str, Any]:
    """What a command line gives to its command, which is not run."""
    command, rest = ROOT_COMMAND, words
    while isinstance(command, TyperGroup):
        command, rest = command.commands[rest[0]], rest[1:]
    with command.make_context(words[0], list(rest)) as context:
        return dict(context.params)


def every_flag(*parts: str) -> dict[str, set[Any]]:
    """Flag -> what it is in each command."""
    found: dict[str, set[Any]] = defaultdict(set)
    for command in COMMANDS.values():
        for flag in flags(command):
            kind = flag.type_descriptor.annotation
            what = {
                "meaning": meaning(flag),
                "panel": flag.rich_help_panel,
                "variable": flag.envvar,
                "value": re.sub("FILE|FOLDER", "PATH", flag.metavar or "").removesuffix(",..."),
                "kind": "text" if "," in (flag.metavar or "") or kind in (str, Path, list[str]) else kind.__name__,
            }
            for name in flag.opts:
                found[name].add(tuple(what[part] for part in parts))
    return found


def test_a_flag_means_the_same_in_every_command():
    found = every_flag("meaning", "value", "variable")
    assert len(found.pop("--check")) == 2, CHECKS
    assert len(found.pop("--policy")) == 2, "what sft makes, and what grpo trains on"
    assert len(found.pop("--format")) == 2, "of rows, and of the files of a data set"
    assert len(found.pop("-f")) == 2
    assert {name: said for name, said in found.items() if len(said) > 1} == {}


def test_a_flag_takes_the_same_kind_of_value_in_every_command():
    found = every_flag("kind")
    assert found.pop("--check") == {("text",), ("bool",)}, CHECKS
    assert found.pop("--b") == {("float",), ("text",)}, "one number to answer with, several to try"
    assert {name: kinds for name, kinds in found.items() if len(kinds) > 1} == {}


def test_a_flag_is_in_the_same_panel_in_every_command_but_for_the_lake_that_some_read_and_others_write():
    found = every_flag("panel")
    assert found.pop("--lake") == {("Input",), ("Output",)}
    assert found.pop("--check") == {("Input",), ("Output",)}, CHECKS
    assert {name: panels for name, panels in found.items() if len(panels) > 1} == {}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_in_a_panel_explains_itself_and_says_whether_it_may_be_repeated(name: str):
    for flag in flags(COMMANDS[name]):
        assert flag.rich_help_panel in PANELS, flag.opts
        assert meaning(flag).endswith((".", "]")) and flag.help and flag.help[0].isupper(), flag.opts
        assert flag.multiple == ("Repeatable" in flag.help), flag.opts


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_shows_its_panels_in_order_and_an_example_that_can_be_run(name: str):
    done = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "120"})
    assert done.exit_code == 0
    panels = [title for title in re.findall(r"╭─ (\w+) ─", done.stdout) if title != "Arguments"]
    assert panels == [panel for panel in PANELS if panel in panels] and len(panels) > 1
    examples = re.findall(r"^\s+r2 (\S.*?)\s*$", done.stdout, re.MULTILINE)
    assert examples and "Example" in done.stdout
    for example in examples:
        assert example.startswith(name)
        parsed(shlex.split(example))


def test_the_first_help_lists_every_command_in_the_order_of_the_jobs():
    assert set(JOBS) == set(ROOT_COMMAND.commands)
    done = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"})
    assert re.findall(r"^│ (\w+) ", done.stdout, re.MULTILINE) == list(JOBS)
    assert re.findall(r"╭─ (.+?) ─", done.stdout)[1:] == list(dict.fromkeys(JOBS.values()))


def test_the_version_is_that_of_the_installed_package():
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"r2 {version('r2-reasoner')}\n")


def test_a_shell_completes_commands_and_flags():
    def completed(words: str) -> list[str]:
        asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_R2_COMPLETE": "complete_bash"}
        return CliRunner().invoke(app, [], prog_name="r2", env=asked).stdout.split()

    assert completed("r2 ans") == ["answer"]
    assert completed("r2 answer --max-c") == ["--max-cost-usd", "--max-cost-per-question-usd"]


def test_a_default_in_the_help_is_read_as_it_is_written():
    done = CliRunner().invoke(app, ["label", "--help"], env={"COLUMNS": "160"})
    assert "[default: pools/local.toml]" in done.stdout and "[default: the strongest]" in done.stdout
    assert "\\[" not in done.stdout


FIELDS = {
    "deadline": "deadline_s",
    "lr": "learning_rate",
    "candidates": "n_candidates",
    "benchmark": "default_benchmark",
    "router": "routers",
    "schema": "schema_file",
    "system": "system_file",
    "tag": "tags",
}
"""Flags whose settings have another name."""


def default_of(kind: type[BaseModel], name: str) -> Any:
    """The default of a setting, also of those in a table: reasoning, labelling, columns."""
    name = FIELDS.get(name, name.removesuffix("_column"))
    if name in kind.model_fields:
        field = kind.model_fields[name]
        return None if field.is_required() else field.default
    tables = [field.default for field in kind.model_fields.values() if isinstance(field.default, BaseModel)]
    [table] = [table for table in tables if name in type(table).model_fields]
    return getattr(table, name)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_defaults_that_a_help_shows_are_those_of_the_settings(name: str):
    command = COMMANDS[name]
    assert {"--config", "--dry-run"} <= {option for flag in flags(command) for option in flag.opts}
    for flag in flags(command):
        if flag.name in ("config", "dry_run", "retry_failed", "join", "runner"):  # no settings of a run
            continue
        if flag.name == "routing":  # what routes a new run is its help's to say
            continue
        if name == "evaluate" and flag.name in ("outcomes", "test", "folds"):  # tables in place of its settings
            continue
        if name == "grpo" and flag.name in ("policy", "outcomes"):  # which settings: those of a router, or a scorer
            continue
        shown = (re.findall(r"\\\[default: (.*)\]$", flag.help or "") or [None])[0]
        value = default_of(SETTINGS[name], str(flag.name))
        if isinstance(value, tuple) and value and isinstance(value[0], float):
            assert shown == ",".join(f"{number:g}" for number in value), flag.opts
        elif isinstance(value, bool) or value in (None, "", (), {}, "auto") or flag.name == "methods":
            assert shown is None or not re.match(r"[\d.]+$", shown), flag.opts
        else:
            assert shown is not None and (shown == value or float(shown) == value), flag.opts


def test_the_help_of_grpo_says_each_default_that_a_scorer_has_of_its_own():
    said: dict[str, str] = {}
    for flag in flags(COMMANDS["grpo"]):
        said |= {str(flag.name): value for value in re.findall(r"Of a scorer (\S+)\. ", flag.help or "")}
    own = {}
    for flag in flags(COMMANDS["grpo"]):
        name = FIELDS.get(str(flag.name), str(flag.name))
        if name in TuneSettings.model_fields and name in GrpoSettings.model_fields:
            value = default_of(TuneSettings, name)
            if value != default_of(GrpoSettings, name):
                own[str(flag.name)] = "none" if value is None else f"{value:g}"
    assert said == own == {"steps": "120", "lr": "0.002", "test_share": "0.3", "pool": "none"}


@pytest.mark.parametrize(("command", "flag"), [(name, flag) for name, old in CHANGED.items() for flag in old])
def test_a_flag_whose_meaning_changed_is_refused_with_the_name_of_the_new_one(command: str, flag: str):
    for words in ([flag, "60"], [f"{flag}=60"]):
        done = CliRunner().invoke(app, [*command.split(), *words], env={"COLUMNS": "200"})
        assert done.exit_code == 2
        [new] = re.findall(r"is now (--[\w-]+)\. *│", done.output)
        assert new in {option for known in flags(COMMANDS[command]) for option in known.opts}


POOL_ADD = ["pool", "add", "pool.toml", "entry", "--endpoint", "local:x", "--tier", "small"]


@pytest.mark.parametrize(
    ("words", "flag", "parameter"),
    [
        (["demo"], "--folder", "out"),
        (POOL_ADD, "--max-in-flight", "calls_in_flight"),
        (["sft"], "--executed", "n_executed"),
        (["sft"], "--out", "policies_dir"),
    ],
)
def test_a_flag_that_was_only_renamed_still_works_and_is_not_shown(words: list[str], flag: str, parameter: str):
    before, given = parsed(words), parsed([*words, flag, "7"])
    assert given == before | {parameter: given[parameter]} and str(given[parameter]) == "7"
    assert parsed([*words, f"{flag}=7"]) == given
    assert not any(flag in known.opts for name in RENAMED if flag in RENAMED[name] for known in flags(COMMANDS[name]))


@pytest.mark.parametrize(
    ("words", "parameter", "value"),
    [
        (["evaluate", "--methods", "cot", "--methods=direct,rule"], "methods", "cot,direct,rule"),
        (["evaluate", "--b", "0", "--methods", "cot", "--b", "0.1"], "b", "0,0.1"),
        (["answer", "q.jsonl", "--columns", "plan", "--columns", "models"], "more_columns", "plan,models"),
    ],
)
def test_a_list_that_is_given_twice_is_one_list(words: list[str], parameter: str, value: str):
    assert parsed(words)[parameter] == value


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("answer q.jsonl --value-usd -1", "--value-usd -1: Input should be greater than 0"),
        ("answer q.jsonl --routing magic", "--routing magic: Input should be 'rule' or 'allocator'"),
        ("answer q.jsonl --limit 0", "--limit 0: Input should be greater than or equal to 1"),
        ("label --problems scan --candidates 0", "--candidates 0: Input should be greater than or equal to 1"),
        ("sft --labels x --policy decomposer --lr -1", "--lr -1: Input should be greater than 0"),
        ("evaluate --problems scan --dev-share 2", "--dev-share 2: Input should be less than 1"),
    ],
)
def test_a_value_that_cannot_be_is_said_with_its_flag(words: str, said: str):
    refused = CliRunner().invoke(app, words.split())
    assert (str(refused.exception), type(refused.exception)) == (said, ConfigError)


def test_a_value_of_a_file_or_of_a_program_is_said_with_its_field(tmp_path: Path):
    (tmp_path / "s.toml").write_text("input = 'q.jsonl'\nreasoning.value_usd = -1\n")
    with pytest.raises(ConfigError, match=r"s\.toml: reasoning\.value_usd: Input should be greater than 0"):
        load(AnswerSettings, tmp_path / "s.toml", {"limit": 3})
    with pytest.raises(ConfigError, match=r"^settings: reasoning\.value_usd: Input should be greater than 0"):
        load(AnswerSettings, None, {"input": "rows", "reasoning": {"value_usd": -1}}, are_flags=False)


def test_the_flags_that_are_not_called_after_their_fields_are_flags_of_some_command():
    assert set(FLAGS.values()) <= {
        option for command in COMMANDS.values() for one in flags(command) for option in one.opts
    }


def test_the_light_help_is_that_of_the_whole_command():
    light, whole = (CliRunner().invoke(one, ["--help"], env={"COLUMNS": "100"}) for one in (overview(), app))
    assert light.stdout == whole.stdout


def command_of(path: Path) -> str:
    """`configs/GOAL/[STEP_]COMMAND[_WHAT].toml`: the first word that is no number."""
    return next(word for word in path.stem.split("_") if not word.isdigit())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_config_is_accepted_by_the_command_it_is_named_for(path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[BaseModel] = []
    monkeypatch.setattr(importlib.import_module(f"flows.cli.{command_of(path)}"), "_print_estimate", seen.append)
    done = CliRunner().invoke(app, [command_of(path), "--config", str(path), "--dry-run"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    [settings] = seen
    assert settings.model_fields_set, "the file's settings arrived"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_config_says_with_which_command_it_runs(path: Path):
    name = path.relative_to(ROOT)
    assert f"#   r2 {command_of(path)} --config {name}" in path.read_text("utf-8")


def test_configs_of_one_goal_are_numbered_in_the_order_of_their_steps():
    for folder in {path.parent for path in CONFIGS}:
        steps = [int(found[1]) for path in sorted(folder.glob("*.toml")) if (found := re.match(r"(\d+)_", path.stem))]
        assert sorted(set(steps)) == list(range(1, len(set(steps)) + 1)), folder


def test_the_questions_of_an_answering_may_stand_in_its_settings_file(tmp_path: Path):
    questions, config = tmp_path / "q.jsonl", tmp_path / "a.toml"
    questions.write_text('{"id": "1", "question": "What is 1 + 1?"}\n')
    config.write_text(f'input = "{questions}"\npool = "{ROOT}/pools/simulated.toml"\n')
    done = CliRunner().invoke(app, ["answer", "--config", str(config), "--dry-run"], catch_exceptions=False)
    assert f"{questions}: 1 questions, 0 bad rows, 1 shards" in done.stdout
    missing = CliRunner().invoke(app, ["answer", "--dry-run"])
    assert isinstance(missing.exception, ConfigError) and "input: required" in str(missing.exception)


def test_old_names_of_settings_are_read_and_a_flag_wins_over_them(tmp_path: Path):
    old = tmp_path / "old.toml"
    old.write_text('out = "registry"\nsave_every = 7\n')
    read = load(SftSettings, old, {})
    assert (read.policies_dir, read.save_steps) == ("registry", 7)
    assert load(SftSettings, old, {"policies_dir": "elsewhere"}).policies_dir == "elsewhere"
    assert SftSettings.model_validate({"out": "registry", "save_every": 7}) == read, "of a stored run"
    old.write_text('out = "registry"\npolicies_dir = "elsewhere"\n')
    with pytest.raises(ConfigError, match="out is the old name of policies_dir"):
        load(SftSettings, old, {})


@pytest.mark.parametrize("command", ["label", "sft", "grpo"])
def test_a_command_of_one_source_refuses_a_second_and_says_what_to_do(command: str):
    done = CliRunner().invoke(app, [command, "--problems", "scan", "--problems", "arithmetic", "--dry-run"])
    assert isinstance(done.exception, ConfigError)
    assert f"{command} takes one source" in str(done.exception) and "file:PATH" in str(done.exception)


def test_a_sweep_takes_negative_values_of_b_and_says_before_what_it_would_ask(tmp_path: Path):
    pool, lake = str(ROOT / "pools/simulated.toml"), tmp_path / "lake"
    words = ["policy", "sweep", "--pool", pool, "--problems", "arithmetic", "--limit", "8", "--lake", str(lake)]
    done = CliRunner().invoke(app, [*words, "--b=-0.5,0,0.5", "--reference", "sim-8b", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "8 problems, each at 3 values of b, and sim-8b beside them" in done.stdout
    [decompose] = re.findall(r"decompose +│ sim-8b +│ +(\d+)", done.stdout)
    assert int(decompose) == 3 * 8
    wrong = CliRunner().invoke(app, [*words, "--b", "0,x", "--dry-run"])
    assert isinstance(wrong.exception, ConfigError) and "--b 0,x: expected numbers" in str(wrong.exception)
    config = load(EvaluateSettings, ROOT / "configs/simulated/6_evaluate.toml", {})
    assert min(config.b) < 0, "the values that a shipped comparison tries"


@pytest.mark.parametrize("cap", ["-1", "0", "nan"])
@pytest.mark.parametrize("words", [["answer", "q.jsonl"], ["plans", "--problems", "scan"], ["pool", "calibrate"]])
def test_a_cap_that_lets_nothing_be_paid_is_refused(words: list[str], cap: str):
    done = CliRunner().invoke(app, [*words, "--max-cost-usd", cap])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception) == f"--max-cost-usd {cap}: expected more than 0."


def test_a_training_says_before_what_executing_its_policies_costs(capsys: pytest.CaptureFixture[str]):
    def about(policy: str) -> float:
        chosen = {"labels": "labels", "policy": policy, "pool": str(ROOT / "pools/simulated.toml"), "problems": "scan"}
        _print_executed(SftSettings.model_validate(chosen | {"n_executed": 12}))
        [usd] = re.findall(r"^12 held-out problems .* about (\S+) USD, likely between", capsys.readouterr().out)
        return float(usd)

    one, other, both = about("decomposer"), about("allocator"), about("both")
    assert one > 0 and other > 0
    assert one < both < one + other, "the allocator is executed with the decomposer that was trained before it"


def test_a_dry_run_says_about_what_it_costs_and_a_range_around_it(capsys: pytest.CaptureFixture[str]):
    pool = load_pool(str(ROOT / "pools" / "simulated.toml"))
    calls = [CallEstimate("decompose", "sim-8b", 10, 100, 10, 0.0015), CallEstimate("solve", "sim-8b", 9, 9, 9, 0.0015)]
    print_calls(pool, calls)
    assert "\nUSD: about 0.003000, likely between 0.001000 and 0.009000\n" in capsys.readouterr().out

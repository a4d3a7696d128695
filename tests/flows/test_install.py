"""The wheel, installed and used in a folder of another project, which has folders called as our packages are."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from r2.shipped.place import KINDS
from tests.support.paths import ROOT

PYTHONS = ("python3.11", "python3.12", "python3.13")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def r2(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, in a fresh environment that sees the packages of this one but not this checkout."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    return environment / "bin" / "r2"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a file of questions, and with packages that must not be imported."""
    folder = tmp_path / "project"
    for name in ("flows", "tasks", "storage", "r2"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('the {name} of another project was imported')\n")
    rows = ({"id": f"q{i}", "question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(20))
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def ran(r2: Path, project: Path, *words: str, code: int = 0, **variables: str) -> str:
    """What the command says: stdout, or stderr where it fails."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "R2_"))}
    env |= {"R2_STATE_DIR": str(project / "state"), **variables}
    done = subprocess.run([str(r2), *words], cwd=project, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


def check_a_whole_day(r2: Path, project: Path) -> None:
    """Answers, a look at them, a report: with a pool that only the package has."""
    home = {"PREFECT_HOME": str(project / "prefect")}
    said = ran(r2, project, "answer", "questions.jsonl", "--benchmark", "arithmetic", "--pool", SIMULATED, **home)
    assert "questions.answers.jsonl" in said
    answers = [json.loads(line) for line in (project / "questions.answers.jsonl").read_text("utf-8").splitlines()]
    assert [answer["status"] for answer in answers] == ["answered"] * 20
    counted = ran(r2, project, "sql", "select count(*) as n from trajectories", "--format", "csv")
    assert counted.split() == ["n", "20"]
    [run] = ran(r2, project, "sql", "select distinct run_id from runs", "--format", "csv").split()[1:]
    report = Path(ran(r2, project, "report", run).strip())
    assert "<html" in (project / report).read_text("utf-8")


SIMULATED = "pools/simulated.toml"


def test_the_wheel_holds_the_packages_and_all_that_is_shipped(wheel: Path):
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    assert {name.partition("/")[0] for name in names if "dist-info" not in name} == {"flows", "r2", "storage", "tasks"}
    tracked = subprocess.run(
        ["git", "ls-files", *KINDS, "flows", "r2", "storage", "tasks"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert len(tracked) > 200
    shipped = {f"r2/shipped/{path}" if path.partition("/")[0] in KINDS else path for path in tracked}
    assert shipped - names == set()


@pytest.mark.parametrize("is_on_path", [False, True], ids=["in the working folder", "on PYTHONPATH"])
def test_what_is_shipped_is_found_beside_folders_of_the_same_names(r2: Path, project: Path, is_on_path: bool):
    variables: dict[str, str] = {}
    if is_on_path:
        (project / "flows" / "__init__.py").unlink()
        (project / "flows").rmdir()
        variables = {"PYTHONPATH": str(project)}
    said = ran(r2, project, "answer", "questions.jsonl", "--pool", SIMULATED, "--dry-run", **variables)
    assert "20 questions, 0 bad rows" in said
    listed = ran(r2, project, "policy", "list", **variables)
    assert "scan-specialist" in listed and "shipped" in listed
    assert not (project / "lake").exists()


def test_a_package_of_another_project_that_is_loaded_already_is_named(project: Path):
    (project / "tasks" / "__init__.py").write_text("")
    code = f"import sys; sys.path.insert(0, {str(project)!r}); import tasks; sys.path.pop(0); import flows"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: another project's package 'tasks' is loaded ({project}"), done.stderr


def test_a_file_of_the_users_own_wins_and_a_shipped_one_is_not_changed(r2: Path, project: Path):
    added = ["pool", "add", SIMULATED, "mine", "--endpoint", "simulated:sim-4b", "--tier", "small"]
    added += ["--price-input", "1", "--price-output", "1"]
    said = ran(r2, project, *added, code=2)
    copy = said.partition("change the copy: ")[2].strip()
    subprocess.run(copy, shell=True, cwd=project, check=True)
    ran(r2, project, *added)
    assert "models.mine" in (project / SIMULATED).read_text("utf-8")
    said = ran(
        r2, project, "answer", "questions.jsonl", "--pool", SIMULATED, "--method", "cot", "--model", "mine", "--dry-run"
    )
    assert "mine" in said


def test_the_shell_completes_commands_and_flags(r2: Path, project: Path):
    script = ran(r2, project, "--show-completion", "bash")
    assert "complete -o default -F _r2_completion r2" in script
    asked = {"_R2_COMPLETE": "complete_bash"}
    assert ran(r2, project, COMP_WORDS="r2 ans", COMP_CWORD="1", **asked).split() == ["answer"]
    assert ran(r2, project, COMP_WORDS="r2 policy sh", COMP_CWORD="2", **asked).split() == ["show"]
    assert "--max-cost-usd" in ran(r2, project, COMP_WORDS="r2 answer --max-c", COMP_CWORD="2", **asked).split()


def test_a_whole_day_in_another_project(r2: Path, project: Path):
    check_a_whole_day(r2, project)


def is_there(python: str) -> bool:
    """Whether this machine has the interpreter under this name; pyenv's names run only what PYENV_VERSION chooses."""
    found = shutil.which(python)
    return found is not None and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
def test_with_every_dependency_installed_anew(python: str, wheel: Path, project: Path, tmp_path: Path):
    if not is_there(python):
        pytest.skip(f"this machine has no {python}")
    subprocess.run([python, "-m", "venv", str(tmp_path / "environment")], check=True)
    subprocess.run([tmp_path / "environment/bin/pip", "install", "--quiet", str(wheel)], check=True)
    check_a_whole_day(tmp_path / "environment/bin/r2", project)

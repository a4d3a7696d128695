"""Which failures Prefect tries again, with a real flow; and that a wrong setting is said before anybody is asked."""

import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import flow, task
from typer.testing import CliRunner

from flows.cli.app import app
from r2.errors import ConfigError, EndpointError, LakeError, R2Error, TrainingError
from r2.training.launch import REFUSED
from tasks.retry import may_help
from tasks.training.train_rounds import run_command
from tests.support.paths import ROOT
from tests.support.prefect_api import shared_api
from tests.support.prefect_sockets import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS


@pytest.fixture(scope="module")
def api() -> Iterator[None]:
    with shared_api():
        yield


@pytest.mark.parametrize(
    ("error", "n_tries"),
    [
        (ConfigError("a wrong flag"), 1),
        (EndpointError("no answer"), 3),
        (OSError(errno.ENOSPC, "a full disk"), 1),
        (ExceptionGroup("shards", [ExceptionGroup("workers", [LakeError("torn")])]), 1),
        (ExceptionGroup("shards", [EndpointError("no answer")]), 3),
    ],
    ids=["wrong setting", "endpoint", "disk", "lake in a group", "endpoint in a group"],
)
def test_only_what_the_tree_of_errors_calls_transient_is_tried_again(
    error: Exception, n_tries: int, api: None, capsys: pytest.CaptureFixture[str]
):
    tries = []

    @task(retries=2, retry_delay_seconds=0, retry_condition_fn=may_help)
    def work() -> None:
        tries.append(1)
        raise error

    @flow
    def job() -> None:
        work()

    with pytest.raises(type(error)):
        job()
    assert len(tries) == n_tries
    assert capsys.readouterr().err.count("It is tried again.") == n_tries - 1


@pytest.mark.parametrize(("code", "is_transient"), [(REFUSED, False), (1, True), (9, True)])
def test_a_training_that_refuses_is_told_from_one_that_was_lost(tmp_path: Path, code: int, is_transient: bool):
    command = [sys.executable, "-c", f"import sys; print('why', file=sys.stderr); sys.exit({code})"]
    with pytest.raises(TrainingError, match="why") as caught:
        run_command(command, tmp_path / "train.log")
    assert caught.value.transient is is_transient
    assert R2Error.transient is False


def test_an_evaluation_says_a_wrong_setting_at_once(tmp_path: Path):
    pool = ROOT / "pools" / "simulated.toml"
    config = tmp_path / "e.toml"
    config.write_text(
        f'problems = ["scan"]\nlimit = 20\npool = "{pool}"\nlake = "{tmp_path}/lake"\n[reasoning]\nsecond_decomposer '
        '= "zz"\n'
    )
    out = CliRunner().invoke(app, ["evaluate", "--config", str(config)])
    assert isinstance(out.exception, ConfigError)
    assert "model 'zz' is not in the pool" in str(out.exception)
    assert "on dev" not in out.output

"""prefect.yaml: every deployment names a flow that exists, with parameters that the flow accepts."""

import importlib
import inspect
from typing import Any

import pytest
import yaml

from tests.support.paths import ROOT

DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_a_deployment_runs_a_flow_with_settings_it_accepts(deployment: dict[str, Any]):
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    signature = inspect.signature(flow.fn)
    signature.bind(**deployment["parameters"])
    if "settings" in deployment["parameters"]:
        signature.parameters["settings"].annotation.model_validate(deployment["parameters"]["settings"])


def test_every_schedule_has_a_slug():
    schedules = [schedule for deployment in DEPLOYMENTS for schedule in deployment.get("schedules", [])]
    assert schedules
    assert all(schedule["slug"] for schedule in schedules)


def test_only_the_schedule_that_needs_no_file_of_the_user_is_active():
    schedules = {d["name"]: [s["active"] for s in d["schedules"]] for d in DEPLOYMENTS if "schedules" in d}
    assert schedules == {
        "nightly": [False],
        "label-weekly": [False],
        "refresh": [False],
        "watch": [False],
        "lake-upkeep": [True],
    }

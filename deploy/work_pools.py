"""Writes `deploy/work_pools/`: the base job templates of our work pools. Each is Prefect's own with what we need.

    python deploy/work_pools.py            # writes them anew, after an upgrade of Prefect
    python deploy/work_pools.py --check    # exit code 1 where a file differs

What differs from Prefect's templates stands in this file, and nowhere else.
"""

import argparse
import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prefect.server.api

FOLDER = Path(__file__).parent / "work_pools"
IMAGE = "r2-reasoner:0.1.0"
HOME, STATE = "/home/r2/work", "/home/r2/state"
ENV = {
    "DO_NOT_TRACK": "1",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PYTHONSAFEPATH": "1",
}
"""Of every flow run; a deployment adds to it."""
GRACE_S = 60
"""What a flow run is given between SIGTERM and SIGKILL: it stops in 10 s, and writes what is left after that."""
Template = dict[str, Any]


def prefects_own(kind: str) -> Template:
    """The template that Prefect gives a new pool of this kind; it ships those of other packages too."""
    if kind == "process":
        from prefect.workers.process import ProcessWorker

        return ProcessWorker.get_default_base_job_template()
    folder = Path(prefect.server.api.__file__).parent / "collections_data/views"
    known = json.loads((folder / "aggregate-worker-metadata.json").read_text("utf-8"))
    template: Template = known[f"prefect-{kind}"][kind]["default_base_job_configuration"]
    return copy.deepcopy(template)


def process() -> Template:
    template = prefects_own("process")
    _defaults(template, env=ENV)
    return template


def docker() -> Template:
    template = prefects_own("docker")
    _defaults(
        template,
        env=ENV | {"R2_HOME": HOME, "R2_STATE_DIR": STATE},
        image=IMAGE,
        image_pull_policy="IfNotPresent",
        auto_remove=True,
        networks=["r2_default"],
        volumes=[f"r2_home:{HOME}", f"r2_state:{STATE}"],
        mem_limit="2g",
    )
    return template


def kubernetes() -> Template:
    """A Job that may not become root, ends in order, and has keys from a Secret: none passes through Prefect."""
    template = prefects_own("kubernetes")
    _defaults(
        template,
        env=ENV | {"HOME": "/home/r2", "R2_HOME": HOME, "R2_STATE_DIR": STATE},
        image=IMAGE,
        namespace="r2",
        finished_job_ttl=86400,
        cpu_request="500m",
        memory_request="1Gi",
        memory_limit="2Gi",
        pod_watch_timeout_seconds=300,
    )
    template["variables"]["properties"] |= {
        "home_claim": _named("Home Claim", "PersistentVolumeClaim of R2_HOME: questions, a lake on disk.", "r2-home"),
        "keys_secret": _named("Keys Secret", "The Secret whose entries are variables: keys, addresses.", "r2-keys"),
    }
    spec = template["job_configuration"]["job_manifest"]["spec"]
    pod = spec["template"]["spec"]
    for name in ("parallelism", "completions"):  # fields of a Job, which Prefect's template has in the pod
        spec[name] = pod.pop(name)
    pod["terminationGracePeriodSeconds"] = GRACE_S
    pod["automountServiceAccountToken"] = False
    pod["securityContext"] = {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "fsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    # The state is of one machine (files with locks), so it is no network file system; hosts share by PostgreSQL.
    pod["volumes"] = [
        {"name": "home", "persistentVolumeClaim": {"claimName": "{{ home_claim }}"}},
        {"name": "state", "emptyDir": {}},
    ]
    [container] = pod["containers"]
    container["envFrom"] = [{"secretRef": {"name": "{{ keys_secret }}", "optional": True}}]
    container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container["volumeMounts"] = [
        {"name": "home", "mountPath": HOME},
        {"name": "state", "mountPath": STATE},
    ]
    return template


KINDS = {"process": process, "docker": docker, "kubernetes": kubernetes}


def files() -> Iterator[tuple[Path, str]]:
    """Each file and what is in it."""
    for kind, made in KINDS.items():
        yield FOLDER / f"{kind}.json", json.dumps(made(), indent=2) + "\n"


def _defaults(template: Template, **values: object) -> None:
    for name, value in values.items():
        template["variables"]["properties"][name]["default"] = value


def _named(title: str, description: str, default: str) -> Template:
    return {"title": title, "description": description, "default": default, "type": "string"}


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    is_check = parser.parse_args().check
    wrong = 0
    for path, text in files():
        if is_check and path.read_text("utf-8") != text:
            print(f"{path} is not what `python deploy/work_pools.py` writes with this Prefect")
            wrong = 1
        elif not is_check:
            path.write_text(text, "utf-8")
    return wrong


if __name__ == "__main__":
    sys.exit(_main())

"""A supervised training: what it is trained on, where it lies, and whether it is done. Needs no Prefect."""

from dataclasses import dataclass
from pathlib import Path

from r2.atomic import check_folder
from r2.training.sft.settings import PolicyKind, SftSettings
from storage.lake.address import lake_folder
from storage.lake.lake import Lake
from storage.runs.sessions import is_closed
from tasks.training.scorer_policy import scorer_trials
from tasks.training.sft_process import PolicySpec, read_result, starting_policy
from tasks.training.trained_policy import TrainedPolicy, trained_policy
from tasks.training.training_rows import held_out_problems, training_rows


@dataclass(frozen=True, slots=True)
class SftResult:
    """The run and the policies it trained, in order."""

    run_id: str
    policies: list[TrainedPolicy]
    wall_s: float
    reached: str = ""
    """How far the policy came that the user stopped; empty where nobody did."""
    remarks: tuple[str, ...] = ()
    """Of the data that it was trained on (`SftRun`)."""


@dataclass(frozen=True, slots=True)
class SftRun:
    """A run before its first step: its identity, and what each of its policies is trained on; by policy `n_rows` and
    `data_sha256`. `remarks`: what of the data is not used, as sentences."""

    settings: SftSettings
    run_id: str
    n_rows: dict[PolicyKind, int]
    data_sha256: dict[PolicyKind, dict[str, str]]
    remarks: tuple[str, ...] = ()

    def spec(self, kind: PolicyKind, partners: dict[PolicyKind, Path]) -> PolicySpec:
        """What the process of one policy is told; `partners`: the policies that were trained before it."""
        return PolicySpec(
            settings=self.settings,
            kind=kind,
            run_id=self.run_id,
            work_dir=lake_folder(self.settings.lake) / "_training" / self.run_id / kind,
            partners=partners,
        )


def sft_run(settings: SftSettings) -> SftRun:
    """The run that these settings describe. ConfigError or InputFileError for what is wrong in them, before anything is
    trained."""
    check_folder(Path(settings.policies_dir), "--policies-dir")
    if settings.start is not None:  # the name may mean another version tomorrow: the run's identity is of this one
        settings = settings.model_copy(update={"start": starting_policy(settings).ref})
    if settings.policy == "scorer":
        found = scorer_trials(settings)
        sha256 = found.data_sha256
        return SftRun(
            settings, settings.run_id(sha256), {"scorer": found.trials.n_trials}, {"scorer": sha256}, found.remarks
        )
    rows = {kind: training_rows(settings, kind) for kind in settings.kinds}
    if settings.pool is not None:
        held_out_problems(settings)  # so that a source that cannot be read is said now, not after the training
    data_sha256 = {source: sha for each in rows.values() for source, sha in each.data_sha256.items()}
    return SftRun(
        settings,
        settings.run_id(data_sha256),
        {kind: len(each.train) for kind, each in rows.items()},
        {kind: each.data_sha256 for kind, each in rows.items()},
    )


def finished_sft(settings: SftSettings) -> SftResult | None:
    """The result of a finished run, promoted where that is asked for now; None where something is left to train."""
    run = sft_run(settings)
    root = lake_folder(settings.lake)
    if not Lake(root).units(run.run_id) or not is_closed(root, run.run_id):
        return None
    done: list[TrainedPolicy] = []
    with Lake(root).run_lock(run.run_id):
        for kind in run.settings.kinds:
            spec = run.spec(kind, {})
            result = read_result(spec.work_dir)
            if result is None:
                return None
            done.append(trained_policy(spec, result, run.data_sha256[kind]))
    return SftResult(run.run_id, done, 0.0, remarks=run.remarks)

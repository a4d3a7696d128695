"""How a run of `r2 answer` is routed where nobody says so: by the rule, unless it was begun, or recorded, otherwise.
Needs no Prefect."""

from pathlib import Path

from r2.pool.file.data_policy import pool_of
from r2.pool.file.recording import recorded_routing
from r2.settings import AnswerSettings, routed
from storage.runs.plan import is_planned
from tasks.answering.plan_file import who_answers_digest

CONTINUED = "this run was begun with the allocator and goes on so; --routing rule begins one by the rule"


def routed_run(settings: AnswerSettings) -> tuple[AnswerSettings, str]:
    """The settings with their `routing`, and what to say of it; "" for nothing.

    A run that the lake has already, planned with the allocator, goes on with it: the same command continues a run. A
    recording is replayed as it was made. Errors as of `plan_file`.
    """
    by_rule = routed(settings)
    if by_rule is settings:
        return settings, ""
    if settings.pool.startswith("recording:"):
        is_rule = recorded_routing(Path(settings.pool.partition(":")[2])) == "rule"
        return by_rule if is_rule else settings, ""
    if is_planned(settings, who_answers_digest(settings, pool_of(settings).digest)):
        return settings, CONTINUED
    return by_rule, ""

"""Which failed tasks Prefect tries again: those whose error may not come back."""

from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from r2.errors import R2Error


def may_help(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Prefect's `retry_condition_fn`. False for an error of ours that the same call would meet again: a wrong setting
    is said at once, not after minutes of waiting. Anything else, a full disk or a lost machine, is worth another try.
    """
    error = state.data
    return not isinstance(error, R2Error) or error.transient

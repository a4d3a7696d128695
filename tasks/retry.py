"""Which failed tasks Prefect tries again: those whose error is transient by the tree in `r2/errors.py`."""

import sys
from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from tasks.cause import is_transient, message


def may_help(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Prefect's `retry_condition_fn`, asked while there are tries left. False for what the same call would meet again,
    a wrong setting or a full disk: it is said at once, not after minutes of waiting. What is tried again is told, for
    the wait is long and Prefect's own log is off.
    """
    if not isinstance(state.data, BaseException) or not is_transient(state.data):
        return False
    sys.stderr.write(f"{task_run.name}: {message(state.data)} It is tried again.\n")
    return True

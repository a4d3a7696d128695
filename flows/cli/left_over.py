"""What a command says about the questions it left over: why, and the command that resumes it."""

from typing import TYPE_CHECKING

from flows.support.terminal import this_command

if TYPE_CHECKING:  # not when the command starts: --help need not wait for it
    from tasks.answering.progress import Progress


RETRY_FAILED = "--retry-failed"


def what_is_deferred(progress: "Progress", things: str) -> str:
    """Why a session left something over, and the command that resumes it. `things`: questions, problems, ..."""
    n = progress.n_deferred
    outages = ", ".join(f"{error_type}: {count}" for error_type, count in progress.n_by_outage.items())
    newest = "".join(c if c.isprintable() else " " for c in progress.last_outage)
    resume = "The same command resumes it"
    if progress.stop_reason == "budget":
        why = f"Stopped at a money budget; {n} {things} are deferred."
        resume = "The same command with a higher cap resumes it"
    elif progress.stop_reason == "interrupted":
        why = f"Interrupted; {n} {things} are left."
    elif progress.is_cut_off:
        why = f"Stopped: no model could be reached; {n} {things} are deferred ({outages}). The last error: {newest}"
    else:
        why = f"{n} {things} are deferred: a model could not be reached or used ({outages}). The last error: {newest}"
    # Questions that were to be asked again are deferred now; with the flag, those that failed again would be too.
    return f"{why}\n{resume}:\n  {this_command(without=RETRY_FAILED)}"

"""What a run need not pay: answers of earlier runs, found by what is asked, as the run receives them.

One way for all that ask: the shards of a run look here before they send a call, and so do the shared calls of an
evaluation (`tasks/evaluation/shared_calls.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from r2.call import Call, Completion
from r2.ledger import Price
from r2.pool.file.config import PoolConfig
from r2.pool.file.identity import answering_digests
from r2.pool.reused import reused
from storage.lake.address import lake_folder
from storage.runs.lineage import PaidRun, paid_runs, why_another
from storage.runs.paid_calls import PaidCalls
from storage.runs.plan import RunPlan
from tasks.answering.plan_file import planned_entries
from tasks.blocking import to_end


@dataclass(slots=True)
class PaidBefore:
    """The answers at hand, at today's prices."""

    calls: PaidCalls
    prices: Mapping[str, Price]
    not_sent: Callable[[Call], tuple[str, ...]] | None = None
    """What of a row's own parameters an entry is not sent: the client knows it, once it is open."""

    async def find(self, call: Call) -> Completion | None:
        """The answer to the same request (model entry, messages, parameters, sample index), which costs nothing now;
        None where nobody has paid for it."""
        request_sha = call.request_sha()
        price = self.prices.get(call.model)
        if price is None or not self.calls.may_have(request_sha):
            return None
        found = await to_end(self.calls.find, request_sha, call.model)
        known = None if found is None else reused(call, found.completion, price, found.run_id)
        if known is not None and call.asked_for and self.not_sent is not None:
            return replace(known, not_sent=self.not_sent(call))
        return known


def open_paid_before(root: Path, pool: PoolConfig, runs: Sequence[PaidRun]) -> PaidBefore | None:
    """What these runs paid for; None where that is nothing that can be asked of this pool."""
    calls = PaidCalls.open(root, runs, answering_digests(pool)) if runs else PaidCalls(root)
    if not calls and not calls.warnings:
        return None
    return PaidBefore(calls, {name: pool.price(name) for name in pool.models})


def paid_before(plan: RunPlan, pool: PoolConfig) -> tuple[PaidBefore | None, list[str]]:
    """Of a run, and what there is to say about it: why it is another run than the one before, what it need not pay and
    what is asked again."""
    settings = plan.settings
    root = lake_folder(settings.lake)
    path = plan.input_path or str(Path(settings.input).resolve())
    runs = paid_runs(root, plan.run_id, path, settings.reasoning.method, reuse=settings.reuse)
    before = open_paid_before(root, pool, runs)
    said = [] if before is None else list(before.calls.warnings)
    n_stored = 0 if before is None else len(before.calls)
    if runs and runs[0].is_same_input:
        entries = plan.entries or planned_entries(pool)
        reasons = why_another(runs[0], settings, plan.input_digest, plan.n_requested, entries)
        said.append(
            f"{settings.input} was answered before (run {runs[0].run_id}), and this is another run. What differs: "
            f"{'; '.join(reasons)}. {n_stored} stored answers are at hand: a request that is the same is not paid "
            "again."
        )
    elif n_stored:
        said.append(
            f"{n_stored} stored answers of other runs of this lake are at hand: a request that is the same is not paid "
            "again. --no-reuse asks anew."
        )
    return before, said

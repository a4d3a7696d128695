"""A run's session without endpoints or Prefect: a planned question file, a real lake and journals, and a client that
answers from a function."""

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r2.answering.admission import Admission
from r2.call import Call, Completion
from r2.pool.client.gauges import ModelGauge
from r2.pool.client.ports import CallJournal
from r2.settings import AnswerSettings
from storage.lake.lake import Lake
from storage.runs.plan import RunPlan, plan_run
from tasks.answering.progress import progress_so_far
from tasks.answering.session import RunSession
from tasks.blocking import Checks
from tests.support.scripted import completion, router


class ScriptedClient:
    """Pays for a call once: what the journal has is not made again."""

    def __init__(self, reply: Callable[[Call], str]) -> None:
        self._reply = reply
        self.spent_usd = 0.0
        self.n_sent = 0
        self.is_stopped = False
        self.cap_usd = math.inf

    def unspent_usd(self) -> float:
        return self.cap_usd - self.spent_usd

    async def complete(
        self,
        call: Call,
        *,
        problem_id: str,
        rollout: int = 0,
        journal: CallJournal | None = None,
        replay_failures: bool = True,
    ) -> Completion:
        assert journal is not None
        key = call.journal_key(problem_id)
        stored = journal.find(key)
        if stored is not None:
            return Completion.from_bytes(stored)
        if self.is_stopped:
            return completion("", call.model, error_type="stopped")
        await asyncio.sleep(0)
        answer = completion(self._reply(call), call.model)
        self.n_sent += 1
        self.spent_usd += answer.cost_usd
        if (noted := journal.begin(key, answer.cost_usd)) is not None:
            await noted
        await journal.commit(key, answer.to_bytes(call.request_sha(), problem_id), answer.cost_usd)
        return answer

    def gauges(self) -> list[ModelGauge]:
        return []

    def stop(self) -> None:
        self.is_stopped = True


def planned(tmp_path: Path, rows: Sequence[Mapping[str, Any]], **settings: Any) -> RunPlan:
    """A run of `cot` over these rows."""
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    chosen = {"reasoning": {"method": "cot", "model": "small"}, **settings}
    return plan_run(
        AnswerSettings.model_validate({"input": str(questions), "lake": str(tmp_path / "lake"), **chosen}), "a pool"
    )


def session_for(plan: RunPlan, reply: Callable[[Call], str], n_threads: int = 2) -> RunSession:
    """As `open_session` makes one; whoever asks for it closes its checks."""
    client = ScriptedClient(reply)
    return RunSession(
        plan,
        None,  # type: ignore[arg-type]
        router(**plan.settings.reasoning.model_dump(mode="json")),
        client,
        Lake(plan.settings.lake),
        asyncio.Semaphore(plan.settings.max_in_flight),
        progress_so_far(plan),
        Checks(n_threads),
        Admission(client.unspent_usd),
    )

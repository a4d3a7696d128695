"""Identical calls answered once for all methods of an evaluation: kept by what was asked, of which entry; shared while
on their way.

A method is charged what its calls cost, whoever asked first; paid is what was sent. The answers of a lake's evaluations
are in one journal, `<lake>/_evaluations/calls.journal`, so an evaluation with one more method, or with one more pool
entry, pays for what is new.
"""

import asyncio
import hashlib

import orjson

from r2.call import Call, Completion
from r2.errors import is_asked_again
from r2.pool.client.client import PoolClient
from r2.pool.client.gauges import ModelGauge
from r2.pool.client.ports import CallJournal, NoJournal
from r2.pool.file.config import PoolConfig, drop_later_defaults
from storage.runs.journal import Journal

_PAYER_BYTES = 32
"""Before each stored completion: the evaluation that paid for it, padded."""
_NO_JOURNAL = NoJournal()


class SharedCalls:
    """Stands where a `PoolClient` would, for every run of an evaluation. Their journals stay empty: this one has the
    calls."""

    def __init__(self, client: PoolClient, pool: PoolConfig, journal: Journal, payer: str) -> None:
        self._client = client
        self._journal = journal
        self._payer = payer.encode().ljust(_PAYER_BYTES)[:_PAYER_BYTES]
        self._entries = {name: entry_digest(pool, name) for name in pool.models}
        self._on_their_way: dict[str, asyncio.Future[Completion]] = {}
        self.n_sent = 0
        """Calls this process sent, those that were answered."""

    @property
    def spent_usd(self) -> float:
        """Paid by this process."""
        return self._client.spent_usd

    def unspent_usd(self) -> float:
        return self._client.unspent_usd()

    async def complete(
        self,
        call: Call,
        *,
        problem_id: str,
        rollout: int = 0,
        journal: CallJournal = _NO_JOURNAL,
        replay_failures: bool = False,
    ) -> Completion:
        """As `PoolClient.complete`; the place that asks (`problem_id`, `rollout`, `journal`) makes no difference.

        A stored failure that only defers a question is always asked again: another run may have met it.
        """
        key = self._key(call)
        stored = self._journal.find(key)
        if stored is not None:
            known = Completion.from_bytes(stored[_PAYER_BYTES:])
            if not is_asked_again(known.error_type):
                return known
        while (answer := self._on_their_way.get(key)) is not None:
            theirs = await asyncio.shield(answer)
            if theirs.error_type != "question_budget":  # of the question that asked; ours may have more left
                return theirs
        answer = asyncio.get_running_loop().create_future()
        self._on_their_way[key] = answer
        try:
            slot = _Slot(self._journal, key, self._payer)
            completion = await self._client.complete(call, problem_id=problem_id, journal=slot)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                answer.cancel()
            else:
                answer.set_exception(error)
                answer.exception()  # seen: nobody may be waiting
            raise
        else:
            self.n_sent += slot.is_sent
            answer.set_result(completion)
            return completion
        finally:
            del self._on_their_way[key]

    def gauges(self) -> list[ModelGauge]:
        return self._client.gauges()

    def stop(self) -> None:
        self._client.stop()

    def give_up(self) -> None:
        self._client.give_up()

    def _key(self, call: Call) -> str:
        return hashlib.blake2b(f"{self._entries[call.model]}{call.request_sha()}".encode(), digest_size=16).hexdigest()


class _Slot:
    """One call's place in the shared journal, under the key of what it asks.

    A failure that is asked again takes the place of the stored one, with what that cost: whoever asks last has paid.
    """

    def __init__(self, journal: Journal, key: str, payer: bytes) -> None:
        self._journal, self._key, self._payer = journal, key, payer
        self.is_sent = False

    def find(self, key: str) -> bytes | None:
        stored = self._journal.find(self._key)
        return None if stored is None else stored[_PAYER_BYTES:]

    def lost_usd(self, key: str) -> float:
        return self._journal.lost_usd(self._key, self._payer)

    def begin(self, key: str, worst_usd: float) -> None:
        self._journal.begin(self._key, worst_usd, self._payer)

    def hold(self, key: str, worst_usd: float) -> None:
        self._journal.hold(self._key, worst_usd)

    async def commit(self, key: str, record: bytes) -> None:
        await self._journal.commit(self._key, self._payer + record)
        self.is_sent = True


def entry_digest(pool: PoolConfig, name: str) -> str:
    """Identifies what decides an entry's answers and their cost: endpoint, weights of a policy, price and options, not
    limits or profile."""
    table = pool.models[name].model_dump(
        mode="json",
        exclude={
            "max_requests_per_minute",
            "max_tokens_per_minute",
            "max_in_flight",
            "timeout_s",
            "deadline_s",
            "quota",
            "api_key_env",
            "tier",
            "profile",
            "solver",
            "hidden_input_tokens",
            "hidden_output_tokens",
            "stream",
            "retires",
        },
    )
    drop_later_defaults(table)
    policy = pool.policies.get(name)
    weights = policy.card.weights_sha256 if policy is not None else None
    return hashlib.sha256(orjson.dumps([name, table, weights], option=orjson.OPT_SORT_KEYS)).hexdigest()


def paid(journal: Journal, payer: str) -> tuple[float, int]:
    """(USD, calls) that an evaluation has paid for so far, over all its sessions; calls that were on their way in a
    kill at the most they may have cost."""
    mine = payer.encode().ljust(_PAYER_BYTES)[:_PAYER_BYTES]
    costs = [
        Completion.from_bytes(record[_PAYER_BYTES:]).cost_usd
        for _, record in journal.records()
        if record[:_PAYER_BYTES] == mine
    ]
    lost_usd = sum(call.usd for call in journal.lost_at_open if call.payer == mine)
    return sum(costs) + lost_usd, len(costs)

"""Identical calls answered once for all methods of an evaluation: kept by what was asked, of which entry; shared while
on their way.

A method is charged what its calls cost at today's prices, whoever asked first; paid is what was sent. The answers of a
lake's evaluations are in one journal, `<lake>/_evaluations/calls.journal`, so an evaluation with one more method, or
with one more pool entry, pays for what is new. What other runs of the lake paid for is looked up as a run looks it up
(`tasks/answering/paid_before.py`), and noted in the journal as paid by them.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from r2.call import Call, Completion
from r2.errors import is_asked_again
from r2.pool.client.client import PoolClient
from r2.pool.client.gauges import ModelGauge
from r2.pool.client.ports import CallJournal, NoJournal
from r2.pool.file.config import PoolConfig
from r2.pool.file.identity import answering_digest, entry_digest
from r2.pool.reused import charged, priced_anew
from storage.runs.journal import Journal
from tasks.answering.paid_before import PaidBefore

_PAYER_BYTES = 32
"""Before each stored completion: the evaluation that paid for it, padded."""
_NO_JOURNAL = NoJournal()


@dataclass(frozen=True, slots=True)
class Kin:
    """The evaluations of the same problems, for one that uses no other's answers. `name` tells them from all others."""

    name: str
    evaluation_ids: frozenset[str]


class SharedCalls:
    """Stands where a `PoolClient` would, for every run of an evaluation. Their journals stay empty: this one has the
    calls."""

    def __init__(
        self,
        client: PoolClient,
        pool: PoolConfig,
        journal: Journal,
        payer: str,
        before: PaidBefore | None = None,
        kin: Kin | None = None,
    ) -> None:
        """`before` has what other runs paid for. `kin`: the evaluations whose answers may be used; None: all."""
        self._client = client
        self._journal = journal
        self._payer = _padded(payer)
        self._before = before
        self._apart = "" if kin is None else f"{kin.name}:"
        self._kin = None if kin is None else {_padded(name) for name in (payer, *kin.evaluation_ids)}
        self._prices = {name: pool.price(name) for name in pool.models}
        self._entries = {name: answering_digest(pool, name) for name in pool.models}
        self._priced_entries = {name: entry_digest(pool, name) for name in pool.models}
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
        request_sha = call.request_sha()
        key = self._key(call, request_sha)
        known = self._known(call, request_sha, key)
        if known is not None:
            return known
        while (answer := self._on_their_way.get(key)) is not None:
            theirs = await asyncio.shield(answer)
            if theirs.error_type != "question_budget":  # of the question that asked; ours may have more left
                return theirs
        answer = asyncio.get_running_loop().create_future()
        self._on_their_way[key] = answer
        try:
            slot = _Slot(self._journal, key, self._payer)
            completion = await self._asked(call, request_sha, problem_id, slot)
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

    async def _asked(self, call: Call, request_sha: str, problem_id: str, slot: "_Slot") -> Completion:
        """From another run of the lake, else from the model."""
        reused = None if self._before is None or slot.find("") is not None else await self._before.find(call)
        if reused is None:
            return await self._client.complete(call, problem_id=problem_id, journal=slot)
        await slot.keep(reused.to_bytes(request_sha))
        return charged(reused, "", is_ours=True)

    def _known(self, call: Call, request_sha: str, key: str) -> Completion | None:
        """The stored answer, or the failure that stands, as the evaluation is charged for it."""
        older = _digest(self._priced_entries[call.model], request_sha)
        shared = _digest(self._entries[call.model], request_sha)
        for at in dict.fromkeys((key, shared, older)):
            stored = self._journal.find(at)
            if stored is None:
                continue
            payer, completion = stored[:_PAYER_BYTES], Completion.from_bytes(stored[_PAYER_BYTES:])
            is_ours = payer == self._payer
            if is_asked_again(completion.error_type) or not (self._kin is None or at == key or payer in self._kin):
                continue
            return charged(priced_anew(completion, self._prices), payer.decode().rstrip(), is_ours=is_ours)
        return None

    def gauges(self) -> list[ModelGauge]:
        return self._client.gauges()

    def stop(self) -> None:
        self._client.stop()

    def give_up(self) -> None:
        self._client.give_up()

    def _key(self, call: Call, request_sha: str) -> str:
        """What is asked, of which entry; of what is kept apart, another one for each kin."""
        return _digest(f"{self._apart}{self._entries[call.model]}", request_sha)


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

    async def commit(self, key: str, record: bytes, usd: float = 0.0) -> None:
        await self._journal.commit(self._key, self._payer + record, usd)
        self.is_sent = True

    async def commit_all(self, records: Sequence[tuple[str, bytes, float]]) -> None:
        for key, record, usd in records:
            await self.commit(key, record, usd)

    async def keep(self, record: bytes) -> None:
        """Stores an answer that another run paid for."""
        await self._journal.commit(self._key, self._payer + record)


def _digest(entry: str, request_sha: str) -> str:
    return hashlib.blake2b(f"{entry}{request_sha}".encode(), digest_size=16).hexdigest()


def _padded(payer: str) -> bytes:
    return payer.encode().ljust(_PAYER_BYTES)[:_PAYER_BYTES]


def paid(journal: Journal, payer: str) -> tuple[float, int]:
    """(USD, calls) that an evaluation has paid for so far, over all its sessions; calls that were on their way in a
    kill at the most they may have cost."""
    mine = _padded(payer)
    answers = [
        completion
        for _, record in journal.records()
        if record[:_PAYER_BYTES] == mine
        and not (completion := Completion.from_bytes(record[_PAYER_BYTES:])).reused_from
    ]
    lost_usd = sum(call.usd for call in journal.lost_at_open if call.payer == mine)
    return sum(answer.cost_usd for answer in answers) + lost_usd, len(answers)

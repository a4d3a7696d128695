"""Money caps are bounds: whatever a server answers and bills, and whenever the process is killed, spent <= cap."""

import asyncio
import json
import math
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from r2.call import Call, Completion
from r2.errors import PoolFileError
from r2.ledger import Price, Usage
from r2.pool.client import client as client_module
from r2.pool.client.billing import charge
from r2.pool.client.client import PoolClient
from r2.pool.client.http import Endpoint, HttpReply
from r2.pool.client.ports import Address
from r2.pool.client.refusals import Refusal
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.limits import lease as lease_module
from r2.pool.limits import shares as shares_module
from r2.pool.limits.aimd import Times
from storage.runs.journal import Journal
from storage.runs.paid import paid_usd
from tests.support.hostile import HostileServer
from tests.support.loopback import Loopback, answers, hangs, reply_json, says, write_pool

PRICE = Price(1.0, 0.1, 10.0, "2026-11-24", "a test")
DEAR = 'price_usd_per_mtok = {input = 1000.0, output = 1000.0, date = "2026-11-01", source = "a test"}'


def call(text: str = "2 + 2?", model: str = "a", **options: Any) -> Call:
    return Call(model, (("user", text),), "solve", 16, **options)


async def complete(
    pool: PoolConfig, url: str | dict[str, str], folder: Path, calls: list[Call], *, at_once: int = 64, **options: Any
) -> tuple[list[Completion], float]:
    """The completions in order, and what the client says it spent."""
    urls = url if isinstance(url, dict) else dict.fromkeys(pool.models, url)
    slots = asyncio.Semaphore(at_once)
    async with PoolClient(
        pool, {name: Address(urls[name], name) for name in pool.models}, state_dir=folder / "state", **options
    ) as client:

        async def one(number: int, asked: Call) -> Completion:
            async with slots:
                return await client.complete(asked, problem_id=f"p{number}")

        done = await asyncio.gather(*(one(number, asked) for number, asked in enumerate(calls)))
        return list(done), client.spent_usd


WORST = Usage(100, 0, 16, "estimated")
WORST_USD = (100 * 1.0 + 16 * 10.0) / 1e6


@pytest.mark.parametrize(
    ("reported", "has_text", "usage", "usd"),
    [
        (Usage(20, 0, 5), True, Usage(20, 0, 5), (20 + 50) / 1e6),
        (None, True, WORST, WORST_USD),
        (Usage(20, 0, 0), False, Usage(20, 0, 0), 20 / 1e6),
        # too little to be true: as it came, and the worst case
        (Usage(20, 0, 0), True, Usage(20, 0, 0, "doubtful"), WORST_USD),
        (Usage(0, 0, 5), True, Usage(0, 0, 5, "doubtful"), WORST_USD),
        # more than was asked for: as it came, and at its own price
        (Usage(20, 0, 10**6), True, Usage(20, 0, 10**6, "doubtful"), (20 + 10**7) / 1e6),
        (Usage(10**6, 0, 5), True, Usage(10**6, 0, 5, "doubtful"), (10**6 + 50) / 1e6),
    ],
)
def test_a_bill_is_believed_within_what_was_asked(reported: Usage | None, has_text: bool, usage: Usage, usd: float):
    charged = charge(PRICE, WORST, reported, has_text=has_text)
    assert (charged.usage, charged.usd) == (usage, pytest.approx(usd))


def test_a_limit_that_the_pool_file_sends_is_the_one_that_is_set_aside(tmp_path: Path):
    async def scenario() -> None:
        limit = 8000
        behave = answers(usage=(20, limit))
        async with Loopback(after=behave) as server:
            pool = write_pool(tmp_path, {"a": "extra_body = {max_tokens = 8000}"})
            assert pool.roster()["a"].output_limit(16) == limit
            calls = [call(f"question {i}") for i in range(40)]
            done, spent_usd = await complete(pool, server.base_url, tmp_path, calls, max_cost_usd=0.1)
            # (20 in + 8000 out at 2 USD per million) = 0.01602 USD a call: six fit
            assert spent_usd == pytest.approx(6 * 0.01602)
            assert Counter(c.error_type for c in done) == {None: 6, "budget_exhausted": 34}
            assert server.arrivals[0].body["max_tokens"] == limit

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("extra_body", "says_so"),
    [
        ("{max_tokens = 0}", "does not bound"),
        ("{max_completion_tokens = -1}", "does not bound"),
        ('{max_tokens = "all"}', "does not bound"),
        ("{n = 4}", "several answers"),
        ("{best_of = 2}", "several answers"),
    ],
)
def test_further_fields_that_would_break_the_bound_are_refused(tmp_path: Path, extra_body: str, says_so: str):
    with pytest.raises(PoolFileError, match=says_so):
        write_pool(tmp_path, {"a": f"extra_body = {extra_body}"})


def test_what_a_server_is_known_to_add_is_in_the_bound_and_not_in_the_pools_identity(tmp_path: Path):
    plain = write_pool(tmp_path, {"a": ""})
    told = write_pool(tmp_path, {"a": "hidden_input_tokens = 1000\nhidden_output_tokens = 5000"})
    messages = (("user", "x" * 10),)
    assert plain.roster()["a"].worst_case(messages, 16) == Usage(10 + 8 + 64, 0, 16, "estimated")
    assert told.roster()["a"].worst_case(messages, 16) == Usage(10 + 8 + 1000, 0, 5016, "estimated")
    assert plain.digest == told.digest


def test_a_limit_that_is_never_sent_is_what_the_model_can_generate(tmp_path: Path):
    known = write_pool(tmp_path, {"a": 'omit = ["max_tokens"]\nmax_output_tokens = 5000'})
    assert known.roster()["a"].output_limit(16) == 5000
    unknown = write_pool(tmp_path, {"a": 'omit = ["max_tokens"]\ncontext_tokens = 9000'})
    assert unknown.roster()["a"].output_limit(16) == 9000


def test_a_token_a_byte_stays_within_the_cap(tmp_path: Path):
    """An honest server whose tokenizer knows no emoji."""

    async def behave(request: Any) -> Any:
        from aiohttp import web

        n_bytes = sum(len(m["content"].encode()) for m in (await request.json())["messages"])
        await asyncio.sleep(0.01)
        return web.json_response(reply_json(usage=(n_bytes, 5)))

    async def scenario() -> None:
        async with Loopback(after=behave) as server:
            calls = [call("\U0001f701\U0001f702\U0001f703\U0001f704" * 100 + str(i)) for i in range(100)]
            done, spent_usd = await complete(
                write_pool(tmp_path, {"a": ""}), server.base_url, tmp_path, calls, max_cost_usd=0.03
            )
            assert spent_usd <= 0.03
            assert sum(c.is_ok for c in done) >= 15, "and most of the cap is used: 0.0016 USD a call"

    asyncio.run(scenario())


@pytest.mark.parametrize("at_once", [1, 8, 64])
def test_a_server_that_bills_more_than_was_asked_gets_one_call(tmp_path: Path, at_once: int):
    async def scenario() -> None:
        async with Loopback(after=answers(usage=(10, 10**6))) as server:
            done, spent_usd = await complete(
                write_pool(tmp_path, {"a": ""}),
                server.base_url,
                tmp_path,
                [call(f"x {i}") for i in range(80)],
                at_once=at_once,
                max_cost_usd=5.0,
            )
            assert len(server.arrivals) == 1
            assert spent_usd == pytest.approx(2.00001), "what it bills is what counts"
            assert Counter(c.error_type for c in done) == {None: 1, "overbilled": 79}
            [first] = [c for c in done if c.is_ok]
            assert (first.usage.output_tokens, first.usage.source) == (10**6, "doubtful")
            message = next(c.error_message for c in done if not c.is_ok)
            assert message is not None
            assert "1000000 generated tokens" in message and "hidden_output_tokens" in message

    asyncio.run(scenario())


def test_entries_get_one_call_at_a_time_until_a_bill_kept_its_bound(tmp_path: Path):
    async def scenario() -> None:
        async with Loopback(script=[answers(after_s=0.1)], after=answers(after_s=0.05)) as server:
            pool, calls = write_pool(tmp_path, {"a": ""}), [call(f"x {i}") for i in range(8)]
            await complete(pool, server.base_url, tmp_path, calls, max_cost_usd=5.0)
            assert server.arrivals[1].at - server.arrivals[0].at >= 0.1
            assert server.max_together > 1

    asyncio.run(scenario())


def test_without_a_cap_an_entry_is_not_closed_and_its_bills_are_marked(tmp_path: Path):
    async def scenario() -> None:
        async with Loopback(after=answers(usage=(10, 1000))) as server:
            done, _ = await complete(write_pool(tmp_path, {"a": ""}), server.base_url, tmp_path, [call("1"), call("2")])
            assert [c.usage.source for c in done] == ["doubtful", "doubtful"]
            assert [c.cost_usd for c in done] == [pytest.approx(0.00201)] * 2

    asyncio.run(scenario())


def test_a_fallback_that_the_question_cannot_pay_for_is_not_asked(tmp_path: Path):
    async def scenario() -> None:
        async with Loopback(after=says(500, "no")) as cheap, Loopback() as dear:
            pool = write_pool(tmp_path, {"a": "", "b": f'tier = "large"\n{DEAR}'})
            urls = {"a": cheap.base_url, "b": dear.base_url}
            [done], spent_usd = await complete(pool, urls, tmp_path, [call(max_cost_usd=0.001)])
            assert (spent_usd, dear.arrivals) == (0.0, [])
            assert done.error_type == "server_error", "why it failed is not that the dearer entry is too dear"

    asyncio.run(scenario())


def test_retries_and_fallbacks_together_stay_within_what_the_call_may_cost(tmp_path: Path):
    async def scenario() -> None:
        async with Loopback(script=[hangs()] * 10) as server:
            pool = write_pool(tmp_path, {"a": "timeout_s = 0.1", "b": 'tier = "large"\ntimeout_s = 0.1'})
            worst_usd = (len("2 + 2?") + 8 + 64 + 2 * 16) / 1e6
            [done], spent_usd = await complete(pool, server.base_url, tmp_path, [call(max_cost_usd=2.5 * worst_usd)])
            assert spent_usd == pytest.approx(2 * worst_usd), "a call that timed out may have been billed"
            assert done.error_type == "question_budget"
            assert len(server.arrivals) == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("mode", ["bad_chunk", "cut_chunk", "one_header"])
def test_an_answer_that_is_cut_is_charged_the_worst_case(tmp_path: Path, mode: str):
    async def scenario() -> None:
        async with HostileServer() as server:
            pool = write_pool(tmp_path, {"a": "timeout_s = 5"})
            # Room for one attempt, so that there is no second
            worst_usd = (len("2 + 2?") + 8 + 64 + 2 * 16) / 1e6
            [done], spent_usd = await complete(pool, server.url(mode), tmp_path, [call(max_cost_usd=1.5 * worst_usd)])
            assert done.error_type == "question_budget"
            assert spent_usd == pytest.approx(worst_usd)
            assert done.attempts[0].error_type in ("bad_body", "disconnected")

    asyncio.run(scenario())


@dataclass
class Server:
    """A hostile server and its own books. `bill_usd` is what it charges, whether or not anybody is there to hear it."""

    chance: random.Random
    prices: dict[str, Price]
    habits: list[str]
    slowest_s: float
    bill_usd: float = 0.0
    by_question: Counter[str] = field(default_factory=Counter)
    overrun_usd: float = 0.0
    """Billed beyond what was asked for."""
    n_too_many: int = 0
    """Calls that a session sent to an entry after such a bill of it had come back."""
    has_overbilled: set[str] = field(default_factory=set)
    n_left: float = math.inf
    """Calls until `is_time` is set."""
    is_time: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> "Server":
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def post(
        self, endpoint: Endpoint, body: bytes, limit_s: float, most_bytes: int, within_s: float
    ) -> HttpReply:
        asked = json.loads(body)
        name, text = asked["model"], asked["messages"][0]["content"]
        limit = asked["max_tokens"]
        self.n_too_many += name in self.has_overbilled
        self.n_left -= 1
        if self.n_left <= 0:
            self.is_time.set()
        habit = self.chance.choice(self.habits)
        most_input = len(text.encode()) + 8 + 64
        n_input, n_output = most_input, limit
        if self.chance.random() < 0.3:
            n_input, n_output = self.chance.randint(1, most_input), self.chance.randint(1, limit)
        if habit == "overbills":
            n_output = limit * self.chance.randint(50, 5000)
        is_free = habit in ("fails", "refuses", "errs_inside", "hangs_up")
        usd = 0.0 if is_free else (n_input * self.prices[name].input + n_output * self.prices[name].output) / 1e6
        self.bill_usd += usd
        self.by_question[text.split()[0]] += usd  # type: ignore[assignment]
        price = self.prices[name]
        worst_usd = (most_input * price.input + limit * price.output) / 1e6
        if usd > worst_usd:
            self.overrun_usd += usd
        await asyncio.sleep(self.chance.uniform(0, self.slowest_s))
        if usd > worst_usd:
            self.has_overbilled.add(name)
        return self._reply(habit, n_input, n_output)

    def _reply(self, habit: str, n_input: int, n_output: int) -> HttpReply:
        document = reply_json(usage=(n_input, n_output))
        usages: dict[str, object] = {
            "counts_nothing": None,
            "counts_zero": {"prompt_tokens": 0, "completion_tokens": 0},
            "counts_less_than_zero": {"prompt_tokens": -5, "completion_tokens": -(10**6)},
            "counts_words": {"prompt_tokens": "ten", "completion_tokens": "five"},
            "counts_cached": {
                "prompt_tokens": n_input,
                "completion_tokens": n_output,
                "prompt_tokens_details": {"cached_tokens": 10**9},
            },
        }
        if habit in usages:
            return HttpReply(200, json.dumps(document | {"usage": usages[habit]}).encode())
        if habit == "ends_badly":
            document["choices"][0]["finish_reason"] = self.chance.choice(["content_filter", "error", "tool_calls"])
        replies: dict[str, Callable[[], HttpReply]] = {
            "fails": lambda: HttpReply(500, refusal=Refusal("server_error", "no", 500), billing="nothing"),
            "refuses": lambda: HttpReply(429, refusal=Refusal("rate_limited", "no", 429), billing="nothing"),
            "hangs_up": lambda: HttpReply(0, refusal=Refusal("disconnected", "no"), billing="nothing", is_stale=True),
            "hangs": lambda: HttpReply(0, refusal=Refusal("timeout", "no"), billing="worst"),
            "cuts": lambda: HttpReply(200, refusal=Refusal("disconnected", "no", 200), billing="worst"),
            "talks": lambda: HttpReply(200, b"<html>what?</html>"),
            "errs_inside": lambda: HttpReply(200, b'{"error": {"code": 502, "message": "upstream"}}'),
        }
        return replies.get(habit, lambda: HttpReply(200, json.dumps(document).encode()))()


HONEST = [
    "answers",
    "answers",
    "counts_nothing",
    "counts_zero",
    "counts_less_than_zero",
    "counts_words",
    "counts_cached",
    "ends_badly",
    "fails",
    "refuses",
    "hangs_up",
    "hangs",
    "cuts",
    "talks",
    "errs_inside",
]
N_QUESTIONS = 24


def _pool(folder: Path, chance: random.Random) -> PoolConfig:
    lines = {}
    for place in range(chance.randint(1, 3)):
        prices = f"input = {10 ** chance.uniform(-1, 1):.3f}, output = {10 ** chance.uniform(-1, 2):.3f}"
        lines["abc"[place]] = (
            f'tier = "{["small", "medium", "large"][place]}"\nmax_in_flight = {chance.choice([1, 8, 64])}\n'
            f'price_usd_per_mtok = {{{prices}, date = "2026-11-01", source = "x"}}\ndeadline_s = 0.3'
        )
    return write_pool(folder, lines)


def _with_day_cap(path: Path, usd: float) -> Path:
    path.write_text(f"{path.read_text('utf-8')}\n[budget]\nmax_usd_per_day = {usd}\n", "utf-8")
    return path


async def _session(
    pool: PoolConfig,
    server: Server,
    folder: Path,
    cap_usd: float | None,
    question_cap_usd: float | None,
    n_calls: float,
) -> Path:
    """One process: all questions asked, 16 at a time, until the server has had `n_calls` calls; then it is killed. What
    lay on disk then."""
    server.n_left, server.is_time = n_calls, asyncio.Event()
    after = folder.with_name(f"{folder.name}+")
    (folder / "state").mkdir(parents=True, exist_ok=True)
    with Journal.open(folder / "calls.journal") as journal:
        client = PoolClient(
            pool,
            {name: Address(f"http://127.0.0.1:9/{name}", name) for name in pool.models},
            state_dir=folder / "state",
            run_account="run:x" if cap_usd is not None else None,
            max_cost_usd=cap_usd,
            already_spent_usd=paid_usd(journal),
            times=Times(first_pause_s=0.0005, max_pause_s=0.002, refused_open_s=0.02, failing_open_s=60.0),
        )
        client._exchange = server  # type: ignore[assignment]
        numbers = iter(range(N_QUESTIONS))

        async def work() -> None:
            for number in numbers:
                asked = call(f"q{number} {'🜁' * (number % 7) + 'x' * number}", max_cost_usd=question_cap_usd)
                await client.complete(asked, problem_id=f"q{number}", journal=journal)

        async with client:
            work_in_hand = asyncio.gather(*(work() for _ in range(16)))
            killed = asyncio.ensure_future(server.is_time.wait())
            done, _ = await asyncio.wait([work_in_hand, killed], return_when=asyncio.FIRST_COMPLETED)
            shutil.copytree(folder, after)  # nothing is written between this and the end: one thread, no await
            if work_in_hand in done:
                work_in_hand.result()
            for task in (work_in_hand, killed):
                task.cancel()
            await asyncio.gather(work_in_hand, killed, return_exceptions=True)
    return after


@pytest.mark.parametrize("chunk", [0, 1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 9))])
def test_spent_never_passes_a_cap_whatever_the_server_does_and_whenever_the_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
):
    """Thirty runs a chunk, each with a server of its own habits and up to four kills."""
    process = {"now": 0}
    monkeypatch.setattr(shares_module, "new_holder", lambda purpose: f"{process['now']}:then:{purpose}")
    monkeypatch.setattr(lease_module, "_is_alive", lambda holder: holder.startswith(f"{process['now']}:"))
    monkeypatch.setattr(client_module.random, "uniform", lambda low, high: 0.0)
    violations, n_kills = [], 0
    for seed in range(30 * chunk, 30 * chunk + 30):
        chance = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        pool = _pool(folder, chance)
        prices = {name: pool.price(name) for name in pool.models}
        # A call of the cheapest entry costs about this; caps are for one to thirty of them.
        call_usd = min(200 * price.input + 16 * price.output for price in prices.values()) / 1e6
        cap_usd, cap_per_day_usd = (
            call_usd * 30 ** chance.random() if chance.random() < share else None for share in (0.7, 0.5)
        )
        question_cap_usd = call_usd * 4 ** chance.random() if chance.random() < 0.5 else None
        if cap_per_day_usd is not None:
            pool = load_pool(_with_day_cap(pool.path, cap_per_day_usd))
        habits = chance.sample(HONEST, chance.randint(1, 6))
        if is_greedy := chance.random() < 0.3:
            habits.append("overbills")
        server = Server(chance, prices, habits, chance.choice([0.0, 0.002]))
        n_sessions = chance.randint(1, 5)
        place = folder / "0"
        for session in range(n_sessions):
            process["now"] += 1
            server.has_overbilled.clear()
            n_calls = math.inf if session == n_sessions - 1 else chance.randint(1, 20)
            n_kills += session < n_sessions - 1
            place = asyncio.run(_session(pool, server, place, cap_usd, question_cap_usd, n_calls))
        # Of a server that bills beyond what was asked, what it billed so is beyond the rule; how often is not.
        within_usd = server.bill_usd - server.overrun_usd
        for what, cap in (("run", cap_usd), ("day", cap_per_day_usd)):
            if cap is not None and within_usd > cap + 1e-9:
                violations.append((seed, what, within_usd, cap))
        if question_cap_usd is not None and not is_greedy:
            violations += [
                (seed, question, usd, question_cap_usd)
                for question, usd in server.by_question.items()
                if usd > question_cap_usd + 1e-9
            ]
        is_capped = any(cap is not None for cap in (cap_usd, question_cap_usd, cap_per_day_usd))
        if is_greedy and is_capped and server.n_too_many:
            violations.append((seed, "closed", server.n_too_many, 0))
        shutil.rmtree(folder)
    assert violations == []
    assert n_kills > 20

"""The simulated models asked in this process: no HTTP, no journal, no waiting.

`InProcess` answers a call as the server of r2/pool/simulated would, counted and priced likewise. The same request has
the same answer, so replies are kept. Left out: latency, faults, limits, retries, and what storage does with a call.
"""

import time
from dataclasses import replace

import orjson

from r2.answering.programs import code_of, ran_program
from r2.answering.protocol import Solving, Trajectory
from r2.call import Attempt, Call, Completion
from r2.ledger import cost_usd
from r2.pool.client.wire import BadBody, parse_body, request_body
from r2.pool.file.config import PoolConfig
from r2.pool.simulated.server import Conditions, SimulatedServer
from r2.problem import Problem
from r2.problems.sandbox import run_program


class InProcess:
    """The models of a pool file. `seed`: of their answers."""

    def __init__(self, pool: PoolConfig, seed: int = 0, certainty_noise: float | None = None) -> None:
        self._pool, self._server = pool, SimulatedServer(pool, Conditions(seed, faults={}))
        if certainty_noise is not None:
            models = self._server.models
            self._server.models = {name: replace(its, certainty_noise=certainty_noise) for name, its in models.items()}
        self._prices = {card.name: card.price for card in pool.roster().by_name.values()}
        self._known: dict[tuple[object, ...], Completion] = {}

    def complete(self, call: Call) -> Completion:
        """What the call comes to."""
        key = (
            call.model,
            call.messages,
            call.max_output_tokens,
            call.temperature,
            call.seed,
            call.sample_index,
            call.top_logprobs,
            call.purpose == "program",
        )
        if key not in self._known:
            self._known[key] = _ran(call) if call.purpose == "program" else self._replied(call)
        return self._known[key]

    def _replied(self, call: Call) -> Completion:
        table = self._pool.models[call.model]
        body = orjson.loads(request_body(call, table, table.endpoint.partition(":")[2]))
        parsed = parse_body(orjson.dumps(self._server.complete(body)[1]))
        assert not isinstance(parsed, BadBody) and parsed.usage is not None
        cost = cost_usd(self._prices[call.model], parsed.usage)
        attempt = Attempt(call.model, 0, 200, 0.0, usage=parsed.usage, cost_usd=cost)
        return Completion(parsed.text, call.model, (attempt,), parsed.finish_reason, parsed.token_logprobs)

    def play(self, problem: Problem, solving: Solving) -> Trajectory:
        """Runs a way to answer to its end."""
        waves = []
        try:
            wave = next(solving)
            while True:
                completions = [self.complete(call) for call in wave]
                waves.append(tuple(zip(wave, completions, strict=True)))
                wave = solving.send(completions)
        except StopIteration as end:
            return Trajectory(problem, end.value, tuple(waves))


def _ran(call: Call) -> Completion:
    started = time.time()
    return ran_program(call, run_program(code_of(call.messages)), started, time.time() - started)

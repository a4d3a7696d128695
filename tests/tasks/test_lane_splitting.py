"""How waiting calls are cut into jobs, as a property: whatever the limits and the calls' sizes, each call is answered
once, and no job is above what the provider takes. (The provider in memory refuses any that is.)"""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r2.call import Call
from r2.pool.batch.protocol import BatchLimits
from tests.support.fake_batches import FakeBatches
from tests.tasks.test_lanes import Run

LIMITS = st.builds(
    BatchLimits,
    max_rows=st.integers(1, 30),
    max_bytes=st.integers(600, 8000),
    line_overhead_bytes=st.integers(0, 200),
    job_overhead_bytes=st.integers(0, 300),
    max_queued_tokens=st.none() | st.integers(60, 2000),
    listing_lag_s=st.just(0.0),
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(limits=LIMITS, sizes=st.lists(st.integers(1, 1500), min_size=1, max_size=30))
def test_every_call_is_in_one_job_within_the_limits_or_goes_live(limits: BatchLimits, sizes: list[int]):
    fake = FakeBatches(limits)

    async def ask(one: Run) -> list[str]:
        async with one.session() as (lanes, journal):
            calls = [Call("a", (("user", f"{place} " + "x" * size),), "solve", 16) for place, size in enumerate(sizes)]
            done = await asyncio.gather(
                *(lanes.complete(each, problem_id=f"p{place}", journal=journal) for place, each in enumerate(calls))
            )
            return [each.text for each in done]

    with tempfile.TemporaryDirectory() as folder:
        one = Run(Path(folder), fake)
        assert asyncio.run(ask(one)) == ["4"] * len(sizes)
    assert fake.ran.total() + one.n_live == len(sizes)
    assert fake.ran.total() == len(fake.ran), "no line ran twice"
    for job in fake.jobs.values():
        n_bytes = sum(len(line.body) + limits.line_overhead_bytes for line in job.lines)
        assert 1 <= len(job.lines) <= limits.max_rows and n_bytes + limits.job_overhead_bytes <= limits.max_bytes
        assert limits.max_queued_tokens is None or job.facts.n_tokens <= limits.max_queued_tokens

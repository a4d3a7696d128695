"""The nightly loop, three nights: with a pool where one model got worse and dearer it promotes a version that wins,
with an unchanged pool it keeps the old one, and without new traffic it does nothing.

    python benchmarks/prove_refresh.py [--questions N] [--keep FOLDER]

Simulated models answer arithmetic questions; the traffic of each night is asked of a random entry, and checked. Exits 1
where a night did not end as it must.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import uvloop

from flows.support.embedded_api import embedded_api
from r2.policies.registry import Registry
from r2.problems import arithmetic
from r2.settings import AnswerSettings
from r2.training.refresh.settings import RefreshSettings
from storage.sources.problem_files import row_of
from tasks.training.refresh_round import RoundResult

WORSE = "sim-14b"
"""The entry that the first night's version relies on, and that gets worse and dearer after it."""
ENTRIES = {"sim-4b": (2.2, 0.04, 0.1), WORSE: (4.6, 0.15, 0.4), "sim-120b": (5.4, 1.2, 4.0)}
"""Ability; USD per million tokens in and out."""
CHANGED = {**ENTRIES, WORSE: (-1.0, 0.27, 0.72)}
_TIERS = ("small", "medium", "large")


def pool_text(entries: dict[str, tuple[float, float, float]]) -> str:
    """A pool file of simulated models that answer at once."""
    parts = ['[router]\ndecomposer = "sim-4b"\nallocator = "sim-4b"\n']
    for tier, (name, (ability, price_in, price_out)) in zip(_TIERS, entries.items(), strict=True):
        parts.append(
            f'[models."{name}"]\nendpoint = "simulated:{name}"\ntier = "{tier}"\nlogprobs = true\n'
            f"price_usd_per_mtok = {{input = {price_in}, output = {price_out}, "
            'date = "2026-11-24", source = "made up"}\n'
            f"simulated = {{ability = {ability}, ttft_s = 0.0, tokens_per_s = 1e9}}\n"
        )
    return "\n".join(parts)


def nights(folder: Path, n: int) -> Iterator[tuple[str, RoundResult]]:
    """(what the night was, how its loop ended). Prefect's API has to run."""
    from flows.answer_questions import answer_questions
    from flows.refresh_router import refresh_router

    pool, lake = folder / "pool.toml", folder / "lake"
    settings = RefreshSettings(
        pool=str(pool),
        lake=str(lake),
        policies_dir=str(folder / "policies"),
        n_questions=n,
        least=min(n, 80),
        max_cost_usd=5.0,
        least_gain=0.001,  # a scorer that weighs evidence loses little by a bad entry: the loop is shown, not its floor
    )

    def traffic(seed: int) -> None:
        questions = folder / f"night-{seed}.jsonl"
        rows = (row_of(problem) | {"id": f"night-{seed}-{i}"} for i, problem in enumerate(arithmetic.generate(n, seed)))
        questions.write_bytes(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))
        asked = {"input": str(questions), "pool": str(pool), "lake": str(lake), "reasoning": {"method": "random"}}
        uvloop.run(answer_questions(AnswerSettings.model_validate(asked)))

    pool.write_text(pool_text(ENTRIES), "utf-8")
    traffic(1)
    yield "the first night", uvloop.run(refresh_router(settings))
    pool.write_text(pool_text(CHANGED), "utf-8")
    traffic(2)
    yield f"{WORSE} got worse and dearer", uvloop.run(refresh_router(settings))
    traffic(3)
    yield "an unchanged pool", uvloop.run(refresh_router(settings))
    yield "no new traffic", uvloop.run(refresh_router(settings))


EXPECTED: dict[str, Callable[[RoundResult], bool]] = {
    "the first night": lambda r: r.is_promoted,
    f"{WORSE} got worse and dearer": lambda r: r.is_promoted and float((r.decision or {})["low"]) > 0,
    "an unchanged pool": lambda r: r.decision is not None and not r.is_promoted,
    "no new traffic": lambda r: r.decision is None and r.reason.startswith("nothing to do"),
}


def main() -> int:
    """Prints a line for each night; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=400, help="a night")
    parser.add_argument("--keep", type=Path, help="folder for the lake and the registry; else they are thrown away")
    given = parser.parse_args()
    n_wrong = 0
    with tempfile.TemporaryDirectory() as draft, embedded_api():
        folder = given.keep or Path(draft)
        folder.mkdir(parents=True, exist_ok=True)
        for what, result in nights(folder, given.questions):
            is_as_expected = EXPECTED[what](result)
            n_wrong += not is_as_expected
            print(f"{'ok' if is_as_expected else 'NOT AS IT MUST BE'}: {what}: {result.policy or '-'}: {result.reason}")
            for name, value in result.figures.items():
                print(f"    {name}: {value:.6g}")
        print(f"promoted in the end: {Registry(folder / 'policies').load('scorer').ref}")
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())

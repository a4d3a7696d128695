"""Asks every entry of a pool every question of a benchmark once, and keeps each reply as a recording.

    python benchmarks/record.py gsm8k:gsm8k.jsonl --sample 400
    python benchmarks/record.py csqa:csqa.jsonl --entries qwen-1.5b,qwen-1.5b-cot --minutes 60

`--sample N` takes N questions of each file, the same ones every time: those whose hashes come first. The questions are
in `benchmarks/recorded/BENCHMARK.questions.jsonl.gz`. One part per benchmark and entry, `BENCHMARK.ENTRY.jsonl.gz`, is
written when all its questions are answered: the replies by what was asked (`r2/pool/file/recording.py`), with
log-probabilities where the endpoint has them, and with each the question's id and whether the answer was right. What
was answered before a stop, a kill or `--minutes` is in a journal in `--work`; the same command goes on there. A reply
at its token limit is kept as it is, and counted.

On a GPU: `--asked FILE` asks nobody and writes what the questions ask first; benchmarks/gguf_replies.py answers it in
large batches; `--replies FILE` records from its replies in place of servers on this machine.

    python benchmarks/record.py gsm8k:gsm8k.jsonl --sample 400 --rejudge

`--rejudge` asks no model: it answers again from the replies of the parts that are there, and writes down who is right.
For parts that were recorded before a change to how a reply is read.

    python benchmarks/record.py scan:scan.jsonl --pool pools/specialists.toml --plans --entries scan-specialist

`--plans` has each question split by the pool's decomposer, and the entry answers every step: parts `ENTRY-plans`. With
`--gold-plans` the rows' own decompositions stand in the decomposer's place: what the best plans would come to.
"""

import argparse
import asyncio
import gzip
import hashlib
import itertools
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from pathlib import Path

import orjson

from benchmarks.reply_server import Replies, in_place_of_local, read_replies
from r2.answering.drive import drive, drive_all
from r2.answering.protocol import Router, Trajectory
from r2.atomic import replacing
from r2.call import Call, Completion, TokenLogprob
from r2.errors import EndpointError, InputFileError, R2Error
from r2.methods import confidence_cascade, decompose_one, method_named
from r2.methods.router import make_router
from r2.plan import Plan, format_plan
from r2.pool.client.client import PoolClient
from r2.pool.file.config import PoolConfig, load_pool
from r2.pool.file.identity import answering_digests
from r2.pool.file.recording import recorded_pool
from r2.pool.opening import open_client
from r2.problem import Problem
from r2.problems.source import Source, parse_source
from r2.problems.split import split_of
from r2.settings import AnswerSettings, Reasoning
from storage.runs.journal import Journal
from storage.sources.problem_files import gold_plans_of, problems_of, row_of
from tasks.blocking import Checks

OUT = Path(__file__).parent / "recorded"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="NAME:FILE of a benchmark, as in r2 evaluate")
    parser.add_argument("--sample", type=int, help="so many questions of each [default: all]")
    parser.add_argument("--held-out", type=float, help="only the side of a split of this share that no training sees")
    parser.add_argument("--pool", default="pools/local.toml")
    parser.add_argument("--entries", help="NAME,... [default: every entry that answers]")
    parser.add_argument("--cot-tokens", type=int, default=320)
    parser.add_argument("--in-flight", type=int, default=4)
    parser.add_argument("--minutes", type=float, help="stop then; the same command goes on [default: to the end]")
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.add_argument("--work", type=Path, default=Path("recording"), help="folder of the journals")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--asked", type=Path, help="asks nobody; writes the first requests of all questions there")
    parser.add_argument("--replies", type=Path, help="of benchmarks/gguf_replies.py, in place of local servers")
    parser.add_argument("--plans", action="store_true", help="the entries answer the steps of the decomposer's plans")
    parser.add_argument("--gold-plans", action="store_true", help="the same with the gold plans of the rows")
    parser.add_argument("--rejudge", action="store_true", help="judge the recorded replies again; no model is asked")
    given = parser.parse_args()
    if given.held_out is not None and not 0 < given.held_out < 1:
        parser.error(f"--held-out {given.held_out}: expected a share between 0 and 1")
    try:
        pool = load_pool(given.pool)
        entries = given.entries.split(",") if given.entries else list(pool.models)
        for name in entries:
            pool.roster().require(name)
        given.work.mkdir(parents=True, exist_ok=True)
        given.out.mkdir(parents=True, exist_ok=True)
        if given.rejudge:
            return asyncio.run(rejudge(given, pool, entries))
        if given.asked:
            return asyncio.run(write_asked(given, pool, entries))
        ends_at = time.monotonic() + 60 * given.minutes if given.minutes else float("inf")
        return asyncio.run(record(given, pool, entries, ends_at))
    except R2Error as error:
        sys.stderr.write(f"{error}\n")
        return 2


async def record(given: argparse.Namespace, pool: PoolConfig, entries: list[str], ends_at: float) -> int:
    """Every part in turn; 1 where the time ended before the last."""
    async with AsyncExitStack() as stack:
        asked_at, replies = pool, Replies(read_replies(given.replies) if given.replies else {})
        if given.replies:
            asked_at = await stack.enter_async_context(in_place_of_local(pool, replies))
        client = await stack.enter_async_context(client_of(given, asked_at))
        for text, entry in itertools.product(given.sources, entries):
            source = parse_source(text)
            name = part_name(given, source.name, entry)
            part = given.out / f"{name}.jsonl.gz"
            problems = questions_of(given, source)
            write_lines(given.out / f"{source.name}.questions.jsonl.gz", map(row_of, problems))
            router = router_of(given, pool, entry)
            if part.exists():
                refuse_foreign(part, entry, pool, problems, router)
                if recorded_ids(part) == [problem.problem_id for problem in problems]:
                    continue
            began = time.monotonic()
            gold = gold_of(source, problems) if given.gold_plans else {}
            with Journal.open(given.work / f"{name}.journal") as journal:
                found = await asked(problems, router, client, journal, given.in_flight, ends_at, gold)
            if replies.n_without:
                raise InputFileError(
                    f"{given.replies}: no reply of {entry} to {replies.n_without} of the requests of {source.name}. "
                    "Ask them: --asked writes them all down."
                )
            done = f"{name}: {len(found)} of {len(problems)} questions, {time.monotonic() - began:.0f} s"
            if len(found) < len(problems):
                sys.stdout.write(f"{done}. Run the same command again to go on.\n")
                return 1
            write_part(part, Path(given.pool).read_text("utf-8"), [found[p.problem_id] for p in problems])
            n_right = sum(bool(one.is_correct) for one in found.values())
            n_cut = sum(any(said.finish_reason == "length" for _, said in calls_of(one)) for one in found.values())
            sys.stdout.write(f"{done}, {n_right} right, {n_cut} at their token limit -> {part}\n")
            sys.stdout.flush()
    return 0


def client_of(given: argparse.Namespace, pool: PoolConfig) -> AbstractAsyncContextManager[PoolClient]:
    work = given.work
    return open_client(
        pool, models_dir=given.models_dir, log_dir=work / "logs", state_dir=work / "state", stands_in=False
    )


async def write_asked(given: argparse.Namespace, pool: PoolConfig, entries: list[str]) -> int:
    """One JSON line for each request that the questions ask first, each once."""
    replies = Replies(None)
    async with in_place_of_local(pool, replies) as at_nobody, client_of(given, at_nobody) as client:
        for text, entry in itertools.product(given.sources, entries):
            router = router_of(given, pool, entry)
            method = method_named(router.settings.method)
            for problem in questions_of(given, parse_source(text)):
                for call in next(method.run(problem, router)):
                    await client.complete(call, problem_id=problem.problem_id)
    given.asked.write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in replies.asked.values()))
    sys.stdout.write(f"{len(replies.asked)} requests -> {given.asked}\n")
    return 0


async def rejudge(given: argparse.Namespace, pool: PoolConfig, entries: list[str]) -> int:
    """Every part that is there, answered again from its own replies."""
    for text, entry in itertools.product(given.sources, entries):
        source = parse_source(text)
        name = part_name(given, source.name, entry)
        part = given.out / f"{name}.jsonl.gz"
        if not part.exists():
            continue
        router = router_of(given, pool, entry)
        problems = questions_of(given, source)
        refuse_foreign(part, entry, pool, problems, router)
        replies, n_were_right = replies_in(part)
        if missing := {problem_id for problem_id, _ in replies} - {problem.problem_id for problem in problems}:
            raise InputFileError(
                f"{part}: {len(missing)} of its questions are not among these. Give it its own --sample."
            )
        found = [await answered_again(problem, router, replies, part) for problem in problems]
        n_right = sum(bool(one.is_correct) for one in found)
        write_part(part, recorded_pool(part), found)
        sys.stdout.write(f"{name}: {n_right} right, {n_were_right} before -> {part}\n")
    return 0


async def answered_again(
    problem: Problem, router: Router, replies: Mapping[tuple[str, str], Completion], part: Path
) -> Trajectory:
    async def complete(call: Call) -> Completion:
        try:
            return replies[problem.problem_id, call.request_sha()]
        except KeyError:
            what = f"{part}: has no reply to a call for {problem.problem_id} ({call.purpose})"
            raise InputFileError(f"{what}. Move it away, and it is recorded anew.") from None

    return await drive(problem, method_named(router.settings.method).run(problem, router), complete)


def replies_in(part: Path) -> tuple[dict[tuple[str, str], Completion], int]:
    """The replies of a part by question and what was asked, and how many of its questions were answered right."""
    replies: dict[tuple[str, str], Completion] = {}
    is_right: dict[str, bool] = {}
    with gzip.open(part) as file:
        for line in itertools.islice(file, 1, None):
            record = orjson.loads(line)
            completion = Completion.from_bytes(orjson.dumps(record["completion"]))
            replies[record["problem_id"], record["request_sha"]] = completion
            is_right[record["problem_id"]] = bool(record["is_correct"])
    return replies, sum(is_right.values())


def questions_of(given: argparse.Namespace, source: Source) -> list[Problem]:
    problems = list(problems_of(source, None, 0))
    if given.held_out:
        problems = [problem for problem in problems if split_of(problem.question, 0, given.held_out) == "test"]
    if not problems:
        raise InputFileError(f"{source}: no question is left to record. Give more rows, or another --held-out.")
    return sample(problems, given.sample)


def sample(problems: list[Problem], n: int | None) -> list[Problem]:
    """The `n` problems whose questions have the smallest hashes, in the order of the file; None: all."""
    chosen = {p.problem_id for p in sorted(problems, key=question_sha)[:n]}
    return [problem for problem in problems if problem.problem_id in chosen]


def question_sha(problem: Problem) -> str:
    return hashlib.sha256(problem.question.encode()).hexdigest()


def gold_of(source: Source, problems: list[Problem]) -> dict[str, Plan]:
    """The gold plans of these problems, by id. InputFileError where one has none: nobody is to split it unasked."""
    gold = {problem.problem_id: plan for problem, plan in gold_plans_of(source, None, 0)}
    if without := [problem.problem_id for problem in problems if problem.problem_id not in gold]:
        raise InputFileError(
            f"{source}: {len(without)} of {len(problems)} questions have no gold plan, as {without[0]}. Give rows with "
            "decompositions, or leave --gold-plans out."
        )
    return gold


def part_name(given: argparse.Namespace, benchmark: str, entry: str) -> str:
    return f"{benchmark}.{entry}{'-gold' if given.gold_plans else '-plans' if given.plans else ''}"


def router_of(given: argparse.Namespace, pool: PoolConfig, entry: str) -> Router:
    """What asks this entry alone, with log-probabilities: a confidence cascade of one model. With `--plans`, what has
    it answer every step of a plan."""
    if given.plans or given.gold_plans:
        reasoning = Reasoning(method=decompose_one.METHOD.name, model=entry, cot_tokens=given.cot_tokens)
    else:
        reasoning = Reasoning(method=confidence_cascade.METHOD.name, chain=(entry,), cot_tokens=given.cot_tokens)
    return make_router(pool, AnswerSettings(input="", pool=given.pool, reasoning=reasoning))


def calls_of(trajectory: Trajectory) -> Iterator[tuple[Call, Completion]]:
    return itertools.chain.from_iterable(trajectory.waves)


async def asked(
    problems: list[Problem],
    router: Router,
    client: PoolClient,
    journal: Journal,
    in_flight: int,
    ends_at: float,
    gold: Mapping[str, Plan],
) -> dict[str, Trajectory]:
    """The trajectories of all problems that were answered in time, by id, each answer checked. A problem with a `gold`
    plan is not split by anybody."""
    method = method_named(router.settings.method)
    found: dict[str, Trajectory] = {}
    checks = Checks()

    async def answer(problem: Problem) -> None:
        async def complete(call: Call) -> Completion:
            if call.purpose == "decompose" and problem.problem_id in gold:
                return Completion(format_plan(gold[problem.problem_id]), call.model, (), "stop")
            return await client.complete(call, problem_id=problem.problem_id, journal=journal)

        if time.monotonic() > ends_at:
            return
        trajectory = await drive(problem, method.run(problem, router), complete)
        if trajectory.outcome.status == "deferred":
            why = f"{trajectory.outcome.error_type}: {trajectory.outcome.error_message}"
            raise EndpointError(f"{problem.problem_id} was not answered: {why}. Run the same command again to go on.")
        await checks.run(lambda: trajectory.is_correct)
        found[problem.problem_id] = trajectory

    await drive_all(problems, answer, slots=asyncio.Semaphore(in_flight), max_workers=in_flight)
    checks.close()
    return found


def write_part(path: Path, pool_text: str, found: list[Trajectory]) -> None:
    """One line for each call, after the pool file's text."""
    write_lines(path, itertools.chain([{"pool": pool_text}], lines_of(found)))


def write_lines(path: Path, lines: Iterable[Mapping[str, object]]) -> None:
    with replacing(path) as plain, gzip.GzipFile(filename="", mode="wb", fileobj=plain, mtime=0) as file:
        for line in lines:
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def lines_of(found: list[Trajectory]) -> Iterator[dict[str, object]]:
    """What is kept of each call: no body as it came, and of each token four decimals and not the alternative, which is
    the token itself. A third of the size."""
    for trajectory in found:
        for call, completion in calls_of(trajectory):
            logprobs = tuple(TokenLogprob(one.token, round(one.logprob, 4)) for one in completion.token_logprobs)
            attempts = tuple(replace(attempt, raw_body=b"") for attempt in completion.attempts)
            kept = replace(completion, token_logprobs=logprobs, attempts=attempts)
            yield {
                "request_sha": call.request_sha(),
                "completion": orjson.Fragment(kept.to_bytes()),
                "problem_id": trajectory.problem.problem_id,
                "purpose": call.purpose,
                "is_correct": trajectory.is_correct,
            }


def refuse_foreign(path: Path, entry: str, pool: PoolConfig, problems: list[Problem], router: Router) -> None:
    """InputFileError for a part that was recorded with another model under this name, or asked in another way."""
    with tempfile.TemporaryDirectory() as folder:
        of_part = Path(folder) / "pool.toml"
        of_part.write_text(recorded_pool(path), "utf-8")
        then = answering_digests(load_pool(of_part))
    now = answering_digests(pool)
    for name in (entry, router.decomposer) if router.settings.method == decompose_one.METHOD.name else (entry,):
        if then.get(name) != now[name]:
            raise InputFileError(
                f"{path}: recorded with another pool, whose {name} is another model. Move it away, or record with "
                "--out elsewhere."
            )
    asked = recorded_calls(path)
    for problem in problems:
        if problem.problem_id not in asked:
            continue
        first = next(method_named(router.settings.method).run(problem, router))
        if not {call.request_sha() for call in first} & asked[problem.problem_id]:
            raise InputFileError(
                f"{path}: {problem.problem_id} was asked in another way: by another version of the prompts, or with "
                "another --cot-tokens. Move it away, and it is recorded anew."
            )


def recorded_ids(path: Path) -> list[str]:
    """Ids of the questions of a part, in its order. InputFileError for one that is cut or no recording."""
    return list(recorded_calls(path))


def recorded_calls(path: Path) -> dict[str, set[str]]:
    """What was asked for each question of a part (`Call.request_sha`), in its order. Errors as `recorded_ids`."""
    found: dict[str, set[str]] = {}
    try:
        with gzip.open(path) as file:
            for line in itertools.islice(file, 1, None):
                record = orjson.loads(line)
                found.setdefault(record["problem_id"], set()).add(record["request_sha"])
        return found
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise InputFileError(
            f"{path}: no whole recording ({error!r}). Move it away, and it is recorded anew."
        ) from error


if __name__ == "__main__":
    sys.exit(main())

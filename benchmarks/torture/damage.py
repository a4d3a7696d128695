"""Torn, flipped, foreign and linked files in a lake, in the journal of a killed run, and in the registry of policies.

A finished lake is damaged in one file at a time: either `r2 lake verify` names the file or every row is read as it was;
a reader gives those rows or an error of ours. The journal of a killed run is damaged before the same command goes on:
either it is refused by name, or each call that is paid again is among those that the run says were lost, and what was
lost counts as paid.
"""

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.torture.figures import Row
from benchmarks.torture.world import ROOT, World, answer_command, check_lake, settled, write_questions
from r2.errors import ConfigError, R2Error
from r2.policies.registry import Registry
from storage.evaluations.verify import verify_lake
from storage.runs.journal_mark import mark_of, read_mark

Harm = Callable[[Path, random.Random], object]
PRECIOUS = b"somebody else's"


def torn(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))] if content else b"x")


def flipped(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content or b"x")


def foreign(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.randbytes(chance.randint(1, 5000)))


def linked(path: Path, chance: random.Random) -> None:
    """A link to a file of somebody else's, beside the lake."""
    target = path.parent / f"{path.name}.precious"
    target.write_bytes(PRECIOUS)
    path.unlink()
    path.symlink_to(target)


def linked_away(path: Path, chance: random.Random) -> None:
    """A link to the file itself, which now lies outside the lake."""
    outside = next(parent for parent in path.parents if parent.name == "lake").parent / f"outside-{path.name}"
    path.replace(outside)
    path.symlink_to(outside)


def gone(path: Path, chance: random.Random) -> None:
    path.unlink()


HARMS: dict[str, Harm] = {
    "torn": torn,
    "flipped": flipped,
    "foreign": foreign,
    "linked": linked,
    "linked away": linked_away,
    "gone": gone,
}


def first_change(whole: bytes, harmed: bytes) -> int:
    """Offset of the first byte that is another one, or not there any more."""
    pairs = enumerate(zip(whole, harmed, strict=False))
    return next((place for place, (old, new) in pairs if old != new), min(len(whole), len(harmed)))


def lake_files(world: World, n_times: int) -> Row:
    """Any file of a finished lake."""
    row = Row("damaged lake", f"a drawn file {', '.join(HARMS)}", times=n_times)
    folder = world.fresh("damaged lake")
    write_questions(folder / "q.jsonl", 60)
    ended = world.run(answer_command(shard_size=20), folder)
    row.needs(ended.code == 0, ended.said[-300:])
    lake = folder / "lake"
    whole = settled(lake)
    files = sorted(path.relative_to(lake) for path in lake.rglob("*") if path.is_file() and path.stat().st_size)
    chance = world.chance
    for place in range(n_times):
        name, harm = chance.choice(list(HARMS.items()))
        path = chance.choice(files)
        copy = folder / "copy" / "lake"
        shutil.rmtree(copy.parent, ignore_errors=True)
        shutil.copytree(lake, copy)
        harm(copy / path, chance)
        told = f"{path} {name} (the {place}th)"
        try:
            wrong = verify_lake(copy)
        except R2Error as error:
            wrong = [str(error)]
        except Exception as error:
            row.broken.append(f"{told}: verify ended with {type(error).__name__}: {error}")
            continue
        try:
            is_same = settled(copy) == whole
        except R2Error:
            is_same = bool(wrong)  # refused, and named
            row.needs(is_same, f"{told}: not read, and verify finds nothing wrong")
        except Exception as error:
            row.broken.append(f"{told}: reading ended with {type(error).__name__}: {error}")
            continue
        row.needs(is_same or bool(wrong), f"{told}: other rows, and verify finds nothing wrong")
    return row


def journals(world: World, n_times: int) -> Row:
    """The journal, its mark, the plan or the questions of a run that was killed in mid work."""
    row = Row("damaged run", "journal, mark, plan or shard of a killed run damaged", times=n_times)
    folder = world.fresh("damaged run")
    write_questions(folder / "q.jsonl", 100)
    expected = world.expected(100)
    for place in range(n_times):
        here = folder / str(place)
        here.mkdir()
        for name in ("q.jsonl", "pool.toml"):
            shutil.copy(folder / name, here / name)
        before, first, bill_usd = Counter(world.server.paid), world.server.n_requests, world.server.bill_usd
        process = world.start(answer_command(shard_size=50), here)
        began, until = time.monotonic(), first + world.chance.randint(100, 300)
        while world.server.n_requests < until and process.poll() is None and time.monotonic() < began + 120:
            time.sleep(0.002)
        in_flight = world.server.in_flight()
        process.kill()
        process.wait()
        run = next((here / "lake" / "_runs").iterdir())
        journal = next(iter(sorted((run / "journal").glob("*.journal"))), None)
        kinds = [run / "manifest.json", next(iter(sorted((run / "shards").glob("*"))))]
        kinds += [journal, journal, journal, mark_of(journal)] if journal is not None else []
        path = world.chance.choice([one for one in kinds if one.exists()])
        name, harm = world.chance.choice(list(HARMS.items()))
        is_said = True
        if path == journal:
            known, whole = read_mark(path), path.read_bytes()
        harm(path, world.chance)
        if path == journal and path.exists():  # notes of the last moment are beyond what the mark knows of
            is_said = first_change(whole, path.read_bytes()) < known.written
        told = f"{path.name} {name} ({place})"
        ended = world.run(answer_command(shard_size=50), here)
        row.needs("Traceback" not in ended.said, f"{told}: a traceback: {ended.said[-400:]}")
        precious = path.parent / f"{path.name}.precious"
        row.needs(not precious.exists() or precious.read_bytes() == PRECIOUS, f"{told}: the link was written through")
        if ended.code == 0:
            n_twice, n_before = (world.server.paid - before - expected).total(), row.in_flight
            row.twice += n_twice
            check_lake(row, here / "lake", 100, world.server.bill_usd - bill_usd)
            row.in_flight += in_flight * (not is_said)
            n_lost = row.in_flight - n_before
            row.needs(n_twice <= n_lost, f"{told}: {n_twice} calls were paid again, {n_lost} are said to be lost")
        else:
            row.needs(path.name in ended.said or run.name in ended.said, f"{told}: not named: {ended.said[-300:]}")
    return row


def registry(world: World, n_times: int) -> Row:
    """A version of a policy, of which one file is damaged: refused by name, or the same as it was."""
    row = Row("damaged registry", f"a drawn file of a policy {', '.join(HARMS)}", times=n_times)
    folder = world.fresh("damaged registry")
    origin = ROOT / "policies" / "tiny-allocator"
    files = sorted(path.relative_to(origin) for path in origin.rglob("*") if path.is_file())
    card = Registry(origin.parent).load("tiny-allocator").card
    for place in range(n_times):
        name, harm = world.chance.choice(list(HARMS.items()))
        path = world.chance.choice(files)
        copy = folder / str(place) / "lake" / "tiny-allocator"
        shutil.copytree(origin, copy)
        harm(copy / path, world.chance)
        told = f"{path} {name} ({place})"
        try:
            policy = Registry(copy.parent).load("tiny-allocator")
            policy.check_files()
            is_same = policy.card == card
            row.needs(is_same or path.name in ("card.json", "history.jsonl"), f"{told}: another policy is loaded")
        except ConfigError as error:
            row.needs(bool(str(error)), told)
        except R2Error as error:
            row.needs(bool(str(error)), told)
        except Exception as error:
            row.broken.append(f"{told}: {type(error).__name__}: {error}")
    return row

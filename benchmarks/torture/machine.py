"""What a machine does to a run: a disk that is full, read-only or short, a clock that jumps, a process that is stopped
for minutes, two runs on one lake, a server that goes and comes back."""

import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.torture.figures import Row
from benchmarks.torture.world import R2, Ended, World, answer_command, check_lake, settled, write_questions

COT = {"method": "cot", "model": "sim-4b"}
N_FEW = 24


def failing(how: str, n: int, command: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "benchmarks.torture.failing", how, str(n), "lake", *command[len(R2) :]]


def said_well(row: Row, ended: Ended, word: str) -> None:
    """An error is a message, and no traceback."""
    row.needs("Traceback" not in ended.said, f"a traceback: {ended.said[-400:]}")
    row.needs(word in ended.said.lower(), f"nothing of {word!r} in {ended.said[-300:]!r}")


def disk(world: World, how: str, n_times: int) -> Row:
    """The run fails at a write that is drawn, is told so, and goes on with the same command on a good disk."""
    words = {"full": "no space left", "read_only": "read-only file system", "short": "file too large"}
    done = {"full": "disk full", "read_only": "lake read-only", "short": "files may not grow"}[how]
    row = Row(f"disk {how}", f"{done} from a drawn write on", times=0)
    unharmed = world.fresh(f"disk {how} unharmed")
    write_questions(unharmed / "q.jsonl", N_FEW)
    before = Counter(world.server.paid)
    whole = world.run(failing(how, 10**9, answer_command(**COT)), unharmed)
    row.needs(whole.code == 0, f"without a failure it ended with {whole.code}: {whole.said[-300:]}")
    expected = world.server.paid - before
    if how == "short":
        most = max(path.stat().st_size for path in (unharmed / "lake").rglob("*") if path.is_file())
    else:
        most = (unharmed / "lake.writes").stat().st_size
    for place in range(n_times):
        folder = world.fresh(f"disk {how} {place}")
        shutil.copy(unharmed / "q.jsonl", folder / "q.jsonl")
        n = world.chance.randint(max(20_000, most // 20) if how == "short" else 1, most - 1)
        before, bill_usd = Counter(world.server.paid), world.server.bill_usd
        ended = world.run(failing(how, n, answer_command(**COT)), folder)
        if ended.code != 0:
            row.times += 1
            row.needs(ended.code in (1, 2), f"write {n}: exit code {ended.code}")
            said_well(row, ended, words[how])
        resumed = world.run(answer_command(**COT), folder)
        row.needs(resumed.code == 0, f"write {n}: afterwards exit code {resumed.code}: {resumed.said[-300:]}")
        row.twice += (world.server.paid - before - expected).total()
        check_lake(row, folder / "lake", N_FEW, world.server.bill_usd - bill_usd)
        row.needs(settled(folder / "lake") == settled(unharmed / "lake"), f"write {n}: other rows than unharmed")
    return row


FULL_MOUNT = """
mount -t tmpfs -o size="$1" tmpfs lake || exit 77
shift
"$@" >first.txt 2>&1; echo $? >first.code
mount -o remount,size=500m lake
"$@" >second.txt 2>&1; echo $? >second.code
cp -r lake kept
"""
READ_ONLY_MOUNT = """
mount --bind lake lake && mount -o remount,bind,ro lake || exit 77
"$@" >first.txt 2>&1; echo $? >first.code
"""


def in_own_mounts(world: World, folder: Path, script: str, words: Sequence[str]) -> bool:
    """Runs the script where it may mount; False where this machine does not let us."""
    for unshare in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        if shutil.which(unshare[0]) is None:
            return False
        done = subprocess.run(
            [*unshare, "sh", "-c", script, "sh", *words], cwd=folder, env=world.env(folder), check=False
        )
        if (folder / "first.code").exists():
            return done.returncode == 0
    return False


def full_mount(world: World, n_times: int) -> Row:
    """A real file system without room: a tmpfs of a size that is drawn, made larger afterwards."""
    row = Row("disk full, tmpfs", "lake on a tmpfs of 100 to 900 KB, then enlarged", times=0)
    for place in range(n_times):
        folder = world.fresh(f"tmpfs {place}")
        write_questions(folder / "q.jsonl", N_FEW)
        (folder / "lake").mkdir()
        before, bill_usd = world.server.paid.total(), world.server.bill_usd
        size = f"{world.chance.randint(100, 900)}k"
        if not in_own_mounts(world, folder, FULL_MOUNT, [size, *answer_command(**COT)]):
            row.skipped = "nothing can be mounted here"
            return row
        first, second = (int((folder / f"{name}.code").read_text("ascii")) for name in ("first", "second"))
        said = [(folder / f"{name}.txt").read_text("utf-8", "replace") for name in ("first", "second")]
        row.times += first != 0
        row.needs("Traceback" not in said[0], f"{size}: a traceback: {said[0][-400:]}")
        row.needs(second == 0, f"{size}: with room exit code {second}: {said[1][-300:]}")
        row.twice += world.server.paid.total() - before - N_FEW
        if second == 0:
            check_lake(row, folder / "kept", N_FEW, world.server.bill_usd - bill_usd)
    return row


def read_only_mount(world: World) -> Row:
    """A lake on a real read-only mount is read, and refused before the first call where it would be written."""
    row = Row("lake read-only, mount", "read by sql, verify and report; refused by answer", times=4)
    folder = world.fresh("read only mount")
    write_questions(folder / "q.jsonl", N_FEW)
    ended = world.run(answer_command(**COT), folder)
    row.needs(ended.code == 0, ended.said[-300:])
    write_questions(folder / "q.jsonl", N_FEW, seed=12)
    commands: list[tuple[list[str], tuple[int, ...]]] = [
        ([*R2, "sql", "from runs", "--lake", "lake"], (0,)),
        ([*R2, "lake", "verify", "--lake", "lake"], (0,)),
        ([*R2, "report", "--lake", "lake", "--out", "report.html"], (0,)),
        (answer_command(**COT), (1, 2)),
    ]
    before = world.server.n_requests
    for command, codes in commands:
        (folder / "first.code").unlink(missing_ok=True)
        if not in_own_mounts(world, folder, READ_ONLY_MOUNT, command):
            row.skipped, row.times = "nothing can be mounted here", 0
            return row
        code, said = int((folder / "first.code").read_text("ascii")), (folder / "first.txt").read_text("utf-8")
        row.needs(code in codes, f"{command[len(R2)]}: exit code {code}: {said[-300:]}")
        row.needs("Traceback" not in said, f"{command[len(R2)]}: a traceback")
    row.twice = world.server.n_requests - before
    return row


def stopped(world: World, seconds: Sequence[float]) -> Row:
    """SIGSTOP in the middle of the work; the provider goes on meanwhile."""
    row = Row("SIGSTOP", f"answer stopped for {', '.join(f'{s:g}' for s in seconds)} s", times=len(seconds))
    expected = world.expected(200)
    for place, stop_s in enumerate(seconds):
        folder = world.fresh(f"stop {place}")
        write_questions(folder / "q.jsonl", 200)
        before, first, bill_usd = Counter(world.server.paid), world.server.n_requests, world.server.bill_usd
        began = time.monotonic()
        process = world.start(answer_command(), folder)
        while world.server.n_requests < first + 60 and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGSTOP)
        row.in_flight += world.server.in_flight()
        time.sleep(stop_s)
        process.send_signal(signal.SIGCONT)
        ended = world.ended(process, folder, began)
        row.needs(ended.code == 0, f"{stop_s:g} s: exit code {ended.code}: {ended.said[-300:]}")
        row.twice += (world.server.paid - before - expected).total()
        check_lake(row, folder / "lake", 200, world.server.bill_usd - bill_usd)
    return row


def clock(world: World, n_times: int) -> Row:
    """The wall clock jumps all the time, and the run is killed once, too."""
    row = Row("clock jumps", "a day forwards and back every 0.2 s, and a kill", times=n_times)
    expected = world.expected(100)
    for place in range(n_times):
        folder = world.fresh(f"clock {place}")
        write_questions(folder / "q.jsonl", 100)
        before, first, bill_usd = Counter(world.server.paid), world.server.n_requests, world.server.bill_usd
        command = failing("clock", 0, answer_command(shard_size=25))
        process = world.start(command, folder)
        while world.server.n_requests < first + 100 and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        process.wait()
        ended = world.run(command, folder)
        row.needs(ended.code == 0, f"exit code {ended.code}: {ended.said[-300:]}")
        row.needs("Traceback" not in ended.said, "a traceback")
        row.twice += (world.server.paid - before - expected).total()
        check_lake(row, folder / "lake", 100, world.server.bill_usd - bill_usd)
    return row


def two_runs(world: World, n_times: int) -> Row:
    """The same command twice at once, and another file on the same lake beside them."""
    row = Row("two runs on one lake", "the same command twice, and another file, at once", times=n_times)
    expected = world.expected(100) + world.expected(60, seed=12)
    for place in range(n_times):
        folder = world.fresh(f"two runs {place}")
        write_questions(folder / "q.jsonl", 100)
        write_questions(folder / "other.jsonl", 60, seed=12)
        other = [*R2, "answer", "other.jsonl", *answer_command()[len(R2) + 2 :]]
        other[other.index("--out") + 1] = "other-answers.jsonl"
        before, bill_usd = Counter(world.server.paid), world.server.bill_usd
        started = []
        for name, command in (("a", answer_command()), ("b", answer_command()), ("c", other)):
            (folder / name).mkdir()
            with (folder / name / "said.txt").open("wb") as said:
                process = subprocess.Popen(command, cwd=folder, env=world.env(folder), stdout=said, stderr=said)
            started.append((name, process))
        ended = {name: world.ended(process, folder / name, time.monotonic()) for name, process in started}
        row.needs(ended["c"].code == 0, f"the other file ended with {ended['c'].code}: {ended['c'].said[-300:]}")
        codes = sorted((ended["a"].code, ended["b"].code))
        row.needs(codes[0] == 0 and codes[1] in (0, 1, 2), f"the same command twice: {codes}")
        for name, end in ended.items():
            row.needs("Traceback" not in end.said, f"{name}: a traceback: {end.said[-300:]}")
        row.twice += (world.server.paid - before - expected).total()
        check_lake(row, folder / "lake", 160, world.server.bill_usd - bill_usd)
    return row


def restarts(world: World, n_times: int) -> Row:
    """The server closes every connection, is away for a moment and comes back."""
    row = Row("server restarts", "away for 0.1 to 1.5 s in mid work", times=0)
    expected, folder = world.expected(150 * n_times), world.fresh("restarts")
    write_questions(folder / "q.jsonl", 150 * n_times)
    before, bill_usd, began = Counter(world.server.paid), world.server.bill_usd, time.monotonic()
    process = world.start(answer_command(), folder)
    while row.times < n_times:
        until = world.server.n_requests + world.chance.randint(50, 400)
        while world.server.n_requests < until and process.poll() is None:
            time.sleep(0.002)
        if process.poll() is not None:
            break
        row.in_flight += world.server.in_flight(within_s=0.05)  # nobody was killed: what has come is kept
        world.close_server()
        time.sleep(world.chance.uniform(0.1, 1.5))
        world.open_server()
        row.times += 1
    ended = world.ended(process, folder, began)
    if ended.code == 1:  # what was given up meanwhile is deferred, and asked by the same command
        ended = world.run(answer_command(), folder)
    row.needs(ended.code == 0, f"exit code {ended.code}: {ended.said[-300:]}")
    row.twice += (world.server.paid - before - expected).total()
    check_lake(row, folder / "lake", 150 * n_times, world.server.bill_usd - bill_usd)
    return row

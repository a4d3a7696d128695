"""A lake in a bucket: the promises of a lake on disk, through all that a store can do to it. The server is an imitation
on loopback that fails on demand; moto, a real one, answers the plain course of things."""

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r2.atomic import check_file, write_atomically
from r2.errors import ConfigError, LakeError, StoreError
from r2.policies.registry import Registry
from storage.evaluations.store import evaluation_ids
from storage.forgetting.forget import forget
from storage.lake import objects, part_cache
from storage.lake.address import checked, lake_folder, named
from storage.lake.lake import Lake
from storage.lake.objects import Objects
from storage.lake.schema import TABLES
from storage.report import resolve, write_report
from storage.runs.plan import plan_run, planned_runs, read_plan
from storage.sql.query import all_of, connect, run_sql, shipped_views, tables_in, write_database
from tests.support.lake_rows import indices, keys, problem, unit_of, worked_lake
from tests.support.s3_server import BUCKET, Fault, S3Imitation, environment, imitation, real_server, use
from tests.support.shards import planned

pytest.importorskip("obstore")
URL = f"s3://{BUCKET}/team/lake"


@pytest.fixture(autouse=True)
def retries_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(objects._RETRIES["backoff"], "init_backoff", objects.datetime.timedelta(milliseconds=1))
    monkeypatch.setitem(objects._RETRIES["backoff"], "max_backoff", objects.datetime.timedelta(milliseconds=2))
    monkeypatch.setattr(objects, "_PAUSES_S", (0.0, 0.0, 0.01, 0.01))


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Imitation]:
    """A server, and a first machine that knows it."""
    with imitation() as server:
        use(monkeypatch, server.url, tmp_path / "state")
        yield server


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Lake]:
    """The lake as another machine sees it, which has a state folder of its own."""

    def see(name: str) -> Lake:
        with monkeypatch.context() as patch:
            patch.setenv("R2_STATE_DIR", str(tmp_path / name))
            return Lake(URL)

    return see


def stored(s3: S3Imitation, within: str) -> list[str]:
    """Keys in the lake, without the bucket and the prefix."""
    return [key.removeprefix("team/lake/") for key in s3.keys(within)]


def course_of_a_lake(machine: Callable[[str], Lake]) -> None:
    lake = Lake(URL)
    assert not lake.exists() and lake.entries() == []
    assert lake.commit("run-a", "00000-0", unit_of([2, 0, 1]), meta={"n_answered": 3})
    assert lake.commit("run-a", "00001-0", unit_of([3]))
    assert not lake.commit("run-a", "00001-0", unit_of([3]))
    other = machine("other")
    assert indices(other) == [0, 1, 2, 3]
    assert other.units("run-a")["00000-0"].meta == {"n_answered": 3}
    assert not other.commit("run-a", "00000-0", unit_of([0, 1, 2]))
    assert other.settled_ids("run-a", "00000-") == {"p0", "p1", "p2"}
    assert other.unseen() == ["run-a"]
    assert other.compact("run-a") is not None
    assert other.compact("run-a") is None
    assert other.unseen() == []
    lake.store.look_again()
    for table in ("trajectories", "subtasks", "calls"):
        assert keys(lake, table) == keys(other, table)
        assert len(lake.files(table)) == 1
    assert lake.verify() == [] and lake.unnamed() == []
    out = io.BytesIO()
    run_sql(other.root, "select count(*), count(distinct problem_id) from calls", "csv", out)
    assert out.getvalue().splitlines()[1] == b"12,4"


def test_a_lake_in_a_bucket_is_committed_read_and_compacted_from_two_machines(
    s3: S3Imitation, machine: Callable[[str], Lake]
) -> None:
    course_of_a_lake(machine)
    assert len(stored(s3, "/calls/run-a.compact-00001-")) == 1, "other programs read it there"


@pytest.mark.parametrize("name", ["moto", "localbucket"])
def test_a_real_server_takes_the_same_course(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Callable[[str], Lake]
) -> None:
    with real_server(name, tmp_path / "objects") as url:
        use(monkeypatch, url, tmp_path / "state")
        course_of_a_lake(machine)


def test_of_eight_machines_racing_for_one_unit_exactly_one_wins(
    s3: S3Imitation, machine: Callable[[str], Lake]
) -> None:
    machine("first").prepare()
    won: list[bool] = []
    start = threading.Barrier(8)
    lakes = [machine(f"machine-{n}") for n in range(8)]

    def race(lake: Lake) -> None:
        start.wait()
        won.append(lake.commit("run-a", "00000-0", unit_of([0, 1])))

    racers = [threading.Thread(target=race, args=[lake]) for lake in lakes]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert sorted(won) == [False] * 7 + [True]
    assert indices(machine("reader")) == [0, 1]
    assert len(stored(s3, "/_parts/")) == 3, "the parts of those who lost are gone"


@pytest.mark.parametrize("times", [1, 3])
def test_a_commit_whose_answer_was_lost_is_ours_and_counted_once(times: int, s3: S3Imitation) -> None:
    lake = Lake(URL)
    lake.prepare()
    s3.faults = [Fault("PUT", "_manifest/", "forget", times=times), Fault("PUT", "_parts/calls", "forget")]
    assert lake.commit("run-a", "00000-0", unit_of([0, 1]))
    assert s3.faults[1].times == 0 and s3.faults[0].times < times
    assert indices(lake) == [0, 1] and len(stored(s3, "/_parts/")) == 3


@pytest.mark.parametrize("status", [409, 412, 500, 503])
def test_a_store_that_refuses_for_a_while_is_asked_again(status: int, s3: S3Imitation) -> None:
    """409: two conditional puts met; 412: as if somebody else had been there, and nobody was."""
    lake = Lake(URL)
    lake.prepare()
    s3.faults = [Fault("PUT", "_manifest/", "refuse", status, times=2)]
    if status >= 500:
        s3.faults += [Fault(method, "", "refuse", status, times=2) for method in ("PUT", "GET", "HEAD", "LIST")]
    assert lake.commit("run-a", "00000-0", unit_of([0]))
    lake.store.look_again()
    assert indices(lake) == [0]
    assert all(fault.times == 0 for fault in s3.faults if fault.method == "PUT")


def test_a_store_that_stays_away_is_named_without_a_secret_and_the_same_commit_succeeds_later(
    s3: S3Imitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(objects._RETRIES, "max_retries", 1)
    lake = Lake(URL)
    lake.prepare()
    s3.faults = [Fault("PUT", "_parts/", "refuse", 503, times=1000)]
    with pytest.raises(StoreError, match=f"{URL}/_parts/.*503") as caught:
        lake.commit("run-a", "00000-0", unit_of([0]))
    assert "secret-of-a-test" not in str(caught.value) and caught.value.transient
    s3.faults = []
    assert lake.commit("run-a", "00000-0", unit_of([0])) and indices(lake) == [0]


def test_a_part_that_is_cut_on_its_way_is_fetched_again(s3: S3Imitation, machine: Callable[[str], Lake]) -> None:
    assert Lake(URL).commit("run-a", "00000-0", unit_of([0, 1]))
    s3.faults = [Fault("GET", "_parts/", "cut", times=2)]
    assert indices(machine("other")) == [0, 1]
    assert s3.faults[0].times == 0


def test_a_part_that_was_changed_in_the_bucket_is_never_read(s3: S3Imitation, machine: Callable[[str], Lake]) -> None:
    assert Lake(URL).commit("run-a", "00000-0", unit_of([0, 1]))
    [key] = s3.keys("_parts/trajectories")
    content, at = s3.objects[key]
    s3.objects[key] = (content[:-9] + bytes([content[-9] ^ 1]) + content[-8:], at)
    with pytest.raises(LakeError, match="sha256 differs from the manifest"):
        indices(machine("other"))
    [said] = Lake(URL).verify()
    assert "_parts/trajectories" in said and "sha256 differs" in said


def test_listings_that_are_late_lose_nothing_and_count_nothing_twice(
    s3: S3Imitation, machine: Callable[[str], Lake]
) -> None:
    assert Lake(URL).commit("run-a", "00000-0", unit_of([0]))
    assert Lake(URL).commit("run-a", "00001-0", unit_of([1]))
    s3.hidden = lambda key: "_manifest/run-a/00001-0" in key
    other = machine("other")
    assert indices(other) == [0], "it sees less for a while"
    assert not other.commit("run-a", "00001-0", unit_of([1]))
    assert indices(other) == [0, 1], "and met the entry when it wanted to make it"
    third = machine("third")
    later = time.time() + 90_000
    s3.now = lambda: later
    assert third.vacuum(2.0) == [], "a part whose entry is not listed is no rubbish"
    assert third.compact("run-a") is not None
    s3.hidden = lambda key: False
    third.store.look_again()
    assert indices(third) == [0, 1] and third.verify() == []


def test_two_compactions_of_which_one_saw_less_leave_every_row_once(
    s3: S3Imitation, machine: Callable[[str], Lake]
) -> None:
    for n in range(3):
        assert Lake(URL).commit("run-a", f"{n:05d}-0", unit_of([n]))
    s3.hidden = lambda key: "_manifest/run-a/00002-0" in key
    assert machine("other").compact("run-a") is not None
    s3.hidden = lambda key: "compact-" in key
    assert machine("third").compact("run-a") is None, "its number was taken"
    s3.hidden = lambda key: False
    assert indices(machine("fourth")) == [0, 1, 2]
    assert machine("fourth").compact("run-a") is not None
    assert indices(machine("fifth")) == [0, 1, 2]


def test_vacuum_deletes_what_is_old_by_the_stores_own_clock_and_nothing_else(s3: S3Imitation) -> None:
    lake = Lake(URL)
    for n in range(2):
        assert lake.commit("run-a", f"{n:05d}-0", unit_of([n]))
    s3.objects["team/lake/_parts/calls/run-a/part-00007-0-0123abcd.parquet"] = (b"of a crash", s3.now())
    s3.objects["team/lake/_parts/calls/run-a/notes.txt"] = (b"not ours", s3.now())
    assert lake.compact("run-a") is not None
    with pytest.raises(ConfigError, match="at least 1 for a lake in a bucket"):
        lake.vacuum(0)
    assert lake.vacuum(1.0) == []
    later = time.time() + 5_000
    s3.now = lambda: later
    assert len(lake.vacuum(1.0)) == 7
    assert stored(s3, "/_parts/") == ["_parts/calls/run-a/notes.txt"]
    assert indices(lake) == [0, 1]
    assert [said.partition(": ")[2] for said in lake.verify()] == [
        "foreign file, not part of the lake and not read. Move it out of the lake's folders."
    ]


class PowerOff(BaseException):
    """The process ends here: nothing after it runs, not even clean-up."""


REQUESTS = ("put", "create", "get", "fetch", "about", "under", "delete", "move")


def run_until(step: int, work: Callable[[], object], patch: pytest.MonkeyPatch) -> None:
    """Runs `work` with the power going off before its `step`-th request to the store."""
    n = 0
    with patch.context() as patched:
        for name in REQUESTS:
            real = getattr(Objects, name)

            def call(*arguments: Any, _real: Any = real, **options: Any) -> Any:
                nonlocal n
                n += 1
                if n > step:
                    raise PowerOff
                return _real(*arguments, **options)

            patched.setattr(Objects, name, call)
        try:
            work()
        except PowerOff:
            return


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(work=st.lists(st.tuples(st.sampled_from(["commit", "compact", "vacuum"]), st.integers(0, 60)), max_size=6))
def test_whatever_dies_at_whichever_request_nothing_is_lost_and_no_row_is_counted_twice(
    work: list[tuple[str, int]], s3: S3Imitation, tmp_path: Path
) -> None:
    s3.objects.clear()
    clock = [time.time()]
    s3.now = lambda: clock[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R2_STATE_DIR", str(tmp_path / str(time.monotonic_ns())))
        lake, n_committed = Lake(URL), 0
        for what, step in work:
            clock[0] += 20_000
            name, rows = f"{n_committed:05d}-0", unit_of([n_committed])
            does = {
                "commit": lambda name=name, rows=rows: lake.commit("run-a", name, rows),
                "compact": lambda: lake.compact("run-a"),
                "vacuum": lambda: lake.vacuum(1.0),
            }
            run_until(step, does[what], patch)
            if what == "commit":
                lake.commit("run-a", name, rows)
                n_committed += 1
            lake.store.look_again()
            assert indices(lake) == list(range(n_committed))
        patch.setenv("R2_STATE_DIR", str(tmp_path / str(time.monotonic_ns())))
        anew = Lake(URL)
        anew.compact("run-a")
        assert indices(anew) == list(range(n_committed))
        assert anew.verify() == []


UNTIL_KILLED = """
import sys
from storage.lake.lake import Lake
from tests.support.lake_rows import unit_of
lake = Lake(sys.argv[1])
for unit in range(10_000):
    lake.commit("run-a", f"{unit:05d}-0", unit_of([unit]))
    print(unit, flush=True)
    if unit % 3 == 2:
        lake.compact("run-a")
"""


@pytest.mark.parametrize("wait_s", [0.0, 0.023, 0.047])
def test_after_kill_9_all_that_was_acknowledged_is_there_once(
    wait_s: float, s3: S3Imitation, machine: Callable[[str], Lake], tmp_path: Path
) -> None:
    env = {**os.environ, **environment(s3.url, tmp_path / "killed")}
    with subprocess.Popen([sys.executable, "-c", UNTIL_KILLED, URL], stdout=subprocess.PIPE, text=True, env=env) as it:
        assert it.stdout is not None
        for _ in range(8):
            it.stdout.readline()
        time.sleep(wait_s)
        it.kill()
        n_acknowledged = 8 + len(it.stdout.read().splitlines())
    lake = machine("another")
    found = indices(lake)
    assert found == list(range(len(found))) and len(found) in (n_acknowledged, n_acknowledged + 1)
    assert lake.verify() == []


def test_a_store_that_overwrites_is_refused_before_anything_is_stored(s3: S3Imitation) -> None:
    s3.keeps_promise = False
    with pytest.raises(ConfigError, match="ignores `If-None-Match"):
        Lake(URL).commit("run-a", "00000-0", unit_of([0]))
    assert s3.keys() == []


def test_a_store_that_refuses_us_is_told_with_what_to_do(s3: S3Imitation) -> None:
    s3.faults = [Fault("PUT", "_probe", "refuse", 403, times=9)]
    with pytest.raises(ConfigError, match="the store refuses us"):
        Lake(URL).commit("run-a", "00000-0", unit_of([0]))


def test_a_lake_that_was_deleted_and_begun_anew_is_not_mixed_with_what_is_known_here(
    s3: S3Imitation, machine: Callable[[str], Lake], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Lake(URL).commit("run-a", "00000-0", unit_of([0]))
    root = lake_folder(URL)
    s3.objects.clear()
    assert machine("other").commit("run-a", "00000-0", unit_of([5]))
    monkeypatch.setattr("storage.lake.stores._known", {})
    with pytest.raises(LakeError, match=f"another lake than it was.*{root}"):
        indices(Lake(URL))


@pytest.mark.parametrize(
    "address", ["s3://AKIAKEY:topsecret@lakes/x", "s3://lakes/x?X-Amz-Signature=topsecret", "s3://lakes/x#topsecret"]
)
def test_an_address_with_keys_in_it_is_refused_without_repeating_them(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lake_folder(address)
    assert "topsecret" not in str(caught.value) and "AKIAKEY" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["s3://", "s3:///x", "http://lakes/x", "ftp://a/b", "s3://lakes/../x", "s3://a/b c"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="expected a folder, or an address as s3://bucket/prefix"):
        lake_folder(address)


@settings(max_examples=30)
@given(
    st.sampled_from(["s3", "gs", "az"]),
    st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True),
    st.lists(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._=-]{0,9}", fullmatch=True), max_size=3),
    st.sampled_from(["", "/"]),
)
def test_an_address_has_one_form(scheme: str, bucket: str, names: list[str], end: str) -> None:
    whole = "/".join([f"{scheme}://{bucket}", *names])
    assert checked(whole + end) == whole and checked(checked(whole)) == whole


def test_a_folder_stays_a_folder_and_an_address_is_told_again(tmp_path: Path, s3: S3Imitation) -> None:
    assert lake_folder("some/lake") == Path("some/lake") and named(Path("some/lake")) == "some/lake"
    root = lake_folder(f"{URL}/")
    assert root.parent == tmp_path / "state" / "lakes" and named(root) == URL
    assert lake_folder(root) == root and Lake(root).store.is_remote, "the folder stands for the address"


def test_copies_go_when_they_pass_the_size_the_least_recently_used_first(
    s3: S3Imitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(URL)
    for n in range(4):
        assert lake.commit("run-a", f"{n:05d}-0", unit_of([n]))
    copies = sorted(lake.root.glob("_parts/trajectories/run-a/*.parquet"))
    for age, path in enumerate(copies):
        os.utime(path, (time.time() - 7200 - age, time.time() - 7200 - age))
    others = [path for path in lake.root.glob("_parts/*/run-a/*.parquet") if path not in copies]
    size = sum(path.stat().st_size for path in [*others, *copies[:2]])
    monkeypatch.setenv(part_cache.SIZE, str(size / 1e9))
    part_cache.make_room(lake.root, size)
    assert [path.exists() for path in copies] == [True, True, False, False]
    assert indices(lake) == [0, 1, 2, 3], "what went is fetched again"


@pytest.mark.parametrize("text", ["-1", "much", "nan", "inf"])
def test_a_size_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(part_cache.SIZE, text)
    with pytest.raises(ConfigError, match=f"{part_cache.SIZE}={text}"):
        part_cache.size_bytes()


@pytest.mark.parametrize("name", [*shipped_views(), *TABLES])
def test_a_query_finds_the_same_where_only_the_tables_that_it_names_have_rows(
    name: str, whole: Path, everything: duckdb.DuckDBPyConnection
) -> None:
    query = all_of(name)
    with connect(whole, tables=tables_in(query)) as narrow:
        assert narrow.execute(query).fetchall() == everything.execute(query).fetchall()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worked_lake(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def everything(whole: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(whole) as db:
        yield db


def test_only_what_a_query_needs_is_fetched(s3: S3Imitation, machine: Callable[[str], Lake]) -> None:
    for run in ("run-a", "run-b"):
        assert Lake(URL).commit(run, "00000-0", problem(0, run))
    other = machine("other")
    run_sql(other.root, "from trajectories", "csv", io.BytesIO())
    assert {path.parent.parent.name for path in other.root.glob("_parts/*/*/*")} == {"trajectories"}
    with connect(other.root, runs=["run-a"]):
        found = {path.parent.name for path in other.root.glob("_parts/calls/*/*")}
    assert found == {"run-a"}


def test_a_plan_made_on_one_machine_is_the_plan_of_all(
    s3: S3Imitation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": f"q{n}", "question": f"{n} + 1?", "answer": str(n + 1)} for n in range(5)]
    first = planned(tmp_path, rows, lake=URL, shard_size=2)
    monkeypatch.setenv("R2_STATE_DIR", str(tmp_path / "other"))
    second = plan_run(first.settings.model_copy(update={"shard_size": 3}), "a pool")
    assert second.run_dir != first.run_dir and [shard.n_rows for shard in second.shards] == [2, 2, 1]
    assert [problem.problem_id for problem, _ in second.rows(1)] == ["q2", "q3"]
    second.check_shard(2)
    assert planned_runs(lake_folder(URL)) == [second.run_dir]
    assert read_plan(second.run_dir).n_requested == 5


def test_of_two_machines_that_plan_at_once_the_first_plan_counts(
    s3: S3Imitation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": f"q{n}", "question": f"{n} + 1?"} for n in range(5)]
    first = planned(tmp_path, rows, lake=URL, shard_size=2)
    [key] = s3.keys(f"_runs/{first.run_id}/manifest.json")
    theirs = s3.objects.pop(key)
    monkeypatch.setenv("R2_STATE_DIR", str(tmp_path / "other"))
    put, n = Objects.create, [0]

    def late(self: Objects, at: str, content: bytes) -> bool:
        if at.endswith("manifest.json") and not n[0]:
            n[0] = 1
            s3.objects[key] = theirs
        return put(self, at, content)

    monkeypatch.setattr(Objects, "create", late)
    second = plan_run(first.settings.model_copy(update={"shard_size": 3}), "a pool")
    assert n == [1] and [shard.n_rows for shard in second.shards] == [2, 2, 1]
    assert [problem.problem_id for problem, _ in second.rows(0)] == ["q0", "q1"]


def test_a_report_of_the_newest_run_is_written_on_a_machine_that_never_saw_it(
    s3: S3Imitation, machine: Callable[[str], Lake], tmp_path: Path
) -> None:
    for hour, run in enumerate(["run-b", "run-a"]):
        s3.now = lambda hour=hour: 1_780_000_000.0 + 3600 * hour
        Lake(URL).commit(run, "00000-0", problem(0, run))
    other = machine("other")
    assert resolve(other.root, None) == "run-a"
    page = write_report(other.root, "run-b", tmp_path / "report.html").read_text("utf-8")
    assert "run-b" in page and not list(other.root.glob("_parts/*/run-a"))


def test_evaluations_and_sweeps_are_seen_by_all_and_a_newer_one_replaces_the_older(
    s3: S3Imitation, machine: Callable[[str], Lake]
) -> None:
    here, there = Lake(URL), machine("other")
    here.prepare()
    plan = here.root / "_evaluations/evaluation-1/plan.json"
    for text in ("first", "second"):
        plan.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(plan, text.encode())
        write_atomically(here.root / "_evaluations/calls.journal", b"of this machine")
        here.store.share(plan.parent)
        there.store.receive(there.root / "_evaluations")
        assert (there.root / "_evaluations/evaluation-1/plan.json").read_text() == text
    assert evaluation_ids(there.root) == ["evaluation-1"]
    assert stored(s3, "_evaluations") == ["_evaluations/evaluation-1/plan.json"]
    n_gets = s3.asked["GET"]
    there.store.receive(there.root / "_evaluations")
    assert s3.asked["GET"] == n_gets, "what did not change is not fetched again"


@pytest.mark.parametrize("folder", ["_evaluations", "_manifest/run-a"])
def test_a_key_that_leads_out_of_the_folder_is_refused(folder: str, s3: S3Imitation, tmp_path: Path) -> None:
    lake = Lake(URL)
    lake.commit("run-a", "00000-0", unit_of([0]))
    s3.objects[f"team/lake/{folder}/../../../evil.json"] = (b"{}", s3.now())
    lake.store.look_again()
    with pytest.raises(StoreError, match="illegal character sequence"):
        lake.store.receive(lake.root / folder)
    assert list(tmp_path.rglob("evil.json")) == []


def test_what_names_files_of_this_machine_is_not_written(s3: S3Imitation) -> None:
    lake = Lake(URL)
    lake.commit("run-a", "00000-0", unit_of([0]))
    assert write_database(lake.root) is None
    assert not (lake.root / "lake.duckdb").exists()


def test_words_are_not_taken_out_of_a_lake_in_a_bucket(s3: S3Imitation) -> None:
    with pytest.raises(ConfigError, match="cannot be taken out of a lake in a bucket yet"):
        forget(lake_folder(URL), ["p0"])


def test_only_a_lake_may_lie_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="--policies-dir s3:/team/policies: expected a place on this machine"):
        Registry("s3://team/policies")
    with pytest.raises(ConfigError, match=r"--out s3:/team: expected a place on this machine"):
        check_file(Path("s3://team/answers.jsonl"), "--out")
    assert list(tmp_path.iterdir()) == []

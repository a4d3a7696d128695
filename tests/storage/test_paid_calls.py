"""Answers that earlier runs paid for: found by what was asked, wherever they lie, and never one that does not fit."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from r2.call import Call, Completion, TokenLogprob, request_sha_of
from r2.ledger import Price, Usage
from r2.pool.file.identity import answering_digest, entry_digest
from r2.pool.reused import charged, priced_anew, reused
from r2.settings import AnswerSettings
from storage.lake.lake import Lake
from storage.runs import paid_calls
from storage.runs.journal import Journal
from storage.runs.lineage import PaidRun, paid_runs, why_another
from storage.runs.paid_calls import PaidCalls
from storage.runs.plan import PlannedEntry, plan_run
from storage.runs.reusable import reusable
from tests.support.lake_rows import CALL, TRAJECTORY, unit_of
from tests.support.loopback import reply_json, write_pool
from tests.support.scripted import CHEAP, completion

DEARER = Price(3.0, 1.5, 6.0, "2026-11-02", "made up for tests")
ENTRY = {"small": "as it was"}


def call(text: str, **fields: Any) -> Call:
    return replace(Call("small", (("user", text),), "solve", 64), **fields)


def earlier_run(root: Path, run_id: str, *texts: str, **fields: Any) -> PaidRun:
    """A finished run that asked these, each answered in its own words: 100 tokens in, 10 out. `fields` of its calls."""
    trajectories = [
        replace(TRAJECTORY, run_id=run_id, problem_id=text, input=text, input_index=i) for i, text in enumerate(texts)
    ]
    calls = [
        replace(
            CALL,
            run_id=run_id,
            problem_id=text,
            request_sha=call(text).request_sha(),
            output_text=f"{text} by {run_id}",
            cached_input_tokens=0,
            **{"raw_body": orjson.dumps(reply_json(f"{text} by {run_id}", usage=(100, 10))), **fields},
        )
        for text in texts
    ]
    assert Lake(root).commit(run_id, "00000-0", {"trajectories": trajectories, "calls": calls})
    entries = {"small": PlannedEntry("as it was", CHEAP.version)}
    return PaidRun(run_id, root / "_runs" / run_id, entries, True, "digest", len(texts), 1.0, {})


def found(calls: PaidCalls, text: str, model: str = "small", **fields: Any) -> str | None:
    stored = calls.find(call(text, model=model, **fields).request_sha(), model)
    return None if stored is None else stored.completion.text


def test_an_answer_is_found_by_its_request_and_the_first_run_counts(tmp_path: Path):
    runs = [earlier_run(tmp_path, "newer", "a", "b"), earlier_run(tmp_path, "older", "b", "c")]
    calls = PaidCalls.open(tmp_path, runs, ENTRY)
    assert len(calls) == 4
    assert [found(calls, text) for text in "abcd"] == ["a by newer", "b by newer", "c by older", None]
    assert calls.may_have(call("a").request_sha()) and not calls.may_have(call("d").request_sha())
    assert found(calls, "a", sample_index=1) is None, "another sample is another request"
    assert found(PaidCalls.open(tmp_path, list(reversed(runs)), ENTRY), "b") == "b by older"
    assert calls.warnings == []


def test_an_answer_is_found_though_its_run_is_compacted_again_meanwhile(tmp_path: Path):
    run, lake = earlier_run(tmp_path, "run", "a"), Lake(tmp_path)
    lake.compact("run")
    calls = PaidCalls.open(tmp_path, [run], ENTRY)
    lake.commit("run", "00001-0", unit_of([7], "run"))
    lake.compact("run")
    assert found(calls, "a") == "a by run"
    assert calls.warnings == []


def test_what_another_entry_answered_a_failure_and_a_changed_entry_are_not_found(tmp_path: Path):
    stood_in = earlier_run(tmp_path, "fallback", "a", request_model="large")
    both = replace(stood_in, entries={**stood_in.entries, "large": PlannedEntry("large", CHEAP.version)})
    assert found(PaidCalls.open(tmp_path, [both], {**ENTRY, "large": "large"}), "a") is None
    failed = earlier_run(tmp_path, "failed", "a", error_type="invalid_request")
    assert len(PaidCalls.open(tmp_path, [failed], ENTRY)) == 0
    run = earlier_run(tmp_path, "run", "a")
    assert len(PaidCalls.open(tmp_path, [run], {"small": "another model"})) == 0
    assert len(PaidCalls.open(tmp_path, [run], {})) == 0


def test_row_groups_come_and_go_and_a_part_that_is_damaged_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(paid_calls, "KEPT_BYTES", 1)
    runs = [earlier_run(tmp_path, f"run-{i}", *(f"{i}-{j}" for j in range(5))) for i in range(3)]
    calls = PaidCalls.open(tmp_path, runs, ENTRY)
    for j in range(5):
        assert [found(calls, f"{i}-{j}") for i in range(3)] == [f"{i}-{j} by run-{i}" for i in range(3)]
    [path] = Lake(tmp_path).files("calls", "run-0")
    path.write_bytes(path.read_bytes()[:100])
    assert (found(calls, "0-0"), found(calls, "0-1"), found(calls, "1-0")) == (None, None, "1-0 by run-1")
    [warning] = calls.warnings
    assert str(path) in warning and warning.endswith("What was paid for in it is asked again.")
    again = PaidCalls.open(tmp_path, runs, ENTRY)
    assert (len(again), len(again.warnings)) == (10, 1)
    assert found(again, "2-4") == "2-4 by run-2"


def test_answers_in_the_journal_of_an_unfinished_run_are_found_until_it_goes_on(tmp_path: Path):
    run = earlier_run(tmp_path, "run", "a")
    path = run.run_dir / "journal" / "00000.journal"

    async def write() -> None:
        with Journal.open(path) as journal:
            for text, error_type in (("b", None), ("c", "timeout"), ("a", None)):
                answer = completion(f"{text} of the journal", error_type=error_type)
                await journal.commit(text, answer.to_bytes(call(text).request_sha()))
            await journal.commit("d", completion("of an earlier version").to_bytes())

    asyncio.run(write())
    calls = PaidCalls.open(tmp_path, [run], ENTRY)
    assert [found(calls, text) for text in "abcd"] == ["a by run", "b of the journal", None, None]
    assert len(calls) == 2
    path.write_bytes(b"")
    assert found(calls, "b") is None


def test_a_stored_answer_keeps_its_log_probabilities_and_where_it_was_cut(tmp_path: Path):
    reply = reply_json("yes", usage=(100, 10), finish_reason="max_tokens")
    reply["choices"][0]["logprobs"] = {"content": [{"token": "yes", "logprob": -0.5, "top_logprobs": []}]}
    raw_body = orjson.dumps(reply)
    run = earlier_run(tmp_path, "run", "x", finish_reason="max_tokens", raw_body=raw_body)
    calls = PaidCalls.open(tmp_path, [run], ENTRY)
    answer = calls.find(call("x").request_sha(), "small")
    assert answer is not None
    assert answer.completion.finish_reason == "length"
    assert answer.completion.token_logprobs == (TokenLogprob("yes", -0.5),)


# What the run receives. 10 prompt tokens and 5 generated: at CHEAP 1 * 10 + 2 * 5 = 20 millionths, at DEARER 60.


def test_a_reused_answer_costs_nothing_and_says_what_it_saved_at_todays_price():
    refusal = replace(completion("", error_type="bad_body").attempts[0], cost_usd=1.0)
    stored = replace(completion("4"), attempts=(refusal, replace(completion("4").attempts[0], attempt=1)))
    answer = reused(call("a"), stored, DEARER, "run-a")
    assert answer is not None
    assert (answer.cost_usd, answer.saved_usd, answer.worth_usd) == (0, pytest.approx(60e-6), pytest.approx(60e-6))
    assert (answer.reused_from, answer.is_replayed) == ("run-a", False)
    [attempt] = answer.attempts
    assert (attempt.attempt, attempt.usage.total_tokens, attempt.price_version) == (0, 15, DEARER.version)
    again = Completion.from_bytes(answer.to_bytes("address"))
    assert again == replace(answer, is_replayed=True)
    assert request_sha_of(answer.to_bytes("address")) == "address"
    assert request_sha_of(completion("4").to_bytes()) == ""
    further = reused(call("a"), again, CHEAP, "run-b")
    assert further is not None
    assert (further.reused_from, further.saved_usd) == ("run-a", pytest.approx(20e-6)), "who paid is remembered"


def test_failures_answers_of_others_and_answers_without_the_log_probabilities_asked_for_are_not_reused():
    assert reused(call("a"), completion("", error_type="invalid_request"), CHEAP, "run") is None
    assert reused(call("a"), completion("4", "large"), CHEAP, "run") is None
    assert reused(call("a", top_logprobs=1), completion("4"), CHEAP, "run") is None
    sure = replace(completion("4"), token_logprobs=(TokenLogprob("4", -0.1),))
    assert reused(call("a", top_logprobs=1), sure, CHEAP, "run") is not None


def test_tokens_that_nobody_counted_are_priced_at_the_most_they_can_cost():
    price = replace(CHEAP, cache_write=4.0)
    attempt = replace(completion("4").attempts[0], usage=Usage(10, 0, 5, "estimated"))
    answer = reused(call("a"), replace(completion("4"), attempts=(attempt,)), price, "run")
    assert answer is not None and answer.saved_usd == pytest.approx(50e-6)


def test_an_evaluation_is_charged_in_full_at_todays_price_whoever_paid():
    anew = priced_anew(completion("4"), {"small": DEARER})
    assert (anew.cost_usd, anew.attempts[0].price_version) == (pytest.approx(60e-6), DEARER.version)
    assert priced_anew(completion("4"), {"small": CHEAP}) == completion("4")
    assert priced_anew(completion("4"), {}) == completion("4"), "an entry that is gone keeps its price"
    assert charged(completion("4"), "other", is_ours=True) == completion("4")
    foreign = charged(completion("4"), "other", is_ours=False)
    assert (foreign.reused_from, foreign.cost_usd, foreign.saved_usd) == ("other", completion("4").cost_usd, 0)
    answer = reused(call("a"), completion("4"), CHEAP, "run")
    assert answer is not None
    dearer = charged(priced_anew(answer, {"small": DEARER}), "me", is_ours=True)
    assert (dearer.reused_from, dearer.cost_usd, dearer.saved_usd) == ("run", pytest.approx(60e-6), 0)


# Which runs, and why another.


def test_limits_labels_and_prices_do_not_make_another_model_and_everything_else_does(tmp_path: Path):
    def digest(lines: str, of: Any = answering_digest) -> str:
        return str(of(write_pool(tmp_path, {"m": lines}), "m"))

    dear = 'price_usd_per_mtok = {input = 9, output = 9, date = "2026-11-02", source = "made up"}\n'
    plain = digest("")
    assert digest(dear) == plain
    assert digest('max_in_flight = 3\ntimeout_s = 5\ntier = "large"\ncontext_tokens = 9999\n') == plain
    changes = ('served_model = "v2"\n', 'endpoint = "http://127.0.0.1:9/v2"\n', "extra_body = {top_k = 5}\n")
    others = {digest(lines) for lines in (*changes, "logprobs = true\n", 'reasoning_effort = "low"\n')}
    assert len(others) == 5 and plain not in others
    assert digest(dear, entry_digest) != digest("", entry_digest)


def planned(folder: Path, name: str, rows: int, **settings: Any) -> Any:
    (folder / name).write_text("".join(f'{{"question": "{i}?"}}\n' for i in range(rows)), "utf-8")
    entries = settings.pop("entries", {"small": PlannedEntry("as it was", CHEAP.version)})
    chosen = AnswerSettings.model_validate({"input": str(folder / name), "lake": str(folder / "lake"), **settings})
    return plan_run(chosen, f"pool {entries}", entries=entries)


def runs_before(plan: Any, *, reuse: bool = False) -> list[PaidRun]:
    settings = plan.settings
    return paid_runs(Path(settings.lake), plan.run_id, plan.input_path, settings.reasoning.method, reuse=reuse)


def why(plan: Any) -> str:
    return "; ".join(
        why_another(runs_before(plan)[0], plan.settings, plan.input_digest, plan.n_requested, plan.entries)
    )


def test_the_runs_over_one_file_with_one_method_are_a_lineage(tmp_path: Path):
    first = planned(tmp_path, "q.jsonl", 20)
    assert runs_before(first) == []
    longer = planned(tmp_path, "q.jsonl", 25)
    assert [run.run_id for run in runs_before(longer)] == [first.run_id]
    other = planned(tmp_path, "other.jsonl", 3)
    assert runs_before(other) == []
    assert {run.run_id for run in runs_before(other, reuse=True)} == {first.run_id, longer.run_id}
    method = planned(tmp_path, "q.jsonl", 25, reasoning={"method": "cot"})
    assert runs_before(method) == []
    (first.run_dir / "manifest.json").write_text("torn", "utf-8")
    assert [run.run_id for run in runs_before(method, reuse=True)][-1] == longer.run_id


def test_what_differs_from_the_run_before_is_said_in_words(tmp_path: Path):
    planned(tmp_path, "q.jsonl", 20)
    assert why(planned(tmp_path, "q.jsonl", 25)).startswith("the file has other content (20 rows then, 25 now)")


@pytest.mark.parametrize(
    ("entries", "settings", "said"),
    [
        ({"small": PlannedEntry("as it was", DEARER.version)}, {}, "small has another price: stored tokens are priced"),
        ({"small": PlannedEntry("new", CHEAP.version)}, {}, "small has another endpoint, model or option: what it"),
        ({"big": PlannedEntry("b", CHEAP.version)}, {}, "new in the pool: big; no longer in the pool: small"),
        (None, {"reasoning": {"max_escalations": 1}, "limit": 5}, "other settings (max_escalations, limit)"),
    ],
)
def test_each_kind_of_change_has_its_words(tmp_path: Path, entries: Any, settings: dict[str, Any], said: str):
    planned(tmp_path, "q.jsonl", 20)
    further = {} if entries is None else {"entries": entries}
    assert why(planned(tmp_path, "q.jsonl", 20, **settings, **further)).startswith(said)


def test_a_run_planned_by_an_earlier_version_is_named_and_nothing_of_it_is_reused(tmp_path: Path):
    first = planned(tmp_path, "q.jsonl", 20)
    path = first.run_dir / "manifest.json"
    stored = orjson.loads(path.read_bytes())
    del stored["entries"], stored["input_path"]
    path.write_bytes(orjson.dumps(stored))
    longer = planned(tmp_path, "q.jsonl", 25)
    [run] = runs_before(longer)
    assert run.entries == {}
    assert "earlier version, whose answers cannot be used again" in why(longer)
    assert runs_before(planned(tmp_path, "other.jsonl", 3), reuse=True)[0].run_id == longer.run_id


def test_a_dry_run_counts_the_questions_and_the_calls_that_were_paid_for(tmp_path: Path):
    runs = [earlier_run(tmp_path, "run-a", "a", "b", "c"), earlier_run(tmp_path, "run-b", "c")]
    counted = reusable(tmp_path, runs, ENTRY, {"small": DEARER}, iter(["a", "c", "c", "z"]))
    # Two requests, 100 tokens in at 3 and 10 out at 6 each.
    assert (counted.n_questions, counted.n_calls, counted.usd) == (3, 2, pytest.approx(2 * 360e-6))
    assert reusable(tmp_path / "no lake", [], ENTRY, {}, iter(["a"])).n_calls == 0

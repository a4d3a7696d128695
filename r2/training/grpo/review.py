"""Procedural review: while a policy is trained, a strong model corrects a step's result, so that one weak step does not
zero the chain.

Paper: every result is reviewed. Ours: in training only, and only where the cheap check of the benchmark fails; the
review is a call like any other, so its rate and cost are in the trajectory and in the reward. Left out: review of
results that pass the check, and of results that a program printed.
"""

from dataclasses import replace

from r2.answering.programs import asks_for_program
from r2.answering.prompts import TASK_MARK
from r2.answering.protocol import Outcome, Router, Solving
from r2.call import Call, Completion
from r2.problem import Problem
from r2.problems.benchmark import failed_check, is_free, result_in

REVIEW_SYSTEM = """You check one result of a smaller model. If it is right, repeat it; if not, correct it.
Reply with only the result, nothing else."""
FREE_REVIEW_SYSTEM = """You check one result of a smaller model. If it is right, repeat it; if not, correct it.
Reply with the whole result, and with nothing about it."""
PROPOSED_MARK = "Proposed result: "


def reviewed(problem: Problem, solving: Solving, router: Router, reviewer: str) -> Solving:
    """The same solving, with each result that fails its check replaced by the reviewer's, where that one passes."""
    wave = next(solving)
    while True:
        completions = yield wave
        doubtful = [
            i for i, (call, c) in enumerate(zip(wave, completions, strict=True)) if _is_doubtful(problem, call, c)
        ]
        if doubtful:
            completions = list(completions)
            reviews = yield [review_call(problem, wave[i], completions[i], router, reviewer) for i in doubtful]
            for i, review in zip(doubtful, reviews, strict=True):
                text = result_in(problem, review.text)
                if review.is_ok and failed_check(problem, text, review.finish_reason) is None:
                    completions[i] = replace(completions[i], text=text, finish_reason="stop")
        try:
            wave = solving.send(completions)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome


def review_call(problem: Problem, call: Call, completion: Completion, router: Router, reviewer: str) -> Call:
    """Shows the reviewer what the solver was shown, and what it said."""
    _, shown = call.messages[-1]
    head, mark, task = shown.rpartition(TASK_MARK)
    proposed = PROPOSED_MARK + (result_in(problem, completion.text) or "(none)")
    body = f"{head}{proposed}\n{mark}{task}" if mark else f"{shown}\n{proposed}"
    return Call(
        reviewer,
        (("system", FREE_REVIEW_SYSTEM if is_free(problem) else REVIEW_SYSTEM), ("user", body)),
        "review",
        call.max_output_tokens,
        temperature=router.settings.temperature,
        seed=router.settings.seed or None,
        sample_index=call.sample_index,
    )


def _is_doubtful(problem: Problem, call: Call, completion: Completion) -> bool:
    if call.purpose != "solve" or not completion.is_ok or asks_for_program(call):
        return False
    return failed_check(problem, result_in(problem, completion.text), completion.finish_reason) is not None

"""Chain of thought with one model: the constant router, and the line any router has to beat (METHOD: baselines)."""

from r2.allocation import Choice
from r2.answer import extract_answer
from r2.benchmark import benchmark_of, failed_check
from r2.call import Call
from r2.plan import DIRECT, Subtask
from r2.problem import Problem
from r2.prompts import DIRECT_STEP, solve_messages
from r2.solve import Outcome, Router, Solving, Step


def chain_of_thought(problem: Problem, router: Router, model: str) -> Solving:
    """One call to `model`, thinking step by step whatever the entry's own prompt mode; one try, no escalation."""
    benchmark = benchmark_of(problem)
    limit = max(router.settings.cot_tokens, benchmark.answer_tokens)
    call = Call(
        model, solve_messages(problem, None, {}, "cot", benchmark.wording), "solve", limit,
        temperature=router.settings.temperature, seed=router.settings.seed or None, subtask_index=0,
    )  # fmt: skip
    [completion] = yield [call]
    step = Step(Subtask(DIRECT_STEP), Choice(model, {}), completion.model or model, n_asks=1)
    outcome = Outcome(plan=DIRECT, steps=[step])
    if not completion.is_ok:
        step.error_type = outcome.error_type = completion.error_type
        outcome.error_message = completion.error_message
        return outcome
    text = extract_answer(completion.text)
    if check := failed_check(problem, text, completion.finish_reason):
        outcome.failed_checks.append(check)
    if not text:
        step.error_type = outcome.error_type = "empty"
        outcome.error_message = f"{step.model} returned no text"
        return outcome
    step.text = outcome.answer = text
    return outcome

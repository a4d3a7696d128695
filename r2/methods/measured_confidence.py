"""How sure a model is of what it wrote: from its token probabilities, or from how far repeated answers agree."""

from collections.abc import Generator, Sequence
from dataclasses import replace

from r2.answering.confidence import agreement, token_confidence
from r2.answering.protocol import QuestionBudget, Router, Wave, ask
from r2.call import Call, Completion
from r2.problem import Problem


def confidences(
    problem: Problem, answered: Sequence[tuple[Call, Completion]], router: Router, budget: QuestionBudget
) -> Generator[Wave, list[Completion], list[float]]:
    """Confidence in each answer, 0..1; 0 for one that failed.

    The `confidence_quantile` of its token probabilities. Where none came with it, the share of the most frequent answer
    among it and `n_samples` further ones, which are asked for here, of the model that answered, in one wave.
    """
    settings = router.settings
    known = [
        token_confidence(completion, settings.confidence_quantile) if completion.is_ok else 0.0
        for _, completion in answered
    ]
    unknown = [index for index, confidence in enumerate(known) if confidence is None]
    samples = [
        replace(
            answered[index][0],
            model=answered[index][1].model or answered[index][0].model,
            top_logprobs=0,
            temperature=settings.sample_temperature,
            seed=1 + settings.seed,
            sample_index=n,
        )
        for index in unknown
        for n in range(1, settings.n_samples + 1)
    ]
    if samples:
        texts = [completion.text for _, completion in (yield from ask(samples, budget))]
        for place, index in enumerate(unknown):
            mine = texts[place * settings.n_samples : (place + 1) * settings.n_samples]
            known[index] = agreement([answered[index][1].text, *mine], problem)
    return [0.0 if confidence is None else confidence for confidence in known]

"""Many prompts answered at once by one model: a decoding loop with its own rule per row, which `generate()` does not
have.

Rows of one batch may differ in length, limit, temperature and seed. A row's text does not depend on its neighbours (but
for the last bits of floating-point sums): greedy rows take the likeliest token, sampled rows draw from a generator of
their own. Everything per token is one tensor operation over the batch; Python sees a row only when it ends. Called by
`server.py`.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Token ids to continue, and how. `temperature` 0 is greedy. `n_top` None: no log-probabilities; else so many
    alternatives a token."""

    ids: Sequence[int]
    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    n_top: int | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """Generated ids, the end mark left out of them. `n_generated` counts it; `is_cut`: the limit came first.

    `logprobs` are natural, of the model at temperature 1; `alternatives` are (id, logprob), best first. Both are empty
    unless asked for.
    """

    ids: list[int]
    n_generated: int
    is_cut: bool
    logprobs: list[float]
    alternatives: list[list[tuple[int, float]]]


def decode(
    model: Any,
    prompts: Sequence[GenerationRequest],
    end_ids: Sequence[int],
    on_reply: Callable[[int, Generation], None],
) -> None:
    """Answers all prompts; `on_reply(index, reply)` is called as soon as each has ended."""
    with torch.inference_mode():
        _Batch(model, prompts, end_ids, on_reply).run()


class _Batch:
    """The state of one batch. `rows` are the indices of the prompts still running; what has ended leaves the cache at
    once."""

    def __init__(
        self,
        model: Any,
        prompts: Sequence[GenerationRequest],
        end_ids: Sequence[int],
        on_reply: Callable[[int, Generation], None],
    ) -> None:
        self.model, self.prompts, self.on_reply = model, prompts, on_reply
        n, longest = len(prompts), max(p.max_new_tokens for p in prompts)
        self.ends = torch.tensor(list(end_ids))
        self.rows = torch.arange(n)
        self.limits = torch.tensor([p.max_new_tokens for p in prompts])
        self.temperatures = torch.tensor([p.temperature for p in prompts], dtype=torch.float64)
        self.draws = _draws(prompts, longest)
        self.tokens = torch.zeros(n, longest, dtype=torch.long)
        asked = [p.n_top for p in prompts if p.n_top is not None]
        self.n_top = max(asked) if asked else None
        self.logprobs = torch.zeros(n, longest)
        self.top_ids = torch.zeros(n, longest, self.n_top or 0, dtype=torch.long)
        self.top_logprobs = torch.zeros(n, longest, self.n_top or 0)

    def run(self) -> None:
        from transformers import DynamicCache

        cache: Any = DynamicCache(config=self.model.config)
        width = max(len(p.ids) for p in self.prompts)
        inputs = torch.tensor([[0] * (width - len(p.ids)) + list(p.ids) for p in self.prompts])
        seen = torch.tensor([[0] * (width - len(p.ids)) + [1] * len(p.ids) for p in self.prompts])
        positions = (seen.cumsum(1) - 1).clamp(min=0)
        # transformers renamed the argument in 5.24 and warns about the old name
        cached = {"cache" if "cache" in inspect.signature(self.model.forward).parameters else "past_key_values": cache}
        step = 0
        while True:
            logits = (
                self.model(
                    input_ids=inputs,
                    attention_mask=seen,
                    position_ids=positions,
                    use_cache=True,
                    logits_to_keep=1,
                    **cached,
                )
                .logits[:, -1]
                .float()
            )
            chosen = self._choose(logits, step)
            self._note(logits, chosen, step)
            goes_on = ~torch.isin(chosen, self.ends) & (step + 1 < self.limits[self.rows])
            if not bool(goes_on.all()):
                for index in self.rows[~goes_on].tolist():
                    self.on_reply(index, self._reply(index, step + 1))
                kept = goes_on.nonzero()[:, 0]
                if not len(kept):
                    return
                cache.batch_select_indices(kept)
                self.rows, chosen, seen, positions = self.rows[kept], chosen[kept], seen[kept], positions[kept]
            inputs, positions = chosen[:, None], positions[:, -1:] + 1
            seen = torch.cat([seen, torch.ones_like(inputs)], dim=1)
            step += 1

    def _choose(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        """The likeliest token, or for rows with a temperature the one their draw falls on, by inverting the
        distribution function."""
        chosen = logits.argmax(-1)
        if self.draws is None:
            return chosen
        warm = (self.temperatures[self.rows] > 0).nonzero()[:, 0]
        if len(warm):
            scaled = logits[warm].double() / self.temperatures[self.rows[warm], None]
            below = scaled.softmax(-1).cumsum(-1)
            draws = self.draws[self.rows[warm], step, None] * below[:, -1:]
            chosen[warm] = torch.searchsorted(below, draws, right=True)[:, 0].clamp(max=logits.shape[1] - 1)
        return chosen

    def _note(self, logits: torch.Tensor, chosen: torch.Tensor, step: int) -> None:
        self.tokens[self.rows, step] = chosen
        if self.n_top is None:
            return
        logprobs = logits.log_softmax(-1)
        self.logprobs[self.rows, step] = logprobs.gather(1, chosen[:, None])[:, 0]
        if self.n_top:
            best = logprobs.topk(min(self.n_top, logits.shape[1]))
            self.top_logprobs[self.rows, step, : best.values.shape[1]] = best.values
            self.top_ids[self.rows, step, : best.values.shape[1]] = best.indices

    def _reply(self, index: int, n_generated: int) -> Generation:
        prompt = self.prompts[index]
        ids: list[int] = self.tokens[index, :n_generated].tolist()
        is_cut = ids[-1] not in self.ends.tolist()
        n = n_generated if is_cut else n_generated - 1
        if prompt.n_top is None:
            return Generation(ids[:n], n_generated, is_cut, [], [])
        n_top = min(prompt.n_top, self.model.config.vocab_size)
        tops = zip(self.top_ids[index, :n, :n_top].tolist(), self.top_logprobs[index, :n, :n_top].tolist(), strict=True)
        alternatives = [list(zip(tokens, values, strict=True)) for tokens, values in tops]
        return Generation(ids[:n], n_generated, is_cut, self.logprobs[index, :n].tolist(), alternatives)


def _draws(prompts: Sequence[GenerationRequest], longest: int) -> torch.Tensor | None:
    """Uniform numbers in 0..1 for every row and step, each row's from its own seed; None if no row samples."""
    if not any(p.temperature > 0 for p in prompts):
        return None
    draws = torch.zeros(len(prompts), longest, dtype=torch.float64)
    for index, prompt in enumerate(prompts):
        if prompt.temperature > 0:
            source = torch.Generator().manual_seed(prompt.seed)
            draws[index, : prompt.max_new_tokens] = torch.rand(
                prompt.max_new_tokens, generator=source, dtype=torch.float64
            )
    return draws

"""Greedy replies of a model in this process, many prompts at once: how a policy is heard while it is being trained and evaluated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from r2.call import Message


@dataclass(frozen=True, slots=True)
class Reply:
    """A generated text with its token counts; `finish_reason` as chat completions name it."""

    text: str
    input_tokens: int
    output_tokens: int
    finish_reason: str


def replies(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[Message]], max_output_tokens: int, batch_size: int = 16
) -> list[Reply]:
    """One greedy reply per prompt, in order. Prompts of like length are generated together, so that little is padded."""
    import torch

    was_training = model.training
    model.eval()
    encoded = [_encode(tokenizer, prompt) for prompt in prompts]
    by_length = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    found: dict[int, Reply] = {}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    with torch.inference_mode():
        for start in range(0, len(by_length), batch_size):
            batch = by_length[start : start + batch_size]
            width = max(len(encoded[i]) for i in batch)
            ids = torch.tensor([[pad] * (width - len(encoded[i])) + encoded[i] for i in batch], device=model.device)
            mask = torch.tensor([[0] * (width - len(encoded[i])) + [1] * len(encoded[i]) for i in batch])
            generated = model.generate(
                input_ids=ids, attention_mask=mask.to(model.device), max_new_tokens=max_output_tokens, do_sample=False,
                temperature=None, top_p=None, top_k=None, pad_token_id=pad, eos_token_id=tokenizer.eos_token_id, use_cache=True,
            )  # fmt: skip
            for i, row in zip(batch, generated[:, width:].tolist(), strict=True):
                found[i] = _reply(tokenizer, len(encoded[i]), row)
    model.train(was_training)
    return [found[i] for i in range(len(prompts))]


def _encode(tokenizer: Any, prompt: Sequence[Message]) -> list[int]:
    said = [{"role": role, "content": text} for role, text in prompt]
    encoded = tokenizer.apply_chat_template(said, tokenize=True, add_generation_prompt=True, return_dict=True)
    return list(encoded["input_ids"])


def _reply(tokenizer: Any, n_input: int, row: list[int]) -> Reply:
    ended = tokenizer.eos_token_id in row
    kept = row[: row.index(tokenizer.eos_token_id)] if ended else row
    text = tokenizer.decode(kept, skip_special_tokens=True)
    return Reply(text.strip(), n_input, len(kept) + ended, "stop" if ended else "length")

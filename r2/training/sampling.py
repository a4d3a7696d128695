"""A policy loaded into this process, and sampled in batches: the frozen partner of a round, and both policies in its
evaluations.

`LocalPolicy` writes texts for many prompts at once; `Partner` gathers single calls of the reasoning into such batches,
so that to `r2.answering.route` a policy is one more model that completes calls.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r2.call import Call, Completion, Message
from r2.policies.registry import Policy
from r2.roster import Roster
from r2.training.base import load_base, load_policy_weights, load_weights
from r2.training.sampled import SampledText, completion_of

GATHER_S = 0.01
"""How long a call waits for others to share its batch."""
BATCH = 128


class LocalPolicy:
    """Weights and tokenizer, in evaluation mode. `load_policy` makes one."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval()
        self.model.requires_grad_(False)
        self.tokenizer = tokenizer
        self.tokenizer.padding_side = "left"

    def digest(self) -> str:
        """sha256 over all weights as they are now: a frozen policy has the same before and after a round."""
        address = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            address.update(name.encode())
            address.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
        return address.hexdigest()

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a prompt, ready to be answered."""
        said = [{"role": role, "content": text} for role, text in messages]
        ids: list[int] = self.tokenizer.apply_chat_template(
            said, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return ids

    def write(
        self, prompts: Sequence[Sequence[Message]], max_new_tokens: int, *, temperature: float = 0.0, seed: int = 0
    ) -> list[SampledText]:
        """One text per prompt, in order. Temperature 0 is greedy; else the texts depend on the seed and on the prompts
        together.

        The caller's random state is left as it was, so that a trainer's own samples do not change.
        """
        import torch

        ids = [self.prompt_ids(messages) for messages in prompts]
        order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), ids[i]))
        written: dict[int, SampledText] = {}
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            for start in range(0, len(order), BATCH):
                places = order[start : start + BATCH]
                for place, sampled in zip(
                    places, self._batch([ids[i] for i in places], max_new_tokens, temperature), strict=True
                ):
                    written[place] = sampled
        return [written[i] for i in range(len(ids))]

    def _batch(self, ids: Sequence[Sequence[int]], max_new_tokens: int, temperature: float) -> list[SampledText]:
        import torch

        pad, end, width = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, max(map(len, ids))
        padded = torch.tensor([[pad] * (width - len(row)) + list(row) for row in ids], device=self.model.device)
        seen = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=self.model.device)
        how = (
            {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
            if temperature > 0
            else {"do_sample": False}
        )
        out = self.model.generate(
            input_ids=padded,
            attention_mask=seen,
            max_new_tokens=max_new_tokens,
            pad_token_id=pad,
            eos_token_id=end,
            **how,
        )
        return [self.sampled(row, reply[width:].tolist()) for row, reply in zip(ids, out, strict=True)]

    def sampled(self, prompt_ids: Sequence[int], reply: Sequence[int]) -> SampledText:
        """The reply's text and tokens, its end mark counted, what follows it dropped."""
        end = self.tokenizer.eos_token_id
        ended = end in reply
        kept = list(reply[: reply.index(end) + 1]) if ended else list(reply)
        return SampledText(
            self.tokenizer.decode(kept, skip_special_tokens=True), len(prompt_ids), len(kept), is_cut=not ended
        )


class Partner:
    """Completes single calls with a policy at temperature 0, in batches; an equal prompt is answered once. One per
    event loop."""

    def __init__(self, policy: LocalPolicy, roster: Roster) -> None:
        self._policy = policy
        self._roster = roster
        self._known: dict[tuple[Message, ...], asyncio.Future[SampledText]] = {}
        self._waiting: list[Call] = []

    async def complete(self, call: Call) -> Completion:
        """The policy's greedy text as a completion, charged each time it is asked for."""
        if call.messages not in self._known:
            loop = asyncio.get_running_loop()
            self._known[call.messages] = loop.create_future()
            if not self._waiting:
                loop.call_later(GATHER_S, lambda: loop.create_task(self._answer()))
            self._waiting.append(call)
        return completion_of(await asyncio.shield(self._known[call.messages]), call, self._roster)

    async def _answer(self) -> None:
        calls, self._waiting = self._waiting, []
        limit = max(call.max_output_tokens for call in calls)
        try:
            texts = await asyncio.to_thread(self._policy.write, [call.messages for call in calls], limit)
        except Exception as error:
            for call in calls:
                self._known.pop(call.messages).set_exception(error)
            return
        for call, sampled in zip(calls, texts, strict=True):
            self._known[call.messages].set_result(sampled)


def load_policy(policy: Policy, models_dir: Path) -> LocalPolicy:
    """A version ready to be asked; an adapter merged into its base."""
    return LocalPolicy(*load_policy_weights(policy.path, policy.card.base, models_dir))


def load_trainable(policy: Policy, models_dir: Path) -> tuple[Any, Any]:
    """(model, tokenizer) to train on from a version: full weights, or its base with the adapter as what is trained.

    ConfigError if its files are not those of its card.
    """
    policy.check_files()
    if not policy.is_adapter:
        return load_weights(str(policy.path))
    from peft import PeftModel

    model, tokenizer = load_base(policy.card.base, models_dir)
    return PeftModel.from_pretrained(model, str(policy.path), is_trainable=True), tokenizer

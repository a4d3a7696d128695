"""Greedy replies of a set of weights of the pool to many requests at once, by torch: for recording on a GPU what takes
a CPU a day.

    python benchmarks/record.py gsm8k:gsm8k.jsonl --sample 400 --asked asked.jsonl
    python benchmarks/gguf_replies.py asked.jsonl replies.jsonl --models-dir models          # on the machine with a GPU
    python benchmarks/record.py gsm8k:gsm8k.jsonl --sample 400 --replies replies.jsonl

Reads the GGUF files that `r2 pool fetch` brings, dequantizes them to float32 (matrix products in TF32 where the GPU has
it) and keeps keys and values in float16, as llama.cpp does. Replies are not those of llama.cpp to the letter: its
kernels round activations to 8 bits, and where two tokens are about as likely, the other one may be written. How often,
is in docs/results.md. Architectures `llama` and `qwen2`.

One JSON line a reply, in the order of what was asked: the request, `text`, `tokens` with their `logprobs`, `end` (stop
or length), `input_tokens`, and of these `cached_tokens`: those that the request before it begins with too, which a
server with one slot need not read again.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2.errors import ConfigError, InputFileError, R2Error
from r2.pool.servers.local import weights_path

ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>")
AT_ONCE = 1024
"""Requests of one batch at most."""
MICRO = 32
"""Prompts that are read at once: their activations are much larger than what is kept of them."""
LOOK_EVERY = 16
"""Steps after which replies that have ended are taken out of the batch."""

Reply = tuple[list[int], list[float], str]
"""Token ids, their log-probabilities, "stop" or "length"."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a GGUF file says of the network."""

    n_layers: int
    n_heads: int
    n_kv: int
    head_size: int
    eps: float
    rope_base: float
    rotates_halves: bool
    ends: frozenset[int]


class Network:
    """A decoder of the llama family on one device, all weights in float32."""

    def __init__(self, shape: Shape, weights: Mapping[str, Any], device: str) -> None:
        import torch

        self.shape = shape
        self.w = {name: tensor.to(device) for name, tensor in weights.items()}
        self.w.setdefault("output.weight", self.w["token_embd.weight"])
        self.device = device
        # Half precision on a CPU is emulated, and slow.
        self.kept_as = torch.float16 if device == "cuda" else torch.float32

    def replies(self, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> list[Reply]:
        """The greedy reply to each prompt, at most `limits` tokens long."""
        import torch

        with torch.inference_mode():
            return _Batch(self, prompts, limits).run()

    def logits(self, ids: Any, at_B1T: Any, mask: Any, kept: Sequence[Any], begin: int, rows: slice) -> Any:
        """B x vocabulary, of the last of the tokens `ids` (B x T), which are put at place `begin` of what is kept.
        `at_B1T` are their places in their own prompts, `mask` (B x 1 x T x places) what each may look at."""
        import torch
        import torch.nn.functional as F

        shape, w = self.shape, self.w
        n_rows, n_new = ids.shape
        turned = self._angles(at_B1T)
        x = w["token_embd.weight"][ids]
        for layer in range(shape.n_layers):
            part = f"blk.{layer}."
            h = F.rms_norm(x, x.shape[-1:], w[f"{part}attn_norm.weight"], shape.eps)
            q, k, v = (
                F.linear(h, w[f"{part}attn_{name}.weight"], w.get(f"{part}attn_{name}.bias"))
                .view(n_rows, n_new, -1, shape.head_size)
                .transpose(1, 2)
                for name in "qkv"
            )
            q, k = self._rotated(q, turned).to(self.kept_as), self._rotated(k, turned)
            keys, values = kept[layer]
            end = begin + n_new
            keys[rows, :, begin:end] = k.to(self.kept_as)
            values[rows, :, begin:end] = v.to(self.kept_as)
            keys, values = keys[rows, :, :end], values[rows, :, :end]
            n_shared = shape.n_heads // shape.n_kv
            if n_new == 1:  # the heads that share keys stand where the new tokens would: nothing need be copied
                q = q.view(n_rows, shape.n_kv, n_shared, shape.head_size)
                seen = mask.expand(n_rows, 1, n_shared, mask.shape[-1])
                looked = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen)
                looked = looked.reshape(n_rows, 1, -1)
            else:
                keys, values = (kind.repeat_interleave(n_shared, 1) for kind in (keys, values))
                looked = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
                looked = looked.transpose(1, 2).reshape(n_rows, n_new, -1)
            x = x + F.linear(looked.float(), w[f"{part}attn_output.weight"])
            h = F.rms_norm(x, x.shape[-1:], w[f"{part}ffn_norm.weight"], shape.eps)
            gated = F.silu(F.linear(h, w[f"{part}ffn_gate.weight"])) * F.linear(h, w[f"{part}ffn_up.weight"])
            x = x + F.linear(gated, w[f"{part}ffn_down.weight"])
        last: torch.Tensor = F.rms_norm(x[:, -1], x.shape[-1:], w["output_norm.weight"], shape.eps)
        return F.linear(last, w["output.weight"])

    def _angles(self, at: Any) -> tuple[Any, Any]:
        import torch

        size = self.shape.head_size
        steps = torch.arange(0, size, 2, device=self.device, dtype=torch.float32) / size
        angles = at[:, None, :, None].float() / self.shape.rope_base**steps
        return angles.cos(), angles.sin()

    def _rotated(self, x: Any, turned: tuple[Any, Any]) -> Any:
        """Rotary position embedding: pairs are the two halves of a head (qwen2), or neighbours (llama in GGUF)."""
        import torch

        cos, sin = turned
        if self.shape.rotates_halves:
            a, b = x.chunk(2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)


class _Batch:
    """Prompts side by side, filled up on the left, so that all write at the same place."""

    def __init__(self, network: Network, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> None:
        import torch

        self.network, self.prompts, self.limits = network, prompts, limits
        self.width, device = max(map(len, prompts)), network.device
        n_places = self.width + max(limits)
        shape = network.shape
        size = (len(prompts), shape.n_kv, n_places, shape.head_size)
        self.kept = [
            tuple(torch.zeros(size, dtype=network.kept_as, device=device) for _ in range(2))
            for _ in range(shape.n_layers)
        ]
        self.filled = torch.tensor([self.width - len(prompt) for prompt in prompts], device=device)
        self.places = torch.arange(n_places, device=device)

    def run(self) -> list[Reply]:
        import torch

        device, n, most = self.network.device, len(self.prompts), max(self.limits)
        logits = torch.cat([self._read(slice(i, min(n, i + MICRO))) for i in range(0, n, MICRO)])
        ends = torch.tensor(sorted(self.network.shape.ends), device=device)
        limits = torch.tensor(self.limits, device=device)
        written = torch.full((n, most), -1, dtype=torch.long, device=device)
        sure = torch.zeros(n, most, device=device)
        has_ended = torch.zeros(n, dtype=torch.bool, device=device)
        here = torch.arange(n, device=device)  # the replies that are still in the batch
        for step in range(most):
            best = logits.argmax(-1)
            written[here, step] = torch.where(has_ended[here], -1, best)
            sure[here, step] = logits.gather(1, best[:, None])[:, 0] - logits.logsumexp(-1)
            has_ended[here] |= torch.isin(best, ends) | (step + 1 >= limits[here])
            if step + 1 == most:
                break
            if (step + 1) % LOOK_EVERY == 0:
                open_ = ~has_ended[here]
                if not open_.any():
                    break
                self.kept = [tuple(kind[open_] for kind in layer) for layer in self.kept]
                here, best, self.filled = here[open_], best[open_], self.filled[open_]
            place = self.width + step
            mask = self.places[None, None, None, : place + 1] >= self.filled[:, None, None, None]
            at = (place - self.filled)[:, None]
            logits = self.network.logits(best[:, None], at, mask, self.kept, place, slice(None))
        return [self._reply(*of_one) for of_one in zip(written.tolist(), sure.tolist(), strict=True)]

    def _read(self, rows: slice) -> Any:
        """Reads some of the prompts; logits of what follows each."""
        import torch

        prompts, filled = self.prompts[rows], self.filled[rows]
        begin = self.width - max(map(len, prompts))
        ids = torch.tensor([[*[0] * (self.width - begin - len(prompt)), *prompt] for prompt in prompts])
        places, new = self.places[: self.width], self.places[begin : self.width]
        may_see = (places[None, None] >= filled[:, None, None]) & (new[None, :, None] >= places[None, None])
        may_see |= new[None, :, None] == places[None, None]  # what is filled up sees itself: no row of zeros
        at = (new[None] - filled[:, None]).clamp(min=0)
        return self.network.logits(ids.to(self.network.device), at, may_see[:, None], self.kept, begin, rows)

    def _reply(self, ids: list[int], logprobs: list[float]) -> Reply:
        n = next((i for i, token in enumerate(ids) if token < 0), len(ids))
        end = "stop" if n and ids[n - 1] in self.network.shape.ends else "length"
        return ids[:n], [round(one, 4) for one in logprobs[:n]], end


def load(path: Path, device: str) -> Network:
    """The network of a GGUF file. ConfigError for an architecture that is not known here."""
    import torch
    from gguf import GGUFReader

    reader = GGUFReader(str(path))
    arch = reader.fields["general.architecture"].contents()
    if arch not in ("llama", "qwen2"):
        raise ConfigError(f"{path}: architecture {arch}; llama and qwen2 are known here.")

    def said(name: str) -> Any:
        return reader.fields[f"{arch}.{name}"].contents()

    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    shape = Shape(
        n_layers=said("block_count"),
        n_heads=said("attention.head_count"),
        n_kv=said("attention.head_count_kv"),
        head_size=said("embedding_length") // said("attention.head_count"),
        eps=said("attention.layer_norm_rms_epsilon"),
        rope_base=said("rope.freq_base"),
        rotates_halves=arch == "qwen2",
        ends=frozenset(
            {reader.fields["tokenizer.ggml.eos_token_id"].contents()}
            | {number for number, token in enumerate(tokens) if token in ENDS}
        ),
    )
    names = [tensor.name for tensor in reader.tensors]
    workers = ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"), initializer=_open, initargs=(path,))
    with workers:
        weights = {name: torch.from_numpy(array) for name, array in zip(names, workers.map(_read, names), strict=True)}
    return Network(shape, weights, device)


_FILE: dict[str, Any] = {}
"""Of a worker: the tensors of its file by name. Parsing the file takes a second, which no tensor should wait for."""


def _open(path: Path) -> None:
    from gguf import GGUFReader

    _FILE.update((tensor.name, tensor) for tensor in GGUFReader(str(path)).tensors)


def _read(name: str) -> Any:
    import numpy as np
    from gguf.quants import dequantize

    tensor = _FILE[name]
    return np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), np.float32)


def answered(network: Network, asked: Sequence[tuple[Sequence[int], int]], most_places: int) -> list[Reply]:
    """The reply to each (prompt, limit). Batches are of like limit and length, and hold at most `most_places` tokens;
    one that does not fit the GPU's memory is halved."""
    import torch

    order = sorted(range(len(asked)), key=lambda i: (asked[i][1], len(asked[i][0])))
    found: list[Reply | None] = [None] * len(asked)
    began, n_done = time.monotonic(), 0
    while order:
        batch = [order.pop()]
        width = len(asked[batch[0]][0]) + asked[batch[0]][1]
        most = max(1, min(AT_ONCE, most_places // width))
        while order and len(batch) < most and asked[order[-1]][1] == asked[batch[0]][1]:
            batch.append(order.pop())
        try:
            replies = network.replies([asked[i][0] for i in batch], [asked[i][1] for i in batch])
        except torch.cuda.OutOfMemoryError:
            if len(batch) == 1:
                raise
            torch.cuda.empty_cache()
            most_places, order = most_places // 2, [*order, *batch[::-1]]
            continue
        for i, reply in zip(batch, replies, strict=True):
            found[i] = reply
        n_done += len(batch)
        sys.stderr.write(f"{n_done} of {len(asked)} replies, {time.monotonic() - began:.0f} s\n")
    return [reply for reply in found if reply is not None]


def lines_of(
    requests: Sequence[dict[str, Any]], network: Network, tokenizer: Any, most_places: int
) -> Iterable[dict[str, Any]]:
    """What is written for each request of one set of weights, in their order."""
    prompts = [
        tokenizer.apply_chat_template(one["messages"], add_generation_prompt=True, return_dict=False)
        for one in requests
    ]
    limits = [one["max_tokens"] for one in requests]
    before: Sequence[int] = ()
    replies = answered(network, list(zip(prompts, limits, strict=True)), most_places)
    for request, prompt, (ids, logprobs, end) in zip(requests, prompts, replies, strict=True):
        body = ids[:-1] if end == "stop" else ids
        yield {
            **request,
            "text": tokenizer.decode(body),
            "tokens": [*(tokenizer.decode([token]) for token in body), *[""] * (len(ids) - len(body))],
            "logprobs": logprobs,
            "end": end,
            "input_tokens": len(prompt),
            "cached_tokens": min(n_alike(prompt, before), len(prompt) - 1),
        }
        before = prompt


def n_alike(prompt: Sequence[int], before: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next(
        (i for i, (a, b) in enumerate(zip(prompt, before, strict=False)) if a != b), min(len(prompt), len(before))
    )


def read_asked(path: Path) -> list[dict[str, Any]]:
    """The requests. InputFileError for no file, or a line that is none."""
    if not path.is_file():
        raise InputFileError(f"{path}: no such file. benchmarks/record.py --asked {path} writes it.")
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            request = json.loads(line)
            _ = request["weights"], request["messages"], request["max_tokens"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputFileError(f"{path}:{number}: no request of benchmarks/record.py --asked ({error!r}).") from error
        found.append(request)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("asked", type=Path, help="by `record.py --asked`")
    parser.add_argument("out", type=Path)
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.add_argument("--most-places", type=int, default=300_000, help="tokens of a batch, with all it may write")
    given = parser.parse_args()
    try:
        import torch
        from transformers import AutoTokenizer

        torch.backends.cuda.matmul.allow_tf32 = True
        of_weights: dict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
        for place, request in enumerate(read_asked(given.asked)):
            of_weights[request["weights"]].append((place, request))
        lines: dict[int, dict[str, Any]] = {}
        for name, requests in of_weights.items():
            path = weights_path(name, given.models_dir, f"local:{name}")
            network = load(path, "cuda" if torch.cuda.is_available() else "cpu")
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            places, asked = zip(*requests, strict=True)
            lines.update(zip(places, lines_of(asked, network, tokenizer, given.most_places), strict=True))
            del network
        given.out.write_text("".join(f"{json.dumps(lines[place])}\n" for place in sorted(lines)), "utf-8")
    except R2Error as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

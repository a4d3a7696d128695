"""The base `tiny`: a word-level tokenizer and a small Llama, made in code, for closed little languages, tests and the
proof that training learns.

Nothing is downloaded and nothing is pretrained. The tokenizer knows the words of the texts it is given and nothing
else; the model has two layers of width 64, a tenth of a million parameters, unless its name says more (`tiny:128x4`),
and learns to plan and allocate a small family of problems in minutes of one CPU core. Both are saved as ordinary
Hugging Face files, so SFT, GRPO and the policy server treat them like any other base.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

UNKNOWN = "<unk>"
END = "<end>"
"""Ends every message, and so every completion; it pads, too: trainers mask by length."""
ROLES = ("<system>", "<user>", "<assistant>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
_WORD = r" ?\d| ?[^\W\d]+| ?[^\w\s]+|\s"
"""A token: a digit, a word or a run of marks, each with the space before it, or other white space. Joined, tokens are
the text. Numbers are read digit by digit, so that those which no row had can be read and computed with."""


_BASE = re.compile(r"tiny(?::(\d{2,4})x(\d{1,2}))?")
_HEADS = 4


def tiny_size(base: str) -> dict[str, int] | None:
    """Width and layers of a base named `tiny` or `tiny:WIDTHxLAYERS`; None if it is another base. ValueError for a
    width its heads do not divide."""
    named = _BASE.fullmatch(base)
    if named is None:
        return None
    hidden, layers = int(named[1] or 64), int(named[2] or 2)
    if hidden % (2 * _HEADS) or layers < 1:
        raise ValueError(f"base {base}: expected a width that is a multiple of {2 * _HEADS}, and a layer at least")
    return {"hidden": hidden, "layers": layers}


def make_tokenizer(texts: Iterable[str]) -> Any:
    """A fast tokenizer (transformers) whose words are those of `texts`; others become `<unk>`. The same texts give the
    same ids."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Split(Regex(_WORD), behavior="isolated")
    words = {piece for text in texts for piece, _ in split.pre_tokenize_str(text)}
    special = [UNKNOWN, END, *ROLES]
    vocabulary = {word: i for i, word in enumerate([*special, *sorted(words - set(special))])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.pre_tokenizer = split
    core.decoder = decoders.Fuse()
    core.add_special_tokens(special)
    make: Any = PreTrainedTokenizerFast
    tokenizer = make(
        tokenizer_object=core,
        unk_token=UNKNOWN,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=list(ROLES),
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(tokenizer: Any, seed: int, *, hidden: int = 64, layers: int = 2, heads: int = _HEADS) -> Any:
    """A Llama with random weights, the same for the same seed.

    `initializer_range` is 0.1: with the usual 0.02 a model this narrow forms no attention to its prompt within hundreds
    of steps (measured; ours).
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1024,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def save_tiny(folder: Path | str, texts: Iterable[str], seed: int, **size: int) -> None:
    """Tokenizer and untrained model as a Hugging Face folder: a base for `r2 sft`."""
    tokenizer = make_tokenizer(texts)
    make_model(tokenizer, seed, **size).save_pretrained(folder)
    tokenizer.save_pretrained(folder)

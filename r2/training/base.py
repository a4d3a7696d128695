"""Base models by name: what a policy is trained from, as a Hugging Face folder in float32.

A catalogue name (`smollm2` for short) is dequantised once from its GGUF file into `<models_dir>/<name>/hf`; a path or a
hub id is used as it is. `tiny` and `tiny:WIDTHxLAYERS` are made from scratch in r2/training/tiny.py, because its words
are those of its rows.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from r2.errors import ConfigError
from r2.policies.registry import CARD, CATALOGUE_NAME, Registry
from r2.pool.servers.fetch import catalogue, find_weights
from r2.training.dequantise import dequantise
from r2.training.tiny import make_model, make_tokenizer, tiny_size


def base_folder(base: str, models_dir: Path) -> str:
    """Folder (or hub id) of the base's float32 weights; made first where it is a catalogue name. ConfigError if its
    file is not fetched."""
    name = CATALOGUE_NAME.get(base, base)
    if name not in catalogue():
        return base
    folder = models_dir / name / "hf"
    if not (folder / "config.json").exists():
        weights = find_weights(name)
        path = weights.path(models_dir)
        if not path.exists():
            raise ConfigError(f"base {base}: {path} is not there. Fetch it with: r2 pool fetch {name}")
        dequantise(path, folder)
    return str(folder)


def load_base(base: str, models_dir: Path, texts: Iterable[str] = (), seed: int = 0) -> tuple[Any, Any]:
    """(model in float32, tokenizer). `texts` are the words of `tiny`, which nothing else needs."""
    if size := tiny_size(base):
        tokenizer = make_tokenizer(texts)
        return make_model(tokenizer, seed, **size), tokenizer
    return load_weights(base_folder(base, models_dir))


def load_weights(folder: str) -> tuple[Any, Any]:
    """(model in float32, tokenizer) of a Hugging Face folder. ConfigError if it holds none."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"base {folder}: neither a catalogue name ({', '.join(catalogue())}) nor Hugging Face weights: {error}"
        ) from error


def load_policy_weights(folder: Path, base: str, models_dir: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of a policy's folder: full weights, or its base with the adapter merged in.

    ConfigError if it is a version whose files are not those of its card.
    """
    if (folder / CARD).exists():
        Registry(folder.parent).load(folder).check_files()
    if not (folder / "adapter_config.json").exists():
        return load_weights(str(folder))
    from peft import PeftModel

    model, tokenizer = load_base(base, models_dir)
    return PeftModel.from_pretrained(model, str(folder)).merge_and_unload(), tokenizer

"""A PEFT LoRA adapter as the GGUF file that llama.cpp loads beside its base, so that the embedded server can serve a
trained policy.

llama.cpp's own converter needs torch and a checkout; this is the part of it that LoRA on attention and feed-forward
projections of the llama and qwen2 architectures takes, in numpy. What cannot be carried over faithfully is refused,
never dropped. The format is that of llama.cpp's `convert_lora_to_gguf.py`: for a base tensor W (out x in) `W.lora_a` is
A (rank x in) and `W.lora_b` is B (out x rank), and W + alpha / rank * B A is applied.
"""

import filecmp
import math
import os
import re
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import orjson
import safetensors
import safetensors.numpy

from r2.atomic import replacing, write_atomically
from r2.errors import ConfigError

Matrix = npt.NDArray[np.float32]
CACHED = "adapter.gguf"
_TENSOR = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_KEY = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True, slots=True)
class BaseShape:
    """What the conversion must know of the base: its architecture and how its query and key rows fall into heads."""

    architecture: str
    n_heads: int
    n_kv_heads: int

    @classmethod
    def of_gguf(cls, path: Path) -> "BaseShape":
        """From the header of the base's GGUF file. ConfigError for an architecture whose rows we do not know."""
        keys = _header(path)
        architecture = keys.get("general.architecture")
        if architecture not in ("llama", "qwen2"):
            raise ConfigError(f"{path}: architecture {architecture!r}; adapters can be converted for llama and qwen2.")
        n_heads = int(keys[f"{architecture}.attention.head_count"])
        return cls(str(architecture), n_heads, int(keys.get(f"{architecture}.attention.head_count_kv", n_heads)))


def _header(path: Path) -> dict[str, str | int | float]:
    """The scalar keys of a GGUF file. By hand, because the package's reader takes seconds over the vocabulary, which
    comes with it."""
    with path.open("rb") as file:

        def number(form: str) -> Any:
            return struct.unpack("<" + form, file.read(struct.calcsize(form)))[0]

        def text() -> str:
            return file.read(number("Q")).decode("utf-8", "replace")

        if file.read(4) != b"GGUF":
            raise ConfigError(f"{path}: not a GGUF file.")
        number("I"), number("Q")
        keys: dict[str, str | int | float] = {}
        for _ in range(number("Q")):
            key, kind = text(), number("I")
            if kind == _ARRAY:
                of, length = number("I"), number("Q")
                for _ in range(length):
                    file.seek(number("Q") if of == _STRING else struct.calcsize(_FORMS[of]), os.SEEK_CUR)
            else:
                keys[key] = text() if kind == _STRING else number(_FORMS[kind])
    return keys


def cached_gguf(adapter: Path, base_gguf: Path) -> Path:
    """The adapter's GGUF file, kept beside it as `adapter.gguf`, for it must lie somewhere while it is served.

    Converted each time, which takes less than a second, and replaced where it is not the same: no card has its hash.
    """
    path = adapter / CACHED
    with tempfile.TemporaryDirectory(prefix="r2-") as folder:
        made = Path(folder) / CACHED
        convert(adapter, BaseShape.of_gguf(base_gguf), made)
        try:
            if path.is_symlink() or not path.exists() or not filecmp.cmp(made, path, shallow=False):
                write_atomically(path, made.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be written: {error}. Make the folder writable, or copy the policy."
            ) from error
    return path


def convert(adapter: Path, base: BaseShape, out: Path) -> None:
    """Writes `out` from the folder `adapter` (PEFT's two files). ConfigError for anything llama.cpp would apply in
    another way."""
    config = _read_config(adapter)
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    if config.get("use_rslora"):  # there the factor is alpha / sqrt(rank)
        alpha *= math.sqrt(rank)
    tensors = _read_tensors(adapter)
    with replacing(out) as file:
        writer = gguf.GGUFWriter(file.name, base.architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        for name, matrix in sorted(tensors.items()):
            writer.add_tensor(name, _in_gguf_rows(name, matrix, base))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def permute_rows(matrix: Matrix, n_heads: int) -> Matrix:
    """Rows of a query or key projection from Hugging Face's order into llama.cpp's.

    Within a head Hugging Face keeps the two halves of the rotary pairs apart (0, 1, 2, ..., then their partners),
    llama.cpp puts partners next to each other. Source: `LlamaModel.permute` in llama.cpp's `convert_hf_to_gguf.py`.
    """
    rows, columns = matrix.shape
    return np.ascontiguousarray(
        matrix.reshape(n_heads, 2, rows // n_heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    )


def _in_gguf_rows(name: str, matrix: Matrix, base: BaseShape) -> Matrix:
    """Only B has the projection's output rows, so only B is permuted; qwen2 keeps Hugging Face's order."""
    if base.architecture != "llama" or not name.endswith(".lora_b"):
        return matrix
    if ".attn_q." in name:
        return permute_rows(matrix, base.n_heads)
    return permute_rows(matrix, base.n_kv_heads) if ".attn_k." in name else matrix


def _read_config(adapter: Path) -> dict[str, Any]:
    path = adapter / "adapter_config.json"
    try:
        config: dict[str, Any] = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not a PEFT adapter's configuration: {error}") from error
    for key in ("use_dora", "modules_to_save", "alpha_pattern", "fan_in_fan_out"):
        if config.get(key):
            raise ConfigError(f"{path}: {key} = {config[key]!r} has no place in a GGUF adapter; train without it.")
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise ConfigError(f"{path}: expected peft_type LORA with bias none; only these can be converted.")
    if config.get("use_rslora") and config.get("rank_pattern"):
        raise ConfigError(f"{path}: use_rslora with rank_pattern has no single alpha; train without one of them.")
    return config


def _read_tensors(adapter: Path) -> dict[str, Matrix]:
    path = adapter / "adapter_model.safetensors"
    try:
        stored = safetensors.numpy.load_file(path)
    except (OSError, TypeError, safetensors.SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read as float16 or float32 safetensors: {error}") from error
    tensors: dict[str, Matrix] = {}
    for key, value in stored.items():
        match = _KEY.fullmatch(key)
        if match is None or match[2] not in _TENSOR:
            known = ", ".join(name.rpartition(".")[2] for name in _TENSOR)
            raise ConfigError(f"{path}: tensor {key!r} cannot be converted; train with target_modules among {known}.")
        tensors[f"blk.{match[1]}.{_TENSOR[match[2]]}.weight.lora_{match[3].lower()}"] = value.astype(np.float32)
    if not tensors:
        raise ConfigError(f"{path}: holds no tensors.")
    return tensors

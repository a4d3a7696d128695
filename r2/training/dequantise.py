"""Dequantises a GGUF file into a Hugging Face folder in float32: `python dequantise.py FILE FOLDER`.

A script of its own that imports nothing of this project, because another environment's Python may run it: vLLM's has
torch and transformers, where the core's may have neither (r2/pool/servers/vllm_command.py). FOLDER appears whole, by
one rename, or not at all. transformers keeps GGUF weights quantised unless told, and then cannot save.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any


def dequantise(gguf: Path, folder: Path) -> None:
    """Writes weights, their configuration and the tokenizer. A folder that another process finished first stays."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model: Any = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        temporary.rename(folder)
    except OSError:
        if not (folder / "config.json").exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    dequantise(Path(sys.argv[1]), Path(sys.argv[2]))

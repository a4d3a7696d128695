"""LoRA adapters for the embedded server: rows in llama.cpp's order, scale and shapes as it expects, and the same text
from it."""

import asyncio
import json
import os
from pathlib import Path

import aiohttp
import gguf
import numpy as np
import pytest
import safetensors.numpy

from r2.errors import ConfigError
from r2.policies.adapter_gguf import BaseShape, cached_gguf, convert, permute_rows
from r2.policies.registry import PolicyCard, Registry
from r2.pool.client.ports import Address
from r2.pool.file.config import load_pool
from r2.pool.servers.endpoints import open_endpoints
from r2.pool.servers.fetch import find_weights, is_fetched
from r2.pool.servers.local import open_local
from tests.support.paths import ROOT

MODELS = Path(os.environ.get("R2_MODELS_DIR", ROOT / "models"))
BASE = "smollm2-135m-instruct"
SMALL = BaseShape("llama", n_heads=2, n_kv_heads=1)
LAYER = "base_model.model.model.layers.0"


def adapter(folder: Path, tensors: dict[str, np.ndarray], **config: object) -> Path:
    """A PEFT adapter's folder; rank 2 and alpha 6 unless told."""
    folder.mkdir(exist_ok=True)
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings), "utf-8")
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def pair(module: str, n_in: int, n_out: int) -> dict[str, np.ndarray]:
    """A and B of one module; B's rows are numbered 0, 1, 2, ... so that their order can be read off."""
    return {
        f"{LAYER}.{module}.lora_A.weight": np.arange(2 * n_in, dtype=np.float16).reshape(2, n_in),
        f"{LAYER}.{module}.lora_B.weight": np.repeat(np.arange(n_out, dtype=np.float16)[:, None], 2, axis=1),
    }


def read(path: Path) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


def test_rotary_partners_become_neighbours_within_each_head():
    # two heads of four rows: halves (0 1 | 2 3) and (4 5 | 6 7); row 0 turns with 2, 1 with 3
    rows = np.arange(8, dtype=np.float32)[:, None]
    assert permute_rows(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert permute_rows(rows, 1)[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_an_adapter_becomes_a_file_of_named_pairs_with_its_alpha(tmp_path: Path):
    tensors = {**pair("self_attn.q_proj", 8, 8), **pair("self_attn.k_proj", 8, 4), **pair("mlp.down_proj", 12, 8)}
    convert(adapter(tmp_path, tensors), SMALL, tmp_path / "out.gguf")
    fields, written = read(tmp_path / "out.gguf")
    assert (fields["general.type"], fields["general.architecture"]) == ("adapter", "llama")
    assert (fields["adapter.type"], fields["adapter.lora.alpha"]) == ("lora", 6.0)
    assert sorted(written) == [f"blk.0.{n}.weight.lora_{x}" for n in ("attn_k", "attn_q", "ffn_down") for x in "ab"]
    assert written["blk.0.attn_q.weight.lora_a"].tolist() == [[*range(8)], [*range(8, 16)]]
    assert written["blk.0.attn_q.weight.lora_b"][:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert written["blk.0.attn_k.weight.lora_b"][:, 0].tolist() == [0, 2, 1, 3], "one key head of four rows"
    assert written["blk.0.ffn_down.weight.lora_b"][:, 0].tolist() == [*range(8)]
    assert {str(matrix.dtype) for matrix in written.values()} == {"float32"}


def test_qwen2_keeps_its_rows(tmp_path: Path):
    convert(adapter(tmp_path, pair("self_attn.q_proj", 8, 8)), BaseShape("qwen2", 2, 1), tmp_path / "out.gguf")
    assert read(tmp_path / "out.gguf")[1]["blk.0.attn_q.weight.lora_b"][:, 0].tolist() == [*range(8)]


def test_rank_stabilised_scale_is_carried_in_alpha(tmp_path: Path):
    # rsLoRA applies alpha / sqrt(r) = 6 / 2; llama.cpp applies alpha' / r, so alpha' = 6 * 4 / 2 = 12
    folder = adapter(tmp_path, pair("mlp.up_proj", 8, 12), r=4, use_rslora=True)
    convert(folder, SMALL, tmp_path / "out.gguf")
    assert read(tmp_path / "out.gguf")[0]["adapter.lora.alpha"] == 12.0


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (pair("mlp.up_proj", 8, 12), {"use_dora": True}, "use_dora = True has no place"),
        (pair("mlp.up_proj", 8, 12), {"bias": "all"}, "bias none"),
        (pair("mlp.router", 8, 12), {}, "mlp.router.* cannot be converted; train with target_modules among q_proj"),
        ({}, {}, "holds no tensors"),
    ],
)
def test_what_would_be_applied_in_another_way_is_refused(
    tmp_path: Path, tensors: dict[str, np.ndarray], config: dict[str, object], message: str
):
    with pytest.raises(ConfigError, match=message):
        convert(adapter(tmp_path, tensors, **config), SMALL, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


needs_weights = pytest.mark.skipif(
    not is_fetched(find_weights(BASE), MODELS), reason=f"weights not fetched: r2 pool fetch {BASE}"
)


def smollm2_adapter(folder: Path) -> Path:
    """Random, on every layer's query and down projection."""
    chance = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}
    for layer in range(30):
        for module, n_in, n_out in (("self_attn.q_proj", 576, 576), ("mlp.down_proj", 1536, 576)):
            stem = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{stem}.lora_A.weight"] = chance.normal(0, 0.1, (2, n_in)).astype(np.float16)
            tensors[f"{stem}.lora_B.weight"] = chance.normal(0, 0.1, (n_out, 2)).astype(np.float16)
    return adapter(folder, tensors)


POOL = """[router]
decomposer = "plain"
allocator = "plain"
""" + "".join(
    f"""
[models.{name}]
endpoint = "{endpoint}"
tier = "small"
{mode}
context_tokens = 256
price_usd_per_mtok = {{input = 1.0, output = 2.0, date = "2026-11-01", source = "made up"}}
"""
    for name, endpoint, mode in (
        ("plain", f"local:{BASE}", ""),
        ("trained", "policy:specialist@v1", 'prompt_mode = "bare"'),
        ("trained-too", "policy:specialist", 'prompt_mode = "bare"'),
    )
)


@needs_weights
def test_a_pools_embedded_server_applies_the_adapter_of_its_policy(tmp_path: Path):
    registry = Registry(tmp_path / "policies")
    card = PolicyCard(name="specialist", kind="specialist", base="smollm2")
    registry.create("specialist", card, lambda folder: smollm2_adapter(folder) and None)
    registry.promote("specialist", "v1", "first")
    (tmp_path / "pool.toml").write_text(POOL, "utf-8")
    pool = load_pool(tmp_path / "pool.toml", registry.root)
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    body = {"messages": messages, "max_tokens": 8, "temperature": 0, "logprobs": True, "top_logprobs": 1}

    async def ask(address: Address) -> dict:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{address.base_url}/chat/completions", json={**body, "model": address.served_model}) as reply,
        ):
            return await reply.json()

    async def ask_both() -> tuple[dict[str, Address], dict, dict]:
        async with open_endpoints(pool, models_dir=MODELS, log_dir=tmp_path) as addresses:
            return addresses, await ask(addresses["plain"]), await ask(addresses["trained"])

    addresses, plain, trained = asyncio.run(ask_both())
    assert addresses["trained"] == addresses["trained-too"], "the same weights share a server"
    assert addresses["trained"].base_url != addresses["plain"].base_url
    assert trained["model"] == "specialist@v1"
    assert plain["choices"][0]["message"]["content"].startswith("The capital of France is Paris")
    first, adapted = (r["choices"][0]["logprobs"]["content"][0]["logprob"] for r in (plain, trained))
    assert adapted != pytest.approx(first, abs=1e-3)
    assert (registry.load("specialist").path / "adapter.gguf").exists()


@needs_weights
def test_the_bases_heads_are_read_from_its_file():
    assert BaseShape.of_gguf(find_weights(BASE).path(MODELS)) == BaseShape("llama", 9, 3)


@needs_weights
def test_a_converted_file_is_kept_until_the_weights_change(tmp_path: Path):
    folder = smollm2_adapter(tmp_path / "adapter")
    made = cached_gguf(folder, find_weights(BASE).path(MODELS))
    before, inode = made.read_bytes(), made.stat().st_ino
    assert cached_gguf(folder, find_weights(BASE).path(MODELS)).stat().st_ino == inode, "not written again"
    weights = folder / "adapter_model.safetensors"
    changed = {name: 2 * values for name, values in safetensors.numpy.load_file(weights).items()}
    safetensors.numpy.save_file(changed, weights)
    assert cached_gguf(folder, find_weights(BASE).path(MODELS)).read_bytes() != before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, about itself
@needs_weights
@pytest.mark.skipif(
    not (MODELS / BASE / "hf/model.safetensors").exists(), reason="no dequantised base: made by the first r2 sft on it"
)
def test_llama_cpp_and_transformers_agree_on_an_adapter(tmp_path: Path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hf = MODELS / BASE / "hf"
    tokenizer = AutoTokenizer.from_pretrained(hf)
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32),
        LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]),
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.04 if ".k_proj." in name or ".q_proj." in name else 0.02)
    model.save_pretrained(tmp_path / "adapter")
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Count from one to ten."}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**prompt, max_new_tokens=16, do_sample=False, return_dict_in_generate=True, output_logits=True)
    tokens = out.sequences[0, prompt["input_ids"].shape[1] :]
    expected = [torch.log_softmax(x[0], -1)[t].item() for x, t in zip(out.logits, tokens, strict=True)]

    async def ask() -> dict:
        lora = cached_gguf(tmp_path / "adapter", find_weights(BASE).path(MODELS))
        body = {"messages": messages, "max_tokens": 16, "temperature": 0, "logprobs": True, "top_logprobs": 1}
        async with (
            open_local(BASE, models_dir=MODELS, log_dir=tmp_path, context_tokens=256, lora=lora) as url,
            aiohttp.ClientSession() as session,
            session.post(f"{url}/chat/completions", json=body) as reply,
        ):
            return (await reply.json())["choices"][0]

    choice = asyncio.run(ask())
    found = [entry["logprob"] for entry in choice["logprobs"]["content"]]
    assert choice["message"]["content"] == tokenizer.decode(tokens, skip_special_tokens=True)
    # llama.cpp rounds activations to 8 bits; without the permutation the texts differ at once
    assert max(abs(a - b) for a, b in zip(found, expected, strict=False)) < 0.4

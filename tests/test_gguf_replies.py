"""Replies in large batches are those of transformers on the same weights, whatever else is in the batch."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.gguf_replies import answered, load, n_alike, read_asked
from r2.errors import ConfigError, InputFileError

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

N_TOKENS, DIM, N_HEADS, N_KV, INNER, N_LAYERS, END = 61, 32, 4, 2, 48, 2, 7
PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def made(path: Path, arch: str = "qwen2") -> "transformers.Qwen2ForCausalLM":
    """A network of random weights, written to a GGUF file."""
    torch.manual_seed(3)
    config = transformers.Qwen2Config(
        vocab_size=N_TOKENS,
        hidden_size=DIM,
        intermediate_size=INNER,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_KV,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
        eos_token_id=END,
        initializer_range=0.4,
    )
    model = transformers.Qwen2ForCausalLM(config).eval()
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(N_LAYERS)
    writer.add_embedding_length(DIM)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_token_list([f"t{i}" for i in range(N_TOKENS)])
    writer.add_eos_token_id(END)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(tensor.float().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def gguf_name(name: str) -> str:
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem, _, kind = name.rpartition(".")
    if stem in whole:
        return f"{whole[stem]}.{kind}"
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{PARTS[part]}.{kind}"


def test_each_reply_is_the_greedy_one(tmp_path: Path):
    model = made(tmp_path / "tiny.gguf")
    network = load(tmp_path / "tiny.gguf", "cpu")
    chance = np.random.default_rng(0)
    asked = [(chance.integers(8, N_TOKENS, n).tolist(), limit) for n, limit in [(3, 40), (11, 40), (1, 5), (6, 40)]]
    ends = set()
    for (prompt, limit), (ids, logprobs, end) in zip(asked, answered(network, asked, 10_000), strict=True):
        with torch.no_grad():
            whole = model.generate(torch.tensor([prompt]), max_new_tokens=limit, do_sample=False, pad_token_id=0)
            expected = whole[0, len(prompt) :].tolist()
            said = model(whole).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        assert ids == expected
        assert end == ("stop" if expected[-1] == END else "length")
        ends.add(end)
        assert logprobs == pytest.approx([float(said[i, token]) for i, token in enumerate(ids)], abs=1e-3)
    assert ends == {"stop", "length"}
    alone = [answered(network, [one], 10)[0] for one in asked]
    assert [reply[0] for reply in alone] == [reply[0] for reply in answered(network, asked, 10_000)]


def test_another_architecture_is_refused_by_name(tmp_path: Path):
    made(tmp_path / "other.gguf", "gpt2")
    with pytest.raises(ConfigError, match="architecture gpt2; llama and qwen2 are known here"):
        load(tmp_path / "other.gguf", "cpu")


def test_what_two_prompts_begin_with():
    assert [n_alike([1, 2, 3], other) for other in ([1, 2, 4], [1, 2], [1, 2, 3, 4], [])] == [2, 2, 3, 0]


def test_what_is_no_request_is_named_with_its_line(tmp_path: Path):
    with pytest.raises(InputFileError, match=r"asked.jsonl: no such file. .*--asked"):
        read_asked(tmp_path / "asked.jsonl")
    good = '{"weights": "w", "messages": [{"content": "a\u2028b"}], "max_tokens": 3}'
    (tmp_path / "asked.jsonl").write_text(good, "utf-8")
    assert len(read_asked(tmp_path / "asked.jsonl")) == 1  # a separator of lines inside a text ends no line
    (tmp_path / "asked.jsonl").write_text(f'{good}\n{{"weights": "w"}}\n', "utf-8")
    with pytest.raises(InputFileError, match=r"asked.jsonl:2: no request"):
        read_asked(tmp_path / "asked.jsonl")

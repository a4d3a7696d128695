"""What a pool file says of vLLM servers and their adapters, and what it is told about it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from flows.cli.pool import local_names
from r2.errors import PoolFileError
from r2.pool.file.config import load_pool
from r2.pool.file.identity import answering_digest
from r2.pool.servers.vllm_command import Environment, start_of, vllm_environment, weights_of
from r2.pool.servers.vllm_shared import Place
from tests.support.paths import ROOT
from tests.support.vllm_pool import VllmPool

BARE = 'prompt_mode = "bare"'


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VllmPool:
    return VllmPool(tmp_path, monkeypatch)


def test_a_promotion_changes_what_the_pool_file_means_and_the_base_stays_what_it_is(place: VllmPool):
    place.adapter("first")
    place.registry.promote("decomposer", "v1", "trained")
    before = place.write({"base": "", "decomposer": f'adapter = "decomposer"\n{BARE}'})
    place.adapter("second")
    assert load_pool(before.path).digest == before.digest
    place.registry.promote("decomposer", "v2", "better")
    after = load_pool(before.path)
    assert after.policies["decomposer"].ref == "decomposer@v2"
    assert after.digest != before.digest
    assert answering_digest(after, "decomposer") != answering_digest(before, "decomposer")
    assert answering_digest(after, "base") == answering_digest(before, "base")


def test_how_much_a_server_does_at_once_is_no_part_of_what_a_pool_is_and_its_arguments_are(place: VllmPool):
    plain = place.write({"one": ""}).digest
    assert place.write({"one": ""}, "max_num_seqs = 8\nkv_cache_gib = 2\nstart_timeout_s = 5").digest == plain
    assert place.write({"one": ""}, 'args = ["--quantization", "fp8"]').digest != plain
    assert place.write({"one": ""}, 'dtype = "bfloat16"').digest != plain


@pytest.mark.parametrize(
    ("entry", "options", "message"),
    [
        ("", 'args = ["--port", "1"]', r"pool\.toml:6: .*--port in args is set from this table"),
        ("", 'args = ["--api-key=x"]', r"--api-key in args: this file is stored with every run"),
        ("", "max_num_sequences = 3", r"unknown key\. Did you mean 'max_num_seqs'\?"),
        ('adapter = "nobody"\n' + BARE, "", r"models\.one\.adapter: policy 'nobody': not in"),
        ('adapter = "decomposer@v1"', "", r'trained on .bare. prompts\. Set prompt_mode = "bare"'),
        ('adapter = "decomposer@v9"\n' + BARE, "", r"decomposer@v9: no such version.*Versions: v1"),
        ('adapter = "other@v1"\n' + BARE, "", r"other@v1 is an adapter of elsewhere, and the server loads /"),
        ('adapter = "full@v1"\n' + BARE, "", r'full@v1 is full weights.*endpoint = "policy:full@v1"'),
    ],
)
def test_what_is_wrong_is_named_with_what_to_change(place: VllmPool, entry: str, options: str, message: str):
    place.adapter("it")
    place.adapter("it", name="other", base="elsewhere")
    place.adapter("it", name="full", is_full=True)
    with pytest.raises(PoolFileError, match=message):
        place.write({"one": entry}, options)


def test_an_adapter_is_for_vllm_and_a_servers_table_for_an_entry(tmp_path: Path):
    text = (ROOT / "pools/vllm.toml").read_text("utf-8")
    path = tmp_path / "pool.toml"
    path.write_text(text.replace('endpoint = "vllm:smollm2-135m-instruct"\nadapter', 'endpoint = "local:x"\nadapter'))
    with pytest.raises(PoolFileError, match=r'adapter = .decomposer. is for vllm: endpoints.*"policy:decomposer"'):
        load_pool(path)
    path.write_text(text.replace("[vllm.smollm2-135m-instruct]", "[vllm.smollm2]"))
    with pytest.raises(PoolFileError, match=r'\[vllm\."smollm2"\] is the server of no entry'):
        load_pool(path)


def test_a_cpu_gets_float32_and_its_own_variables_and_a_gpu_neither(place: VllmPool):
    on_cpu = vllm_environment("vllm:m")
    assert on_cpu.is_cpu
    pool = place.write({"one": "context_tokens = 1024"})
    table, folder = pool.vllm_server(str(place.weights)), str(place.weights)
    cpu = start_of("m", folder, table, on_cpu, context_tokens=1024, n_adapters=0)
    gpu = start_of("m", folder, table, Environment(on_cpu.folder, is_cpu=False), context_tokens=1024, n_adapters=2)
    assert cpu.command[cpu.command.index("--dtype") + 1] == "float32"
    assert "--enable-lora" not in cpu.command and "--enforce-eager" in cpu.command
    assert {"VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS"} <= cpu.env.keys()
    assert "--dtype" not in gpu.command and "--enforce-eager" not in gpu.command
    assert gpu.command[gpu.command.index("--max-loras") + 1] == "2"
    assert not {"OMP_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE"} & gpu.env.keys()
    for start in (cpu, gpu):
        assert start.env["VLLM_HOST_IP"] == "127.0.0.1" == start.command[start.command.index("--host") + 1]
        assert start.env["VLLM_NO_USAGE_STATS"] == "1"
        assert start.env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert Place.of(place.folder, cpu).key != Place.of(place.folder, gpu).key


def test_the_shipped_pool_has_its_decomposer_in_the_server_of_its_base():
    pool = load_pool(ROOT / "pools/vllm.toml", ROOT / "policies")
    assert pool.policies["decomposer"].card.name == "decomposer"
    assert pool.models["decomposer"].endpoint == pool.models["smollm-135m"].endpoint
    assert pool.limits_of("decomposer") == pool.limits_of("smollm-135m")
    assert pool.roster()[pool.router.allocator].has_logprobs


def test_the_weights_that_vllm_loads_are_fetched_with_the_others():
    pool = load_pool(ROOT / "pools/vllm.toml", ROOT / "policies")
    assert local_names(pool) == ["qwen2.5-coder-0.5b-instruct", "smollm2-135m-instruct"]


def test_weights_that_are_not_there_or_cannot_be_dequantised_are_one_message(
    place: VllmPool, monkeypatch: pytest.MonkeyPatch
):
    name, environment = "smollm2-135m-instruct", vllm_environment("vllm:m")
    with pytest.raises(PoolFileError, match=f"Run: r2 pool fetch {name} --models-dir {place.folder}"):
        weights_of(name, place.folder, environment, f"vllm:{name}", print)
    monkeypatch.setattr("r2.pool.servers.vllm_command.is_fetched", lambda *_: True)
    with pytest.raises(PoolFileError, match=r"q4_1\.gguf could not be dequantised in .*: .*vLLM alone.*dequantise\.py"):
        weights_of(name, place.folder, environment, f"vllm:{name}", print)
    made = place.folder / name / "hf"
    made.mkdir(parents=True)
    (made / "config.json").write_text("{}", "utf-8")
    assert weights_of(name, place.folder, environment, f"vllm:{name}", print) == str(made)
    assert weights_of("Qwen/Qwen2.5-0.5B", place.folder, environment, "vllm:x", print) == "Qwen/Qwen2.5-0.5B"


def test_an_entry_that_is_added_shares_what_its_server_works_on_at_once(place: VllmPool):
    path = place.write({"one": ""}, "max_num_seqs = 5").path
    priced = ["--tier", "small", "--price-input", "0.1", "--price-output", "0.2"]
    done = CliRunner().invoke(app, ["pool", "add", str(path), "two", "--endpoint", f"vllm:{place.weights}", *priced])
    assert done.exit_code == 0, done.output
    pool = load_pool(path)
    assert pool.limits_of("one") == pool.limits_of("two")
    assert pool.limits_of("two")[1].max_in_flight == 5

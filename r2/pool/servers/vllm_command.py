"""How a vLLM server is started: in an environment of its own, because its pins exclude Prefect's, and without a
network.

That environment is the folder `.venv-vllm` that `make vllm` (CUDA) or `make vllm-cpu` makes, or the one that
$R2_VLLM_VENV names. Which of the two it is decides number format, threads and memory.
"""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from r2.errors import PoolFileError
from r2.policies.registry import Policy
from r2.pool.file.vllm_table import VllmTable
from r2.pool.servers.fetch import catalogue, find_weights, is_fetched

VENV_VARIABLE = "R2_VLLM_VENV"
_DEQUANTISE = Path(__file__).parents[2] / "training" / "dequantise.py"


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment that vLLM is installed in."""

    folder: Path
    is_cpu: bool

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"


@dataclass(frozen=True, slots=True)
class Start:
    """A server that can be started: `command` without its port, and what it needs beside our environment."""

    command: tuple[str, ...]
    env: Mapping[str, str]


def vllm_environment(what: str) -> Environment:
    """PoolFileError, with the command that makes it, where there is none. `what` is the endpoint that needs it."""
    folder = Path(os.environ.get(VENV_VARIABLE) or ".venv-vllm").absolute()
    if not (folder / "bin" / "python").exists():
        raise PoolFileError(
            f"{what}: vLLM is not installed in {folder}. In a checkout run: make vllm-cpu (or, with a CUDA GPU: make "
            f"vllm). An environment elsewhere is named by ${VENV_VARIABLE}, its folder."
        )
    packages = folder.glob("lib/python3*/site-packages/vllm_cpu-*.dist-info")
    return Environment(folder, is_cpu=any(packages))


def weights_of(target: str, models_dir: Path, environment: Environment, what: str, say: Callable[[str], None]) -> str:
    """What the server loads: a catalogue model's folder in float32, made first where it is not there; any other target
    as it is, a folder or the hub's name. PoolFileError if the weights are not fetched or cannot be dequantised."""
    if target not in catalogue():
        return str(Path(target).absolute()) if Path(target).is_dir() else target
    weights = find_weights(target)
    folder = (models_dir / target / "hf").absolute()
    if (folder / "config.json").exists():
        return str(folder)
    if not is_fetched(weights, models_dir):
        raise PoolFileError(
            f"{what}: no checked weights of {target} in {models_dir}. Run: r2 pool fetch {target} --models-dir "
            f"{models_dir}"
        )
    say(f"{what}: its weights are dequantised, once, into {folder}")
    args = [str(environment.python), "-P", str(_DEQUANTISE), str(weights.path(models_dir).absolute()), str(folder)]
    done = subprocess.run(args, capture_output=True, text=True, check=False, env=_clean(os.environ))
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise PoolFileError(f"{what}: {weights.file} could not be dequantised in {environment.folder}: {reason}")
    return str(folder)


def start_of(
    target: str, folder: str, table: VllmTable, environment: Environment, *, context_tokens: int, n_adapters: int
) -> Start:
    """The server's command line and variables. With `n_adapters` 0 it takes no adapter."""
    command = [
        str(environment.python),
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        folder,
        "--served-model-name",
        target,
        "--host",
        "127.0.0.1",
        "--max-num-seqs",
        str(table.max_num_seqs),
        "--max-model-len",
        str(context_tokens),
        "--disable-uvicorn-access-log",
    ]
    dtype = table.dtype or ("float32" if environment.is_cpu else None)
    if dtype is not None:
        command += ["--dtype", dtype]
    if environment.is_cpu:
        command += ["--enforce-eager"]  # compiling takes longer than a small model gains by it
    if n_adapters:
        n_at_once = table.max_loras or n_adapters
        command += ["--enable-lora", "--max-lora-rank", str(table.max_lora_rank), "--max-loras", str(n_at_once)]
    env = {
        "VLLM_HOST_IP": "127.0.0.1",  # else it names, and binds, the machine's own address
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    }
    if Path(folder).is_dir():
        env |= {"HF_HUB_OFFLINE": "1"}
    if environment.is_cpu:
        env |= {
            "VLLM_CPU_KVCACHE_SPACE": str(table.kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(table.threads),
        }
    return Start((*command, *table.args), env)


def check_adapter(policy: Policy, table: VllmTable, target: str, what: str) -> None:
    """PoolFileError for an adapter that the server would refuse; ConfigError if a file of the version was changed."""
    policy.check_files()
    rank = int(orjson.loads((policy.path / "adapter_config.json").read_bytes())["r"])
    if rank > table.max_lora_rank:
        raise PoolFileError(
            f'{what}: {policy.ref} has rank {rank}, and the server takes {table.max_lora_rank}. Set [vllm."{target}"] '
            f"max_lora_rank = {rank} in the pool file."
        )


def _clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Without what points to this environment's modules."""
    return {name: value for name, value in environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}


def port_argument(port: int) -> Sequence[str]:
    return ("--port", str(port))

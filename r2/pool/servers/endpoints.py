"""Addresses for a pool's entries: URLs as they are; servers started for `local:`, `policy:`, `vllm:` and `simulated:`
entries, ended with the block."""

import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from r2.policies.registry import Policy
from r2.policies.torch_there import require_torch
from r2.pool.client.client import to_stderr
from r2.pool.client.ports import Address
from r2.pool.client.state import state_dir as state_dir_of_host
from r2.pool.file.config import PoolConfig, endpoint_kind
from r2.pool.servers.child_server import child_server
from r2.pool.servers.fetch import catalogue
from r2.pool.servers.local import open_local, weights_path
from r2.pool.servers.vllm import open_vllm, targets_of
from r2.pool.simulated.process import start_simulated


@asynccontextmanager
async def open_endpoints(
    pool: PoolConfig, *, models_dir: Path, log_dir: Path, state_dir: Path | None = None
) -> AsyncIterator[dict[str, Address]]:
    """Entry name -> where it answers. Entries with the same weights share one server; `recording:` entries need no
    address. `state_dir` None: the host's; vLLM servers that `r2 pool serve` keeps are found there.

    PoolFileError (weights not fetched, memory too small) or EndpointError (a server does not come up), before any call.
    """
    async with AsyncExitStack() as stack:
        opened: dict[str, str] = {}
        simulated: str | None = None
        addresses: dict[str, Address] = {}
        for name, model in pool.models.items():
            kind, target = endpoint_kind(model.endpoint), model.endpoint.partition(":")[2]
            if kind == "http":
                addresses[name] = Address(model.endpoint.rstrip("/"), model.served_model or name, model.stream)
            elif kind in ("local", "policy"):
                policy = pool.policies.get(name)
                target = target if policy is None else policy.ref
                key = target if policy is None else str(policy.path)
                if key not in opened:
                    context = max(m.context_tokens for m in pool.models.values() if m.endpoint == model.endpoint)
                    opened[key] = await stack.enter_async_context(
                        open_local(target, models_dir=models_dir, log_dir=log_dir, context_tokens=context)
                        if policy is None
                        else open_policy(policy, models_dir=models_dir, log_dir=log_dir, context_tokens=context)
                    )
                embedded = is_llama_cpp(policy)
                addresses[name] = Address(opened[key], target, embedded, is_ours=True, reads_by_slot=embedded)
            elif kind == "simulated":
                if simulated is None:
                    simulated = await stack.enter_async_context(start_simulated(pool))
                addresses[name] = Address(simulated, target, is_ours=True)
        for target in targets_of(pool):
            addresses |= await stack.enter_async_context(
                open_vllm(
                    pool,
                    target,
                    models_dir=models_dir,
                    log_dir=log_dir,
                    state_dir=state_dir or state_dir_of_host(),
                    say=to_stderr,
                )
            )
        yield addresses


def open_policy(
    policy: Policy, *, models_dir: Path, log_dir: Path, context_tokens: int
) -> AbstractAsyncContextManager[str]:
    """The base URL of a server for one version: llama.cpp where it is an adapter on catalogue weights, else
    transformers.

    ConfigError or PoolFileError if a file of the version was changed, the base's weights are missing, the adapter
    cannot be converted or torch is not installed; EndpointError as `open_local`.
    """
    policy.check_files()
    what = f"policy:{policy.ref}"
    if is_llama_cpp(policy):
        # Here and not above: numpy and gguf take a while, which pools without adapters need not wait for.
        from r2.policies.adapter_gguf import cached_gguf

        lora = cached_gguf(policy.path, weights_path(policy.catalogue_name, models_dir, what))
        return open_local(
            policy.catalogue_name,
            models_dir=models_dir,
            log_dir=log_dir,
            context_tokens=context_tokens,
            lora=lora,
            what=what,
        )
    require_torch(f"{what}, which is no adapter but full weights,")
    args = [sys.executable, "-m", "r2.training.server", "--policy", str(policy.path), "--models-dir", str(models_dir)]
    return child_server(args, what, log_dir)


def is_llama_cpp(policy: Policy | None) -> bool:
    """Whether the embedded llama.cpp serves it: weights without a policy, or an adapter on catalogue weights."""
    return policy is None or (policy.is_adapter and policy.catalogue_name in catalogue())

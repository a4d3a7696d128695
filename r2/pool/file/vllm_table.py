"""The `[vllm.MODEL]` table of a pool file: how the server of its `vllm:MODEL` entries is started. Nothing of it must
be given.

What decides answers is part of the pool's identity; how many requests are worked on at once is not.
"""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

OURS: Final = frozenset(
    {
        "--model",
        "--served-model-name",
        "--host",
        "--port",
        "--uds",
        "--max-num-seqs",
        "--max-model-len",
        "--enable-lora",
        "--no-enable-lora",
        "--max-lora-rank",
        "--max-loras",
        "--lora-modules",
        "--dtype",
    }
)
"""Arguments that are set from the tables, or that we choose."""
SECRET: Final = frozenset({"--api-key", "--hf-token", "--ssl-keyfile"})
SPEED: Final = frozenset({"max_num_seqs", "kv_cache_gib", "threads", "start_timeout_s"})
"""Fields that change no answer."""


class VllmTable(BaseModel):
    """Options of one server. Its context is the longest `context_tokens` of its entries."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_num_seqs: int = Field(default=64, ge=1)
    """Requests that the server works on at once. Its entries together have as many in flight, unless they say
    `max_in_flight`."""
    max_lora_rank: int = Field(default=16, ge=1)
    """Largest rank of an adapter."""
    max_loras: int | None = Field(default=None, ge=1)
    """Adapters in one batch; None: as many as the pool file's entries name."""
    dtype: str | None = None
    """Number format; None: float32 on a CPU, where bfloat16 is emulated, else what the weights say."""
    kv_cache_gib: int = Field(default=1, ge=1)
    """Memory for the attention cache on a CPU. On a GPU vLLM takes what is free, unless `args` say
    otherwise."""
    threads: int = Field(default=1, ge=1)
    """Threads on a CPU: on shared cores they wait for each other."""
    start_timeout_s: Annotated[float, Field(gt=0)] = 900.0
    """How long the server may take until it is healthy."""
    args: tuple[str, ...] = ()
    """Further arguments of vLLM's server, such as "--tensor-parallel-size", "4"."""

    @field_validator("args")
    @classmethod
    def _args_are_not_ours(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        for arg in args:
            name = arg.partition("=")[0].replace("_", "-")
            if name in SECRET:
                raise ValueError(
                    f"{name} in args: this file is stored with every run. The server listens on loopback and takes no "
                    "key; leave it out"
                )
            if name in OURS:
                raise ValueError(f"{name} in args is set from this table and its entries; leave it out")
        return args

    def identity(self) -> dict[str, Any]:
        """What decides answers; nothing where all of it is at its default."""
        return self.model_dump(exclude=set(SPEED), exclude_defaults=True)

"""All imitations together, and the pool file that names them."""

from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Self

from tests.support.providers.anthropic import Anthropic
from tests.support.providers.azure import Azure
from tests.support.providers.gemini import Gemini
from tests.support.providers.imitation import Imitation
from tests.support.providers.openai import OpenAI
from tests.support.providers.openrouter import OpenRouter
from tests.support.providers.vllm import Vllm

ENTRIES = (
    ("luna", "openai", "gpt-6-luna", "small"),
    ("mini", "openai", "gpt-4.1-mini", "medium"),
    ("haiku", "anthropic", "claude-haiku-5-5", "small"),
    ("opus", "anthropic", "claude-opus-5-5", "large"),
    ("flash", "gemini", "gemini-3.8-flash", "medium"),
    ("thinker", "azure", "our-thinker", "medium"),
    ("sonnet", "openrouter", "anthropic/claude-sonnet-5.5", "large"),
    ("qwen", "vllm", "qwen3-8b", "small"),
    ("llama", "vllm", "llama-3.1-8b", "small"),
)
"""(entry of the pool file, provider, model, tier)."""


class Providers:
    """Starts every imitation; an async context manager. `by_name` holds them by the name of their dialect."""

    def __init__(self, *, latency_s: float = 0.0) -> None:
        self.openai = OpenAI(latency_s=latency_s)
        self.anthropic = Anthropic(latency_s=latency_s)
        self.gemini = Gemini(latency_s=latency_s)
        self.azure = Azure(latency_s=latency_s)
        self.openrouter = OpenRouter(latency_s=latency_s)
        self.vllm = Vllm(latency_s=latency_s)
        every = (self.openai, self.anthropic, self.gemini, self.azure, self.openrouter, self.vllm)
        self.by_name: dict[str, Imitation] = {one.name: one for one in every}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for one in self.by_name.values():
            await self._stack.enter_async_context(one)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    @property
    def bill_usd(self) -> Decimal:
        return sum((one.bill_usd for one in self.by_name.values()), Decimal(0))

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the pool file reads its keys from."""
        return {_variable(name): one.key for name, one in self.by_name.items()}

    def pool_text(
        self, *, decomposer: str = "llama", allocator: str = "llama", is_plain: bool = False, extra: str = ""
    ) -> str:
        """A pool file with an entry for each of `ENTRIES`; `is_plain` as of `Imitation.entry`."""
        tables = [f'[router]\ndecomposer = "{decomposer}"\nallocator = "{allocator}"\n{extra}']
        for entry, provider, model, tier in ENTRIES:
            key_env = _variable(provider)
            tables.append(self.by_name[provider].entry(entry, model, tier=tier, key_env=key_env, is_plain=is_plain))
        return "\n".join(tables)


def _variable(provider: str) -> str:
    return f"IMITATED_{provider.upper()}_KEY"

"""Asks each provider whose key is set one question, and holds its reply against the imitation that our tests trust.

    python benchmarks/live_check.py --dry-run       # what it would ask, and the most that it can cost
    python benchmarks/live_check.py                 # or: make live-check
    python benchmarks/live_check.py --pool my.toml  # the endpoints of a pool file of your own

It costs at most 0.05 USD (`--max-usd` lowers that): what a question can cost at most is set aside before it is asked,
and one that does not fit is left out and named. Each provider's small model of the catalogue is asked, at the address
and with the key that its own SDK would take from the environment; of a pool file the cheapest model at each address.
Reported is every field of the imitation's reply
that the real one lacks or has in another type (the imitation is wrong there), fields that only the real one has, and
whether our client reads text, end and token counts. Exits with 1 where a reply cannot be read or a field is missing.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import aiohttp  # noqa: E402
import orjson  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from r2.call import Call  # noqa: E402
from r2.errors import ConfigError  # noqa: E402
from r2.ledger import cost_usd, worst_cost_usd  # noqa: E402
from r2.pool.client.dialects import dialect_of  # noqa: E402
from r2.pool.client.wire import ParsedReply, parse_body, request_body, scrub  # noqa: E402
from r2.pool.file import catalogue  # noqa: E402
from r2.pool.file.config import PoolConfig, endpoint_kind, load_pool  # noqa: E402
from r2.pool.file.starter import starter_pool  # noqa: E402
from tests.support.providers.anthropic import Anthropic  # noqa: E402
from tests.support.providers.azure import Azure  # noqa: E402
from tests.support.providers.gemini import Gemini  # noqa: E402
from tests.support.providers.imitation import Imitation  # noqa: E402
from tests.support.providers.openai import OpenAI  # noqa: E402
from tests.support.providers.openrouter import OpenRouter  # noqa: E402

MAX_USD = 0.05
OUTPUT_TOKENS = 256
"""Room for a little thinking before the answer."""
QUESTION = "What is 17 + 25? Reply with the number only."
IMITATIONS: Mapping[str, type[Imitation]] = {
    "openai": OpenAI,
    "anthropic": Anthropic,
    "gemini": Gemini,
    "azure": Azure,
    "openrouter": OpenRouter,
}
"""Dialect -> who imitates it. The replies of the others are only read."""

Form = dict[str, str]
"""Path of a field (`choices[].message.content`) -> the type of its value."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to one provider. `worst_usd` is the most that it can cost."""

    entry: str
    dialect: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    key: str
    worst_usd: float


def form_of(document: Any) -> Form:
    """The fields of a document; members of a list are one. `null` gives way to any other type of the same field."""
    form: Form = {}
    for path, kind in _fields(document, ""):
        if form.get(path, "null") == "null":
            form[path] = kind
    return form


def _fields(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _fields(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _fields(inner, f"{path}[]")
    else:
        yield path, _kind(value)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "number"
    return "null" if value is None else "text"


def differences(imitated: Form, real: Form) -> tuple[list[str], list[str]]:
    """(what the imitation has and the real reply has not, or has as another type; what only the real one has).

    A field that is null on one side says nothing of its type. Thinking may be there or not, reply by reply.
    """
    missing = []
    for path, kind in imitated.items():
        found = real.get(path)
        if found is None:
            if kind != "null" and not _is_of_thinking(path) and not _has_null_above(path, real):
                missing.append(f"{path}: not there")
        elif "null" not in (found, kind) and found != kind:
            missing.append(f"{path}: {kind} expected, {found} came")
    return missing, [path for path in real if path not in imitated]


def _is_of_thinking(path: str) -> bool:
    return any(word in path for word in ("think", "thought", "reasoning", "signature"))


def _has_null_above(path: str, real: Form) -> bool:
    parts = path.split(".")
    return any(real.get(".".join(parts[:n])) == "null" for n in range(1, len(parts)))


def cheapest(pool: PoolConfig) -> list[str]:
    """One entry of each address outside this machine: the cheapest."""
    roster = pool.roster()
    hosted = [name for name, table in pool.models.items() if endpoint_kind(table.endpoint) == "http"]
    by_address: dict[str, str] = {}
    for name in sorted(hosted, key=lambda name: roster[name].blended_price):
        by_address.setdefault(pool.models[name].endpoint, name)
    return [name for name in hosted if name in by_address.values()]


def question_of(pool: PoolConfig, entry: str, environ: Mapping[str, str]) -> Asked:
    """The request to an entry, as our client sends it."""
    table, card = pool.models[entry], pool.roster()[entry]
    dialect = dialect_of(table.endpoint, table.dialect)
    key = environ.get(table.api_key_env or "", "")
    call = Call(entry, (("user", QUESTION),), "calibrate", OUTPUT_TOKENS)
    served = table.served_model or entry
    body = request_body(call, table, served, dialect=dialect)
    worst = card.worst_case(call.messages, call.max_output_tokens, None)
    headers = {"content-type": "application/json", **dialect.headers(key)}
    worst_usd = worst_cost_usd(pool.price(entry), worst)
    return Asked(entry, dialect.name, dialect.url(table.endpoint, served), headers, body, key, worst_usd)


async def ask(session: aiohttp.ClientSession, asked: Asked) -> tuple[int, bytes]:
    """(status, body without the key)."""
    async with session.post(asked.url, data=asked.body, headers=dict(asked.headers)) as reply:
        return reply.status, scrub(await reply.content.read(2**22), asked.key)


async def imitated_form(kind: type[Imitation], session: aiohttp.ClientSession) -> Form:
    """The form of the imitation's reply to the same question."""
    async with kind() as server:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "pool.toml"
            entry = server.entry("one", next(iter(server.models)), tier="small", key_env="IMITATED_KEY")
            path.write_text(f'[router]\ndecomposer = "one"\nallocator = "one"\n{entry}', "utf-8")
            asked = question_of(load_pool(path), "one", {"IMITATED_KEY": server.key})
        status, body = await ask(session, asked)
    if status != 200:
        raise SystemExit(f"the imitation of {server.name} answers {status}: {body[:200].decode(errors='replace')}")
    return form_of(orjson.loads(body))


def pool_of_keys(environ: Mapping[str, str]) -> PoolConfig:
    """The pool that `r2 pool init` would write. ConfigError where no key is set."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pool.toml"
        path.write_text(starter_pool(environ, datetime.now(UTC).date()), "utf-8")
        return load_pool(path)


async def check(pool: PoolConfig, environ: Mapping[str, str], max_usd: float, *, dry_run: bool) -> int:
    """Asks, reports, and returns the exit code."""
    console = Console()
    table = Table("entry", "worst case, USD", "cost, USD", "text", "end", "tokens in, out", "form")
    notes: list[str] = []
    left_usd, is_bad = max_usd, False
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120), trust_env=True) as session:
        for entry in cheapest(pool):
            asked = question_of(pool, entry, environ)
            if asked.worst_usd > left_usd:
                table.add_row(entry, f"{asked.worst_usd:.6f}", "", "", "", "", "left out: over the limit")
                continue
            left_usd -= asked.worst_usd
            if dry_run:
                table.add_row(entry, f"{asked.worst_usd:.6f}", "", "", "", "", "would be asked")
                continue
            row, said, bad = await _one(pool, asked, session)
            is_bad |= bad
            notes += said
            table.add_row(*row)
    console.print(table)
    for note in notes:
        console.print(note, markup=False)
    console.print(f"at most {max_usd - left_usd:.6f} USD, catalogue of {catalogue.table_date()}")
    return int(is_bad)


async def _one(
    pool: PoolConfig, asked: Asked, session: aiohttp.ClientSession
) -> tuple[tuple[str, ...], list[str], bool]:
    """(row of the table, notes, whether it is not as it should be)."""
    worst = f"{asked.worst_usd:.6f}"
    try:
        status, body = await ask(session, asked)
    except (aiohttp.ClientError, TimeoutError) as error:
        return (asked.entry, worst, "?", "", "", "", "no reply"), [f"{asked.entry}: {type(error).__name__}"], True
    parsed = parse_body(body, status)
    if status != 200 or not isinstance(parsed, ParsedReply):
        said = body[:300].decode(errors="replace")
        return (asked.entry, worst, "0", "", "", "", f"HTTP {status}"), [f"{asked.entry}: {said}"], True
    usage = parsed.usage
    cost = "not reported" if usage is None else f"{cost_usd(pool.price(asked.entry), usage):.6f}"
    counts = "" if usage is None else f"{usage.input_tokens}, {usage.output_tokens}"
    kind = IMITATIONS.get(asked.dialect)
    notes, verdict, is_bad = [], "read; nobody imitates it", usage is None
    if kind is not None:
        missing, new = differences(await imitated_form(kind, session), form_of(orjson.loads(body)))
        notes += [f"{asked.entry}: the imitation has {line}" for line in missing]
        if new:
            notes.append(f"{asked.entry}: only in the real reply: {', '.join(new)}")
        verdict, is_bad = "differs" if missing else "as imitated", is_bad or bool(missing)
    text = " ".join(parsed.text.split())[:20]
    return (asked.entry, worst, cost, text, parsed.finish_reason, counts, verdict), notes, is_bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--dry-run", action="store_true", help="ask nothing; say what would be asked and its price")
    parser.add_argument("--pool", type=Path, help="a pool file; without it the providers whose keys are set")
    parser.add_argument("--max-usd", type=float, default=MAX_USD, help=f"at most {MAX_USD}")
    given = parser.parse_args()
    if not 0 < given.max_usd <= MAX_USD:
        parser.error(f"--max-usd {given.max_usd}: expected more than 0 and at most {MAX_USD}")
    try:
        pool = pool_of_keys(os.environ) if given.pool is None else load_pool(given.pool)
    except ConfigError as error:
        sys.exit(str(error))
    sys.exit(asyncio.run(check(pool, os.environ, given.max_usd, dry_run=given.dry_run)))


if __name__ == "__main__":
    main()

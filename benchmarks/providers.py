"""200 mixed rows, answered by one pool of strict imitations of six providers, and our ledger beside their own bills.

    python benchmarks/providers.py          # or: make providers

The imitations (tests/support/providers/) are servers on loopback that refuse what the real ones refuse, count tokens
and keep a bill that knows nothing of ours. The rows are one-line sums, summaries of several paragraphs, JSON by a
schema, code, conversations of several turns and multiple choice. They are answered by `r2 answer`, as a user runs it,
each by the model that the router gives it. Exits with 1 where a row fails, an answer is not whole, or a dollar differs.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import duckdb  # noqa: E402
from jsonschema import Draft202012Validator  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from tests.support.providers import brain  # noqa: E402
from tests.support.providers.pool import ENTRIES, Providers  # noqa: E402

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer", "minimum": 0}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
TOWNS = ("Oslo", "Lagos", "Quito", "Hanoi", "Bergen", "Porto", "Kyoto", "Turin")
MICRO_USD = Decimal("0.000001")


def rows(n: int) -> list[dict[str, Any]]:
    """`n` rows of six kinds in turn; `kind` and `expected` are columns of the user's own, which no model sees."""
    return [_KINDS[i % len(_KINDS)](i) | {"id": f"row-{i}"} for i in range(n)]


def _sum(i: int) -> dict[str, Any]:
    a, b = 100 + 7 * i, 13 + i
    return {"question": f"What is {a} + {b}?", "kind": "sum", "expected": str(a + b)}


def _summary(i: int) -> dict[str, Any]:
    n = 2 + i % 4
    text = " ".join(f"On day {day} the river at {TOWNS[i % len(TOWNS)]} rose by {day + i} cm." for day in range(1, 7))
    return {"question": f"Summarise in {n} paragraphs: {text}", "kind": "summary", "expected": str(n)}


def _extraction(i: int) -> dict[str, Any]:
    town, people = TOWNS[i % len(TOWNS)], 1000 + 37 * i
    return {
        "messages": [
            {"role": "system", "content": "Read the facts out of the text."},
            {"role": "user", "content": f"City: {town}. People: {people}."},
        ],
        "response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}},
        "kind": "json",
        "expected": json.dumps({"city": town, "people": people}),
    }


def _code(i: int) -> dict[str, Any]:
    return {
        "question": f"Write a Python function called double_{i} that doubles the values of a list.",
        "kind": "code",
        "expected": f"double_{i}",
    }


def _conversation(i: int) -> dict[str, Any]:
    town = TOWNS[i % len(TOWNS)]
    return {
        "messages": [
            {"role": "system", "content": "Answer in one word."},
            {"role": "user", "content": f"My city is {town}."},
            {"role": "assistant", "content": "Noted."},
            {"role": "user", "content": "What is my city?"},
        ],
        "max_tokens": 2048,
        "kind": "conversation",
        "expected": town,
    }


def _choice(i: int) -> dict[str, Any]:
    a, b = 20 + i, 5 + i % 9
    choices = [str(a + b + offset) for offset in (-2, 0, 3, 10)]
    return {"question": f"What is {a} + {b}?", "choices": choices, "kind": "choice", "expected": "B"}


_KINDS = (_sum, _summary, _extraction, _code, _conversation, _choice)


def defect(row: Mapping[str, Any], answered: Mapping[str, Any]) -> str | None:
    """What is wrong with the answer to a row; None for a right and whole one."""
    answer, expected = answered.get("answer"), row["expected"]
    if answered.get("status") != "answered" or not isinstance(answer, str):
        return f"{answered.get('status')}: {answered.get('error_message')}"
    match row["kind"]:
        case "json":
            try:
                value = json.loads(answer)
            except ValueError:
                return f"no JSON: {answer[:80]!r}"
            is_whole = value == json.loads(expected) and Draft202012Validator(CITY).is_valid(value)
        case "summary":
            is_whole = answer.endswith(brain.LAST_WORDS) and answer.count("\n\n") == int(expected)
        case "code":
            is_whole = f"def {expected}(values):" in answer and answer.endswith(brain.LAST_WORDS)
        case _:
            is_whole = answer.strip() == expected
    return None if is_whole else f"not whole or not right: {answer[-80:]!r}"


async def run(n: int, folder: Path, *, is_plain: bool) -> int:
    """Answers the rows and prints the table; the exit code."""
    asked = rows(n)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), "utf-8")
    async with Providers() as providers:
        (folder / "pool.toml").write_text(providers.pool_text(is_plain=is_plain), "utf-8")
        command = ("answer", "rows.jsonl", "--pool", "pool.toml", "--lake", "lake", "--out", "answers.jsonl")
        own = {"R2_STATE_DIR": str(folder / "state"), "PYTHONPATH": str(ROOT)}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "flows.cli", *command),
            cwd=folder,
            env={**os.environ, **providers.environment, **own},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode:
            sys.stdout.write(said.decode(errors="replace"))
        return report(asked, folder, providers) or int(process.returncode != 0)


def report(asked: list[dict[str, Any]], folder: Path, providers: Providers) -> int:
    """Prints what was answered and what was billed; 1 where anything is wrong."""
    answered = {row["id"]: row for row in map(json.loads, (folder / "answers.jsonl").read_text("utf-8").splitlines())}
    defects = {row["id"]: why for row in asked if (why := defect(row, answered.get(row["id"], {}))) is not None}
    ledger = _ledger(folder / "lake")
    console = Console()
    kinds = Table("kind of row", "rows", "whole and right")
    n_by_kind = Counter(row["kind"] for row in asked)
    for kind, n in n_by_kind.items():
        kinds.add_row(kind, str(n), str(n - sum(row["id"] in defects for row in asked if row["kind"] == kind)))
    console.print(kinds)
    bills = Table("provider", "requests", "refused", "their bill, USD", "our ledger, USD", "difference")
    wrong = 0
    for name, server in providers.by_name.items():
        ours = sum((ledger.get(entry, Decimal(0)) for entry, provider, *_ in ENTRIES if provider == name), Decimal(0))
        is_off = abs(ours - server.bill_usd) >= MICRO_USD
        wrong += is_off
        n_refused = sum(exchange.status >= 400 for exchange in server.requests)
        bills.add_row(
            name,
            str(len(server.requests)),
            str(n_refused),
            f"{server.bill_usd:.6f}",
            f"{ours:.6f}",
            f"{ours - server.bill_usd:+.7f}" if is_off else "none",
        )
    bills.add_row("all", "", "", f"{providers.bill_usd:.6f}", f"{sum(ledger.values(), Decimal(0)):.6f}", "")
    console.print(bills)
    for row_id, why in list(defects.items())[:10]:
        console.print(f"{row_id}: {why}", markup=False)
    console.print(f"{len(asked)} rows, {len(defects)} failed or not whole; {wrong} bills differ")
    return int(bool(defects) or wrong > 0)


def _ledger(lake: Path) -> dict[str, Decimal]:
    """Pool entry -> USD of all its calls, as stored."""
    parts = str(lake / "calls" / "**" / "*.parquet")
    found = duckdb.sql(
        "select request_model, sum(cost_usd::decimal(18, 12)) from read_parquet(?) group by 1", params=[parts]
    )
    return dict(found.fetchall())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--plain", action="store_true", help="a pool file that says nothing of what models refuse")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="r2-providers-") as folder:
        sys.exit(asyncio.run(run(given.rows, Path(folder), is_plain=given.plain)))


if __name__ == "__main__":
    main()

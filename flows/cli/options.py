"""The flags that several commands share: one name, one meaning, one help text and one kind of value in all of them.

A flag of a command that has settings is None where it was not given; the --config file counts then, else the default
that the help shows. The first sentence of a help text is the flag's meaning; a command may add sentences of its own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from r2.errors import ConfigError
from r2.problems.benchmark import benchmark_names
from r2.settings import MODELS_DIR, tag_of
from r2.shipped.place import found
from storage.lake.address import lake_folder

INPUT, POOL, ROUTER, TRAINING, MONEY, OUTPUT = "Input", "Pool", "Router", "Training", "Money", "Output"
PANELS = (INPUT, POOL, ROUTER, TRAINING, MONEY, OUTPUT)
"""Panels of a help text, in the order they are shown."""

DEFAULT_POOL = "pools/local.toml"
DEFAULT_LAKE = Path("lake")
DEFAULT_MODELS = MODELS_DIR
DEFAULT_POLICIES = Path("policies")


def flag(panel: str, *names: str, help: str, metavar: str | None = None, default: str = "", **further: Any) -> Any:
    """A flag of a command, in its panel. `default` is what the help shows where the flag's own default says less."""
    return typer.Option(
        *names,
        help=escape(f"{help} [default: {default}]" if default else help),  # else rich reads brackets as markup
        metavar=metavar,
        rich_help_panel=panel,
        show_default=not default,
        **further,
    )


# Input: what is worked on.


def _meant(config: Path | None) -> Path | None:
    return None if config is None else found(config)


Config = Annotated[
    Path | None,
    flag(
        INPUT,
        "--config",
        metavar="FILE",
        help="TOML file with these settings. Flags win over it.",
        default="none",
        callback=_meant,
    ),
]
Problems = Annotated[
    list[str] | None,
    flag(
        INPUT,
        "--problems",
        metavar="SOURCE",
        help=f"Source of problems: {', '.join(benchmark_names())} (as rg:TASK), or "
        "file:PATH?check=NAME&question=COLUMN. Repeatable in evaluate, plans and policy sweep.",
    ),
]


def limit(default: str) -> Any:
    """--limit with a command's own default."""
    return flag(INPUT, "--limit", metavar="N", help="Only the first N questions of each source.", default=default)


Limit = Annotated[int | None, limit("all")]
_SEED = flag(
    INPUT,
    "--seed",
    metavar="N",
    help="Seed of what is drawn at random: generated problems, samples, the order of rows.",
    default="0",
)
Seed = Annotated[int | None, _SEED]
PlainSeed = Annotated[int, _SEED]
SplitSeed = Annotated[
    int | None,
    flag(INPUT, "--split-seed", metavar="N", help="Seed of the split of problems into train and test.", default="0"),
]


def test_share(detail: str = "") -> Any:
    """--test-share with a command's own detail."""
    meaning = f"Share of the problems on the test side of the split, between 0 and 1. {detail}".strip()
    return flag(INPUT, "--test-share", metavar="SHARE", help=meaning, default="0.1")


TestShare = Annotated[float | None, test_share()]
HeldOut = Annotated[
    float | None,
    flag(
        INPUT,
        "--held-out",
        metavar="SHARE",
        help="Only problems on the test side of a split with this --test-share: no training has seen them.",
        default="all problems",
    ),
]
_DATA_DIR = flag(INPUT, "--data-dir", metavar="FOLDER", help="Folder of benchmark files.", envvar="R2_DATA_DIR")
DataDir = Annotated[str | None, _DATA_DIR]
PlainDataDir = Annotated[Path | None, _DATA_DIR]

Check = Annotated[
    str | None,
    flag(
        INPUT,
        "--check",
        metavar="CHECK",
        help="Your own check of answers, in place of the benchmark's: FILE.py:FUNCTION (your function of row and "
        "answer, which returns True, False or a number from 0 to 1), judge:ENTRY (a pool model, with --rubric), "
        "regex:PATTERN, json-equal or exact.",
        default="the benchmark's check",
    ),
]
Rubric = Annotated[
    str | None,
    flag(
        INPUT,
        "--rubric",
        metavar="FILE",
        help="Text file that tells the judge of --check or --verify what a right answer is.",
        default="none",
    ),
]

# Pool: who is asked.


def pool(default: str = DEFAULT_POOL, detail: str = "") -> Any:
    """--pool with a command's own default and detail."""
    meaning = "Pool file: the models with their prices and limits. recording:FILE replays stored calls."
    return flag(POOL, "--pool", metavar="FILE", help=f"{meaning} {detail}".strip(), default=default)


Pool = Annotated[str | None, pool()]
Runner = Annotated[
    str | None,
    flag(
        INPUT,
        "--runner",
        metavar="NAME",
        help="Who places the joins of a run: `ray`, one on each node of its cluster.",
        default="nobody: this machine joins",
    ),
]
PlainPool = Annotated[str, pool()]
_MODELS_DIR = flag(
    POOL,
    "--models-dir",
    metavar="FOLDER",
    help="Folder of fetched weights.",
    envvar="R2_MODELS_DIR",
    default=str(DEFAULT_MODELS),
)
ModelsDir = Annotated[str | None, _MODELS_DIR]
PlainModelsDir = Annotated[Path, _MODELS_DIR]
Lane = Annotated[
    str | None,
    flag(
        POOL,
        "--lane",
        metavar="LANE",
        help="How entries are asked. batch: every one that can by its provider's batch endpoint, at its batch price, "
        "the router's own calls excepted. live: none of them.",
        default="the pool file's",
    ),
]
Deadline = Annotated[
    str | None,
    flag(
        POOL,
        "--deadline",
        metavar="TIME",
        help="Time from the start by which every answer must be there, as 6h, 90m or 2d: batch jobs that would come "
        "later are cancelled, and the rest is asked live.",
        default="none",
    ),
]
MaxInFlight = Annotated[
    int | None, flag(POOL, "--max-in-flight", metavar="N", help="Problems worked on at once.", default="64")
]

# Router: who decomposes, who allocates, and what they weigh.


def decomposer(detail: str = "A pool entry.", default: str = "the pool file's") -> Any:
    """--decomposer with a command's own detail and default."""
    return flag(ROUTER, "--decomposer", metavar="NAME", help=f"Who decomposes questions. {detail}", default=default)


def allocator(detail: str = "A pool entry.", default: str = "the pool file's") -> Any:
    """--allocator with a command's own detail and default."""
    return flag(ROUTER, "--allocator", metavar="NAME", help=f"Who allocates subtasks. {detail}", default=default)


Decomposer = Annotated[str | None, decomposer()]
Allocator = Annotated[str | None, allocator()]
MaxAnswerTokens = Annotated[
    int | None,
    flag(
        INPUT,
        "--max-answer-tokens",
        metavar="N",
        help="Output limit of an answer to a row without a benchmark. An answer that ends at it is asked for once more "
        "at twice the limit.",
        default="4096",
    ),
]
Schema = Annotated[
    str | None,
    flag(
        INPUT,
        "--schema",
        metavar="FILE",
        help="JSON Schema that every answer must match. A row's own schema goes before it.",
        default="none",
    ),
]
System = Annotated[
    str | None,
    flag(
        INPUT,
        "--system",
        metavar="FILE",
        help="Text file: the system text of the calls that answer the questions.",
        default="none",
    ),
]
Verify = Annotated[
    str | None,
    flag(
        ROUTER,
        "--verify",
        metavar="CHECK",
        help="A check, written as for --check, that is asked while a question is answered: a result that it refuses "
        "goes to the next stronger model. It never sees the gold answer, so json-equal and exact cannot be used. "
        "Method r2 only.",
        default="none",
    ),
]
_POLICIES_DIR = flag(
    ROUTER,
    "--policies-dir",
    metavar="FOLDER",
    help="Folder of the policy registry.",
    envvar="R2_POLICIES_DIR",
    default=str(DEFAULT_POLICIES),
)
PoliciesDir = Annotated[str | None, _POLICIES_DIR]
PlainPoliciesDir = Annotated[Path, _POLICIES_DIR]


def cost_knob(detail: str, metavar: str, default: str) -> Any:
    """--b with a command's own detail and default."""
    meaning = "Cost knob: weight of log price in the allocation. 0 takes the allocator's choice as written, above 0 "
    meaning += "cheaper models win, below 0 dearer ones."
    return flag(ROUTER, "--b", metavar=metavar, help=f"{meaning} {detail}".strip(), default=default)


def numbers_of(name: str, text: str | None) -> tuple[float, ...] | None:
    """The numbers of `0,0.1,0.4`. ConfigError names the flag."""
    try:
        return None if text is None else tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigError(f"{name} {text}: expected numbers with commas between, such as 0,0.1,0.4.") from None


def names_of(text: str | None) -> tuple[str, ...] | None:
    """The names of `A,B,C`."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def rows_of(text: str | None) -> tuple[str, ...] | None:
    """The rows of `A,B:MODEL,C:MODEL,5`: a number alone belongs to the name before it."""
    found: list[str] = []
    for part in names_of(text) or ():
        if part.isdigit() and found:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return None if text is None else tuple(found)


def one_source(problems: Sequence[str] | None, command: str) -> str | None:
    """The only source of a command that takes one. ConfigError for several."""
    if problems and len(problems) > 1:
        raise ConfigError(
            f"--problems {' --problems '.join(problems)}: {command} takes one source. Put the questions of several "
            "into one file and give --problems file:PATH."
        )
    return problems[0] if problems else None


def routing(default: str) -> Any:
    """--routing with a command's own default."""
    meaning = "How r2 finds a model: rule (whom to ask, when to stop, when to decompose, by what it is worth) or "
    meaning += "allocator (a plan, and a model for each step)."
    return flag(ROUTER, "--routing", metavar="NAME", help=meaning, default=default)


ValueUsd = Annotated[
    float | None,
    flag(
        MONEY,
        "--value-usd",
        metavar="USD",
        help="What a right answer is worth to the rule. --b takes it down: value * exp(-b).",
        default="at most 50 times the question on the largest model, step by step",
    ),
]
Horizon = Annotated[
    int | None,
    flag(ROUTER, "--horizon", metavar="N", help="Attempts that the rule looks ahead, 0 to 4.", default="3"),
]
WaitUsdPerHour = Annotated[
    float | None,
    flag(
        ROUTER,
        "--wait-usd-per-hour",
        metavar="USD",
        help="What an hour of waiting for a question is worth to the rule, where its entries go by batch: it then asks "
        "fewer times one after the other, and two entries side by side.",
        default="0",
    ),
]
TargetAccuracy = Annotated[
    float | None,
    flag(
        MONEY,
        "--target-accuracy",
        metavar="SHARE",
        help="Accuracy to be promised, between 0 and 1: the cheapest b that checked rows show to be at least so "
        "accurate.",
        default="none",
    ),
]
Delta = Annotated[
    float | None,
    flag(
        MONEY,
        "--delta",
        metavar="SHARE",
        help="Chance at most that the promise of --target-accuracy is wrong.",
        default="0.05",
    ),
]

# Training: how weights change.


def outcomes(default: str) -> Any:
    """--outcomes with what a command does without it."""
    meaning = (
        "Recorded answers of models: a table with a row for each question and model. They take the place of calls. "
        "Repeatable; several files may follow one flag."
    )
    return flag(INPUT, "--outcomes", metavar="FILE...", help=meaning, default=default)


def scorer(repeated: str, default: str) -> Any:
    """--scorer with what its repetition means, and a command's own default."""
    meaning = "Trained scorer that tells the rule who is probably right: NAME or NAME@VERSION of a policy, or its JSON "
    return flag(ROUTER, "--scorer", metavar="NAME", help=f"{meaning}file. {repeated}".strip(), default=default)


def steps(detail: str, default: str) -> Any:
    """--steps with a command's own detail and default."""
    return flag(TRAINING, "--steps", metavar="N", help=f"Optimiser steps. {detail}".strip(), default=default)


def learning_rate(default: str, detail: str = "") -> Any:
    """--lr with a command's own default and detail."""
    return flag(TRAINING, "--lr", metavar="RATE", help=f"Learning rate. {detail}".strip(), default=default)


def n_held_out(detail: str, default: str) -> Any:
    """--n-held-out with a command's own detail and default."""
    meaning = f"Number of held-out questions that are answered after training. {detail}".strip()
    return flag(TRAINING, "--n-held-out", metavar="N", help=meaning, default=default)


def save_steps(default: str) -> Any:
    """--save-steps with a command's own default."""
    meaning = "Optimiser steps between checkpoints: what a kill can cost."
    return flag(TRAINING, "--save-steps", metavar="N", help=meaning, default=default)


Threads = Annotated[
    int | None, flag(TRAINING, "--threads", metavar="N", help="CPU threads of torch.", default="torch's choice")
]

# Money: what may be spent.


def _above_zero(cap: float | None) -> float | None:
    if cap is not None and not cap > 0:
        raise ConfigError(f"--max-cost-usd {cap:g}: expected more than 0.")
    return cap


MaxCostUsd = Annotated[
    float | None,
    flag(
        MONEY,
        "--max-cost-usd",
        metavar="USD",
        help="Hard cap on what is paid, over all sessions. The command stops cleanly there.",
        default="no cap",
        callback=_above_zero,
    ),
]


Tags = Annotated[
    list[str] | None,
    flag(
        MONEY,
        "--tag",
        metavar="NAME=VALUE",
        help="For whom the run spends, as team=search: stored with it, and capped by the day where the pool file says "
        "so. Repeatable.",
        default="none",
    ),
]


def tags_of(words: Sequence[str] | None) -> dict[str, str] | None:
    """The tags of `--tag NAME=VALUE ...`. ConfigError for what is none, and for a name that is given twice."""
    found: dict[str, str] = {}
    for word in words or ():
        try:
            name, value = tag_of(word)
        except ValueError as error:
            raise ConfigError(f"--tag: {error}.") from None
        if name in found:
            raise ConfigError(f"--tag {word}: {name} is {found[name]!r} already. A run has one value of each name.")
        found[name] = value
    return found or None


def reuse(default: str) -> Any:
    """--reuse / --no-reuse with a command's own default."""
    meaning = (
        "Use answers again that runs over other inputs of this lake paid for. Those over the same input always are."
    )
    return flag(MONEY, "--reuse/--no-reuse", help=meaning, default=default)


DryRun = Annotated[
    bool, flag(MONEY, "--dry-run", help="Print what would be done and what it would cost, pay nothing, and stop.")
]
CoreHourUsd = Annotated[
    float,
    flag(
        MONEY,
        "--core-hour-usd",
        metavar="USD",
        help="What an hour of one core is worth: the prices of local models follow from it and their measured speed.",
    ),
]

# Output: where results go.


def _lake(panel: str, **further: Any) -> Any:
    meaning = "Folder of the trajectory lake, or its address in an object store, as s3://bucket/prefix."
    return flag(panel, "--lake", metavar="FOLDER", help=meaning, default=str(DEFAULT_LAKE), **further)


Lake = Annotated[str | None, _lake(OUTPUT)]
PlainLake = Annotated[Path, _lake(OUTPUT, parser=lake_folder)]
ReadLake = Annotated[Path, _lake(INPUT, parser=lake_folder)]
"""Of a command that reads the lake: its folder on this machine."""


def out(detail: str = "", default: str = "", metavar: str = "FILE") -> Any:
    """--out with a command's own detail and default."""
    meaning = f"Where the result is written. {detail}".strip()
    return flag(OUTPUT, "--out", "-o", metavar=metavar, help=meaning, default=default)


def shard_size(default: str) -> Any:
    """--shard-size with a command's own default."""
    return flag(OUTPUT, "--shard-size", metavar="N", help="Problems per shard, the unit of commit.", default=default)


_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds_of(text: str | None, name: str) -> float | None:
    """Seconds of a time as `6h`. ConfigError for anything else; `name` is the flag's."""
    if text is None:
        return None
    try:
        seconds = float(text[:-1]) * _SECONDS[text[-1]]
    except (ValueError, KeyError, IndexError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{name} {text}: expected a number and a unit, as 90m, 6h or 2d.")
    return seconds

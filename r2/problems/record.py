"""The record of a benchmark: everything that is known of it, in one place.

The benchmark's module makes the record, `r2/problems/benchmark.py` lists it, and everything else reads it there.

A benchmark of another package is the same record under an entry point (r2/plugins.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from r2.plan import Plan
from r2.problem import Problem
from r2.problems.row import Row
from r2.problems.source import Source


@dataclass(frozen=True, slots=True)
class HubDataset:
    """Where published rows are on the Hugging Face hub."""

    dataset: str
    configuration: str
    split: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One benchmark. Only the name is needed; a benchmark without `generate` and `read` is a check for a user's file
    (`file:PATH?check=NAME`)."""

    name: str
    """What rows, sources (`--problems`) and `--benchmark` call it."""
    is_correct: Callable[[Problem, str], bool] | None = None
    """Whether an answer is right. None: by choice letter, number or text, whichever fits the target."""
    is_slow: bool = False
    """A check may take a second or more (it runs code, or mathematics): it is made in a thread, beside the event loop,
    and so must work in one."""
    has_one_answer: bool = True
    """Two right answers to one question are the same answer, so that answers can be counted. False: there may be many
    (P3 asks for any value that passes)."""
    n_choices: int = 0
    """How many answers are possible where the rows do not list them: 2 for yes or no. 0: any."""
    malformed: Callable[[str], str | None] = lambda text: None
    """Names what is wrong with a result's form; None where nothing is."""
    wording: str = ""
    """Goes before every solver's instruction."""
    plan_example: str = ""
    """A question with its plan, for the teacher's prompt."""
    answer_tokens: int = 64
    """Output limit of a direct result."""
    generate: Callable[[Source, int, int], Iterator[Problem]] | None = None
    """(source, n, seed) -> `n` problems. ConfigError for an option it does not know. None: it has no generator."""
    place: str = ""
    """What a source of generated problems names after the colon, as TASK in `rg:TASK`. "": nothing."""
    read: Callable[[Row, int], Problem | None] | None = None
    """(row of a published file, place among the problems) -> problem; None for a row that no check can judge.
    FieldError for a row of another format. None: it has no files."""
    read_line: Callable[[str], Row] | None = None
    """A line of a published .txt file -> its row; ValueError for one of another format. None: it has no .txt files."""
    hub: HubDataset | None = None
    """Where its published rows are, for a source that names no file; None: nowhere."""
    licence: str = "generated here"
    """Terms of its problems, for a dataset card."""
    gold_plan: Callable[[str], tuple[Plan, list[str]]] | None = None
    """Question -> plan with the right result of each step; ValueError for a question without one. None: no plan follows
    from the question."""
    has_gold_rows: bool = False
    """Its published rows hold a decomposition (r2/problems/gold.py)."""

    @property
    def has_gold_plans(self) -> bool:
        """For some of its problems, by question or by row."""
        return self.gold_plan is not None or self.has_gold_rows

    @property
    def source(self) -> str:
        """How `--problems` names it."""
        return f"{self.name}:{self.place}" if self.place else self.name

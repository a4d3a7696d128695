"""The record of a way to answer: everything that is known of it, in one place.

The method's module makes the record, `r2/methods/__init__.py` lists it, and everything else reads it there: the command
line, the run, the dry run, the evaluation, the report. A method of another package is the same record under an entry
point (r2/plugins.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from r2.answering.protocol import Router, Solving
from r2.methods.expected import ExpectedCalls
from r2.problem import Problem
from r2.settings import Reasoning

Family = Literal["ours", "constant", "baseline", "bound"]
"""How a report draws it: a router that is judged; one model for everything; what routers are held against; chance and
hindsight."""
RunKind = Literal["answer", "label"]
TakesModel = Literal["", "strongest", "all"]
Fitted = Literal["", "benchmark", "agreement", "confidence", "examples"]


def _fits(router: Router, pool: str) -> None:
    """For methods that ask nothing more of settings and pool than `make_router` checks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way to answer. Under equal conditions: the same pool, the same wording and answer extraction, one try each,
    never a look at the gold answer."""

    name: str
    """What `--method`, `--methods` and the stored column `method` call it."""
    summary: str
    """A few words for the help text: "decompose, allocate, solve"."""
    run: Callable[[Problem, Router], Solving]
    """A generator of waves of calls (r2/answering/protocol.py). It ends with an Outcome, whatever the models write."""
    expects: Callable[[Router], Sequence[ExpectedCalls]]
    """The calls it is expected to need per question, for a dry run."""
    assumes: str = ""
    """What `expects` takes for granted beside the lengths of replies."""
    family: Family = "baseline"
    routes: bool = False
    """It chooses among models by looking at the question, and so can collapse: a report warns where one model gets
    nearly everything."""
    escalates: bool = False
    """It asks a stronger model where a check fails: the user's verifier (`--verify`) has a say."""
    knob: str = ""
    """Field of `Reasoning` that sets its operating point; "": it has none."""
    values: tuple[float, ...] = ()
    """What an evaluation tries the knob at on dev problems; for the knob `b`, what its own setting says."""
    by_default: bool = False
    """An evaluation has a row of it where no methods are named."""
    per_model: bool = False
    """An evaluation has a row of it for every solver, by the setting `model` (NAME:MODEL: for one); they are among the
    constants that the others are held against."""
    takes_model: TakesModel = ""
    """It uses one model, by the setting `model`, and is no constant: NAME:MODEL is a row for one, NAME:all a row for
    every solver, and NAME alone one for the strongest (`strongest`) or for every solver (`all`)."""
    takes_samples: bool = False
    """NAME:MODEL,K sets its setting `n_samples`."""
    fitted: Fitted = ""
    """What an evaluation chooses for it on dev problems, from what every solver answered there and without a call of
    its own: a model for each benchmark (`by_benchmark`), the order of a cascade by agreement (`chain`) or by confidence
    (`chain`, `threshold`), or worked examples (`examples`)."""
    writes_programs: bool = False
    """Its models write programs, which are run on this machine."""
    takes_router: bool = False
    """It decomposes and allocates: an evaluation has a row of it for every `--router`."""
    uses_query_router: bool = False
    """It needs the fitted file that `--query-router` names; an evaluation fits one on dev problems."""
    matches_judged: bool = False
    """An evaluation gives it the plans and the model shares of the judged row: random at matched cost."""
    run_kind: RunKind = "answer"
    """The `kind` of its runs; `label` where they are for training, and so no row of an evaluation."""
    check: Callable[[Router, str], None] = _fits
    """(router, the pool file's path): ConfigError, before anyone is asked, where settings and pool do not fit."""

    def __post_init__(self) -> None:
        if self.knob and self.knob not in Reasoning.model_fields:
            raise ValueError(f"method {self.name}: its knob {self.knob!r} is no setting of r2.settings.Reasoning")
        if bool(self.knob) != bool(self.values):
            raise ValueError(f"method {self.name}: a knob and the values it is tried at come together")

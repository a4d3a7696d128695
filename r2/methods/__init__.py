"""Ways to answer a problem, all of one signature: `METHODS[name](problem, router)` is a generator of waves
(r2/answering/route.py).

Under equal conditions: the same pool, the same wording and answer extraction, one try each, never a look at the gold
answer. What each method reads of the settings is in its module's docstring.
"""

from collections.abc import Callable
from functools import partial

from r2.answering.protocol import Router, Solving, concluded
from r2.answering.route import solve
from r2.labelling.label import label
from r2.methods.automix import automix
from r2.methods.cot import chain_of_thought
from r2.methods.datashunt import datashunt
from r2.methods.decompose_one import decompose_then_one_model
from r2.methods.dot import division_of_thoughts
from r2.methods.query_router import learned_query_router
from r2.methods.random_model import random_model
from r2.methods.tot import tree_of_thoughts
from r2.problem import Problem

METHODS: dict[str, Callable[[Problem, Router], Solving]] = {
    "r2": solve,
    "cot": chain_of_thought,
    "tot": partial(concluded, tree_of_thoughts),
    "decompose_one": partial(concluded, decompose_then_one_model),
    "datashunt": partial(concluded, datashunt),
    "automix": partial(concluded, automix),
    "dot": partial(concluded, division_of_thoughts),
    "query_router": partial(concluded, learned_query_router),
    "random": partial(concluded, random_model),
    "label": label,
}

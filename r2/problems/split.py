"""Which side of the train / test split a question is on: one rule for label sets, specialists and evaluations. Pure.

The side depends on the question's words alone, so a problem generated under another seed, or read from another file,
still falls where it fell before: nothing that is trained on `train` has seen a question of `test`.
"""

import hashlib
from typing import Literal

from r2.problem import Problem
from r2.problems.leakage import normalised

Side = Literal["train", "test"]


def split_of(question: str, split_seed: int = 0, test_share: float = 0.1) -> Side:
    """`train` or `test`, by a hash: the same question falls on the same side in every run with this seed."""
    key = f"{split_seed}:{normalised(question)}".encode("utf-8", "surrogatepass")
    draw = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) / 2**64
    return "test" if draw < test_share else "train"


def question_key(problem: Problem) -> str:
    """What tells a question from others, whatever its id: 16 hexadecimal digits of its words, its context and its
    choices."""
    parts = (problem.question, problem.context, *problem.choices)
    words = "\0".join(map(normalised, parts)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(words, digest_size=8).hexdigest()

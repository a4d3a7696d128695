"""The simulated models behind an imitated provider: its form, its limits and its bill, and answers that are right as
often as a model's of this ability.

    OpenAI(answers=simulated({"gpt-4.1-mini": 2.0}))

The same prompt has the same answer live and by batch. The only module here that knows the product.
"""

from collections.abc import Callable, Mapping

from r2.pool.simulated.mind import think
from tests.support.providers.imitation import Ask


def simulated(abilities: Mapping[str, float], seed: int = 0) -> Callable[[Ask], str]:
    """What each model answers, by its ability on the scale of r2/pool/simulated/mind.py."""

    def answer(ask: Ask) -> str:
        system = [("system", ask.system)] if ask.system else []
        name = ask.model.name
        thought = think(name, abilities[name], [*system, *ask.turns], ask.seed, seed, is_sampled=ask.is_sampled)
        return thought.text

    return answer

"""A second way to count a model's bytes: plain integers, written from configs and papers, nothing of memfirst.

`describe(config)` lists a model's tensors, keys and values, and states from its config.json; `price` and `held`
count what a step moves and what a sequence occupies.
"""

from tests.oracle.attention import FAMILIES as ATTENTION
from tests.oracle.count import BLOCKS, Blocks, Held, Moved, Sequence, by_layer, chunks, held, parameters, price
from tests.oracle.hybrid import FAMILIES as HYBRID
from tests.oracle.parts import Config, Model
from tests.oracle.recurrent import FAMILIES as RECURRENT

__all__ = ["ATTENTION", "BLOCKS", "HYBRID", "Blocks", "Config", "Held", "Model", "Moved", "Sequence"]
__all__ += ["RECURRENT", "by_layer", "chunks", "describe", "held", "parameters", "price"]


def describe(config: Config) -> Model:
    """The model of a config.json; KeyError for a model_type that this oracle does not know."""
    return {**ATTENTION, **RECURRENT, **HYBRID}[config["model_type"]](config)

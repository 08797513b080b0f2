"""BF16 in 12 bits once it is unpacked: for each column 16 words, rows 0 to 7 and 8 to 15 by turns, two in 32 bits."""

from memfirst.kernels.cpu.bf12 import load_words
from memfirst.kernels.cpu.lang import inline

STRIDE = 32
AHEAD = 0  # it comes from the second level of cache, as one plain stream
AHEAD_ONE = 0


@inline
def value(w, p, part):
    """One column of each row, as float32."""
    return load_words(w, p, part)

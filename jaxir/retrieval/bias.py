"""Language bias: does a multilingual pool rank parallel right answers alike?

Dimension key: Q queries, R right answers of a query at most.
"""

import numpy as np
from jaxtyping import Float, Int


def rank_distance(ranks: Int[np.ndarray, "Q R"]) -> Float[np.ndarray, "Q"]:
    """Highest minus lowest rank of a query's parallel right answers (arXiv 2408.10536, section 4).

    Args:
        ranks: from 1, in the multilingual pool; 0 or less is padding.

    Returns:
        One distance a query, lower is better; NaN where fewer than two right answers leave nothing
        to compare, and such a query counts in no mean.
    """
    known = ranks > 0
    highest = np.where(known, ranks, -np.inf).max(axis=1)
    lowest = np.where(known, ranks, np.inf).min(axis=1)
    return np.where(known.sum(axis=1) > 1, highest - lowest, np.nan)

"""Language bias: metrics of whether a ranking of the multilingual pool treats languages alike.

Dimension key: Q queries, R relevant passages of a query at most, P passages, K top-k, N languages.

`question` has one value for the queries that ask the same thing in different languages.
"""

import itertools

import numpy as np
import scipy.sparse
import scipy.stats
from jaxtyping import Float, Int


def rank_distance(
    ranks: Int[np.ndarray, "Q R"], gains: Int[np.ndarray, "Q R"]
) -> Float[np.ndarray, "Q"]:
    """Highest minus lowest rank of a query's relevant passages (arXiv 2408.10536, section 4).

    Args:
        ranks: from 1, in the complete ranking of the multilingual pool.
        gains: positive for a relevant passage, 0 for padding.

    Returns:
        A distance a query, lower is better; NaN for fewer than two relevant passages, and such a
        query counts in no mean.
    """
    known = gains > 0
    highest = np.where(known, ranks, -np.inf).max(axis=1)
    lowest = np.where(known, ranks, np.inf).min(axis=1)
    return np.where(known.sum(axis=1) > 1, highest - lowest, np.nan)


def equal_expected_rank(
    ranks: Int[np.ndarray, "Q R"],
    relevant_language: Int[np.ndarray, "Q R"],
    gains: Int[np.ndarray, "Q R"],
    question: Int[np.ndarray, "Q"],
) -> Float[np.ndarray, "Q"]:
    """PEER: the probability that relevant passages of all languages have equal expected rank.

    The p value of the Kruskal-Wallis test over the ranks of a question's relevant passages, grouped
    by their language (arXiv 2405.00978, all weight on relevant passages). The queries that ask one
    question in several languages are pooled, since with a single query and one relevant passage a
    language, as in parallel benchmarks, the statistic does not depend on the ranks.

    Args:
        ranks: from 1, in the complete ranking of the multilingual pool.
        relevant_language: of each relevant passage.
        gains: positive for a relevant passage, 0 for padding.
        question: of each query.

    Returns:
        From 0, unfair, to 1; each query gets the value of its question. NaN where the statistic
        does not depend on the ranks: no language has two relevant passages, or only one language
        has any (which the paper's implementation counts as 1).
    """
    known = gains > 0
    unit = np.unique(question, return_inverse=True)[1]
    languages = int(relevant_language.max()) + 1
    units = int(unit.max()) + 1
    group = (unit[:, None] * languages + relevant_language)[known]
    values = ranks[known].astype(float)

    def per_group(weights: np.ndarray | None = None) -> np.ndarray:
        sums = np.bincount(group, weights, minlength=units * languages)
        return sums.reshape(units, languages)

    # H = (n - 1) * (sum of squares between groups) / (sum of squares of all ranks), the form that
    # is corrected for ties; with equal expected ranks it is chi2 with groups - 1 degrees of freedom
    count = per_group()
    total = count.sum(axis=1)
    mean = per_group(values).sum(axis=1) / np.maximum(total, 1)
    deviation = values - mean[group // languages]
    between = (per_group(deviation) ** 2 / np.maximum(count, 1)).sum(axis=1)
    total_squares = per_group(deviation**2).sum(axis=1)
    groups = (count > 0).sum(axis=1)
    defined = (groups > 1) & (count.max(axis=1) > 1)
    statistic = (total - 1) * between / np.where(total_squares > 0, total_squares, 1.0)
    p_value = scipy.stats.chi2.sf(statistic, np.maximum(groups - 1, 1))
    return np.where(defined, p_value, np.nan)[unit]


def rank_correlation(
    indices: Int[np.ndarray, "Q K"], question: Int[np.ndarray, "Q"], passages: int
) -> Float[np.ndarray, "Q"]:
    """MRC@k: the correlation of the rankings of queries that ask one question (arXiv 2509.06195).

    Spearman's correlation of the top-k of two such queries, over the union of both; a passage that
    is missing from a top-k has rank k + 1 there, tied with the others that are missing. The mean
    over the pairs of a question's queries.

    Args:
        indices: top-k passages of each query, best first.
        question: of each query.
        passages: number of passages in the pool.

    Returns:
        From -1 to 1, which is no bias; each query gets the value of its question, NaN where only
        one query asks it.
    """
    queries, depth = indices.shape
    unit, size = np.unique(question, return_inverse=True, return_counts=True)[1:]
    order = np.argsort(unit, kind="stable")
    position = np.arange(queries) - np.repeat(np.cumsum(size) - size, size)  # within its question
    table = np.full((len(size), int(size.max())), -1)
    table[unit[order], position] = order
    # ranks as sparse rows over the passages, so that a product sums over what two lists share
    rows = np.repeat(np.arange(queries), depth)
    rank = np.tile(np.arange(1.0, depth + 1), queries)
    shape = (queries, passages)
    ranks = scipy.sparse.csr_array((rank, (rows, indices.reshape(-1))), shape=shape)
    present = scipy.sparse.csr_array((np.ones_like(rank), (rows, indices.reshape(-1))), shape=shape)
    sums, pairs = np.zeros(len(size)), np.zeros(len(size))
    for first, second in itertools.combinations(range(table.shape[1]), 2):
        both = (table[:, first] >= 0) & (table[:, second] >= 0)
        a, b = table[both, first], table[both, second]
        common = present[a].multiply(present[b]).sum(axis=1)
        product = ranks[a].multiply(ranks[b]).sum(axis=1)
        # sums of the ranks, in one list, of the passages that both have
        in_a = ranks[a].multiply(present[b]).sum(axis=1)
        in_b = present[a].multiply(ranks[b]).sum(axis=1)
        sums[both] += _spearman(depth, common, product, in_a, in_b)
        pairs[both] += 1
    return np.where(pairs > 0, sums / np.maximum(pairs, 1), np.nan)[unit]


def _spearman(
    depth: int, common: np.ndarray, product: np.ndarray, in_a: np.ndarray, in_b: np.ndarray
) -> np.ndarray:
    """Pearson's correlation of two lists of ranks over their union of u passages.

    The passages that a list lacks share the mean t of ranks k + 1 to u.

    Args:
        depth: k, the length of the lists.
        common: number of passages in both lists.
        product: sum over those of the product of their two ranks.
        in_a: sum over those of their ranks in the first list.
        in_b: the sum in the second.
    """
    union = 2 * depth - common
    missing = union - depth
    tied = (depth + 1 + union) / 2
    rank_sum = depth * (depth + 1) / 2
    mean = (union + 1) / 2
    # a passage of one list alone adds its rank there times t
    products = product + tied * (2 * rank_sum - in_a - in_b)
    squares = depth * (depth + 1) * (2 * depth + 1) / 6 + missing * tied**2
    variance = squares - union * mean**2
    # a single passage, which both have, leaves nothing to disagree on
    return np.where(variance > 0, (products - union * mean**2) / np.maximum(variance, 1e-300), 1.0)


def language_shares(
    indices: Int[np.ndarray, "Q K"],
    query_language: Int[np.ndarray, "Q"],
    passage_language: Int[np.ndarray, "P"],
    languages: int,
) -> Float[np.ndarray, "N N"]:
    """Share of each passage language (columns) in the top-k, by query language (rows).

    Without bias the rows equal the shares of the pool. NaN for a language without queries.
    """
    shares = np.full((languages, languages), np.nan)
    for language in range(languages):
        retrieved = passage_language[indices[query_language == language]]
        if retrieved.size:
            counts = np.bincount(retrieved.reshape(-1), minlength=languages)
            shares[language] = counts / retrieved.size
    return shares

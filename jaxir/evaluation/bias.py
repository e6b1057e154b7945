"""Language bias: does a multilingual pool treat the languages alike?

Dimension key: Q queries, R right answers of a query at most, P passages, K ranked places,
N languages.

All of these look at rankings of the pool of all languages. `question` numbers the queries: those of
one number ask the same thing in different languages.
"""

import itertools

import numpy as np
import scipy.sparse
import scipy.stats
from jaxtyping import Float, Int


def rank_distance(
    ranks: Int[np.ndarray, "Q R"], gains: Int[np.ndarray, "Q R"]
) -> Float[np.ndarray, "Q"]:
    """Highest minus lowest rank of a query's parallel right answers (arXiv 2408.10536, section 4).

    Args:
        ranks: from 1, in the multilingual pool, ranked whole.
        gains: positive for a right answer, 0 for padding.

    Returns:
        One distance a query, lower is better; NaN where fewer than two right answers leave nothing
        to compare, and such a query counts in no mean.
    """
    known = gains > 0
    highest = np.where(known, ranks, -np.inf).max(axis=1)
    lowest = np.where(known, ranks, np.inf).min(axis=1)
    return np.where(known.sum(axis=1) > 1, highest - lowest, np.nan)


def equal_expected_rank(
    ranks: Int[np.ndarray, "Q R"],
    answer_language: Int[np.ndarray, "Q R"],
    gains: Int[np.ndarray, "Q R"],
    question: Int[np.ndarray, "Q"],
) -> Float[np.ndarray, "Q"]:
    """PEER: the probability that right answers of all languages expect one rank.

    The p value of Kruskal and Wallis' test over the ranks of a question's right answers, grouped by
    the language of the answer (arXiv 2405.00978, all weight on right answers). The queries that ask
    one question in several languages are pooled, since with a single query and one answer a
    language, as on parallel benchmarks, the statistic is the same whatever the ranks.

    Args:
        ranks: from 1, in the multilingual pool, ranked whole.
        answer_language: of each right answer.
        gains: positive for a right answer, 0 for padding.
        question: of each query.

    Returns:
        From 0, unfair, to 1; the value of its question for each query. NaN where the statistic does
        not depend on the ranks: no language has two answers, or only one language has any (which
        the paper's implementation counts as 1).
    """
    known = gains > 0
    unit = np.unique(question, return_inverse=True)[1]
    languages = int(answer_language.max()) + 1
    units = int(unit.max()) + 1
    group = (unit[:, None] * languages + answer_language)[known]
    values = ranks[known].astype(float)

    def per_group(weights: np.ndarray | None = None) -> np.ndarray:
        sums = np.bincount(group, weights, minlength=units * languages)
        return sums.reshape(units, languages)

    count = per_group()
    total = count.sum(axis=1)
    mean = per_group(values).sum(axis=1) / np.maximum(total, 1)
    off = values - mean[group // languages]
    between = (per_group(off) ** 2 / np.maximum(count, 1)).sum(axis=1)
    within = per_group(off**2).sum(axis=1)
    used = (count > 0).sum(axis=1)
    tells = (used > 1) & (count.max(axis=1) > 1)
    statistic = (total - 1) * between / np.where(within > 0, within, 1.0)
    p = scipy.stats.chi2.sf(statistic, np.maximum(used - 1, 1))
    return np.where(tells, p, np.nan)[unit]


def rank_correlation(
    places: Int[np.ndarray, "Q K"], question: Int[np.ndarray, "Q"], passages: int
) -> Float[np.ndarray, "Q"]:
    """MRC@k: do the queries that ask one question get one ranking (arXiv 2509.06195)?

    Spearman's correlation of the first k places of two such queries, over the passages that either
    of them has there; one that a query lacks counts as its place k + 1, tied with the others of
    that kind. Mean over the pairs of a question.

    Args:
        places: the passages that each query ranks first, best first.
        question: of each query.
        passages: how many there are.

    Returns:
        From -1 to 1, which is no bias; the value of its question for each query, NaN where only one
        query asks it.
    """
    queries, depth = places.shape
    unit, size = np.unique(question, return_inverse=True, return_counts=True)[1:]
    order = np.argsort(unit, kind="stable")
    number = np.arange(queries) - np.repeat(np.cumsum(size) - size, size)  # within its question
    table = np.full((len(size), int(size.max())), -1)
    table[unit[order], number] = order
    rows = np.repeat(np.arange(queries), depth)
    rank = np.tile(np.arange(1.0, depth + 1), queries)
    shape = (queries, passages)
    ranks = scipy.sparse.csr_array((rank, (rows, places.reshape(-1))), shape=shape)
    present = scipy.sparse.csr_array((np.ones_like(rank), (rows, places.reshape(-1))), shape=shape)
    sums, pairs = np.zeros(len(size)), np.zeros(len(size))
    for one, other in itertools.combinations(range(table.shape[1]), 2):
        both = (table[:, one] >= 0) & (table[:, other] >= 0)
        a, b = table[both, one], table[both, other]
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
    """Pearson's correlation of two lists of ranks over their union, u passages.

    Those that a list lacks share the mean rank t of its places k + 1 to u.
    """
    union = 2 * depth - common
    missing = union - depth
    tied = (depth + 1 + union) / 2
    everything = depth * (depth + 1) / 2
    mean = (union + 1) / 2
    products = product + tied * (2 * everything - in_a - in_b)
    squares = depth * (depth + 1) * (2 * depth + 1) / 6 + missing * tied**2
    variance = squares - union * mean**2
    # a single passage, which both have, leaves nothing to disagree on
    return np.where(variance > 0, (products - union * mean**2) / np.maximum(variance, 1e-300), 1.0)


def language_shares(
    places: Int[np.ndarray, "Q K"],
    query_language: Int[np.ndarray, "Q"],
    passage_language: Int[np.ndarray, "P"],
    languages: int,
) -> Float[np.ndarray, "N N"]:
    """Share of each passage language (columns) in the first k places, by query language (rows).

    Without bias the rows equal the shares of the pool. NaN for a language that asks nothing.
    """
    shares = np.full((languages, languages), np.nan)
    for language in range(languages):
        found = passage_language[places[query_language == language]]
        if found.size:
            shares[language] = np.bincount(found.reshape(-1), minlength=languages) / found.size
    return shares

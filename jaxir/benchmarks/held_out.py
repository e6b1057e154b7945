"""The held-out set of a collection as a dataset, for evaluation during training.

Dimension key: G parallel groups, N languages, Q queries, P passages, R relevant passages of a query
at most. `collection.query` and `collection.passage` are [G, N] indices of texts, -1 for none.
"""

import numpy as np
from jaxtyping import Int

from jaxir.data.collection import Collection
from jaxir.evaluation.dataset import RetrievalDataset


def held_out_dataset(collection: Collection) -> RetrievalDataset:
    """All queries of the collection against all passages; those of its cluster are relevant.

    In parallel data a text is query and passage, and as a query it would retrieve itself. So texts
    that are also a passage of their language are no queries, unless there are no others.
    """
    group, language = np.nonzero(collection.query >= 0)
    text = collection.query[group, language]
    is_query_only = text != collection.passage[group, language]
    if is_query_only.any():
        group, language = group[is_query_only], language[is_query_only]
        text = text[is_query_only]
    passage_group, passage_language = np.nonzero(collection.passage >= 0)
    passage_text = collection.passage[passage_group, passage_language]
    # each text once; a text that two languages share once for each of them
    key = passage_language.astype(np.int64) * len(collection.texts) + passage_text
    _, first = np.unique(key, return_index=True)
    passage_language, passage_text = passage_language[first], passage_text[first]
    clusters = collection.cluster[passage_group[first]]
    return RetrievalDataset(
        name="held out",
        languages=collection.languages,
        queries=[collection.texts[i] for i in text],
        query_ids=[
            f"{collection.ids[g]} {collection.languages[x]}" for g, x in zip(group, language)
        ],
        query_language=language,
        passages=[collection.texts[i] for i in passage_text],
        passage_ids=[
            f"{collection.languages[x]} {i}" for x, i in zip(passage_language, passage_text)
        ],
        passage_language=passage_language,
        relevant=_cluster_passages(collection.cluster[group], clusters),
        question=group,
    )


def _cluster_passages(
    query_cluster: Int[np.ndarray, "Q"], passage_cluster: Int[np.ndarray, "P"]
) -> Int[np.ndarray, "Q R"]:
    """Indices of the passages of each query's cluster, padded with -1."""
    # after sorting by cluster those of one cluster are a range of `order`
    order = np.argsort(passage_cluster, kind="stable")
    start = np.searchsorted(passage_cluster[order], query_cluster, side="left")
    end = np.searchsorted(passage_cluster[order], query_cluster, side="right")
    positions = start[:, None] + np.arange((end - start).max(initial=1))[None, :]
    in_cluster = positions < end[:, None]
    return np.where(in_cluster, order[np.minimum(positions, len(order) - 1)], -1)

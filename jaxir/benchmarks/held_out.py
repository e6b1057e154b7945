"""The held-out part of a collection as a retrieval task, for evaluation during training.

Dimension key: G parallel groups, N languages, Q queries, P passages, R right answers of a query.
"""

import numpy as np
from jaxtyping import Int

from jaxir.data.collection import Collection
from jaxir.evaluation.dataset import RetrievalDataset


def held_out_dataset(collection: Collection) -> RetrievalDataset:
    """Every query of the collection against every passage; those of the query's cluster are right.

    A parallel text stands on both sides. As a query it would find itself, so texts that are also a
    passage of their language ask nothing, unless the collection holds nothing else.
    """
    group, language = np.nonzero(collection.query >= 0)
    text = collection.query[group, language]
    asking = text != collection.passage[group, language]
    if asking.any():
        group, language, text = group[asking], language[asking], text[asking]
    passage_group, passage_language = np.nonzero(collection.passage >= 0)
    passage_text = collection.passage[passage_group, passage_language]
    # a text that two languages share stands in the pool once for each
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
        relevant=_members(collection.cluster[group], clusters),
        question=group,
    )


def _members(
    wanted: Int[np.ndarray, "Q"], clusters: Int[np.ndarray, "P"]
) -> Int[np.ndarray, "Q R"]:
    """Passages of each query's cluster, padded with -1."""
    order = np.argsort(clusters, kind="stable")
    first = np.searchsorted(clusters[order], wanted, side="left")
    last = np.searchsorted(clusters[order], wanted, side="right")
    places = first[:, None] + np.arange((last - first).max(initial=1))[None, :]
    inside = places < last[:, None]
    return np.where(inside, order[np.minimum(places, len(order) - 1)], -1)

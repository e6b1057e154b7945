"""A jaxir model as mteb's tasks take it (mteb 2; the extra `mteb` installs it).

    import mteb
    from jaxir.mteb import MtebEncoder

    mteb.evaluate(MtebEncoder("DIR"), mteb.get_tasks(tasks=["XQuADRetrieval"]))

Queries and documents get the model's own prefixes, and not mteb's prompts; texts of tasks that know
no such sides (STS, clustering, classification) are encoded as queries, all alike.

Dimension key: T texts, D embedding width.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from jaxir.retriever import Retriever

try:
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from mteb.types import PromptType
except ImportError as error:
    raise ImportError(f'jaxir.mteb needs mteb 2 ({error}): pip install "jaxir[mteb]"') from error


class MtebEncoder(AbsEncoder):
    """A model that follows mteb's `EncoderProtocol`.

    Args:
        model_name: what `jaxir.Retriever.load` reads, or a retriever.
        revision: what mteb's cache of results knows the model by; None: a digest of all that
            decides its embeddings, so that another checkpoint of a workdir is measured anew.
        device: of no meaning here: all devices of the machine are used.
        **kwargs: of `jaxir.Retriever.load`.

    Raises:
        UserError: there is no such model, it is damaged, or a value is impossible.
    """

    def __init__(
        self,
        model_name: str | Path | Retriever,
        revision: str | None = None,
        *,
        device: str | None = None,
        **kwargs: Any,
    ):
        if isinstance(model_name, Retriever):
            retriever = model_name
        else:
            retriever = Retriever.load(model_name, **kwargs)
        self._encoder = retriever
        self.mteb_model_meta = _describe(retriever, revision)

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> Float[np.ndarray, "T D"]:
        """Embeddings of the texts of all batches, in their order.

        Args:
            inputs: batches with a list `text`.
            task_metadata: not looked at, nor are `hf_split` and `hf_subset`.
            hf_split: of the task.
            hf_subset: of the task.
            prompt_type: documents are encoded as passages, all else as queries.
            **kwargs: `show_progress_bar`; a batch's size is `batch_tokens` of the retriever.
        """
        # half a surrogate pair, which no tokenizer takes, becomes "?"
        texts = [
            text.encode("utf-8", "replace").decode() for batch in inputs for text in batch["text"]
        ]
        side = "passages" if prompt_type == PromptType.document else "queries"
        progress = side if kwargs.get("show_progress_bar") else None
        if prompt_type == PromptType.document:
            return self._encoder.encode_passages(texts, progress=progress)
        return self._encoder.encode_queries(texts, progress=progress)


def _describe(retriever: Retriever, revision: str | None) -> ModelMeta:
    model = retriever.model
    sizes = [leaf.size for leaf in jax.tree.leaves(model.params)]
    function = ScoringFunction.COSINE if model.config.normalize else ScoringFunction.DOT_PRODUCT
    described = {
        "name": _name(retriever.name),
        "revision": revision or _revision(retriever),
        "n_parameters": sum(sizes),
        "max_tokens": max(model.max_query_tokens, model.max_passage_tokens),
        "embed_dim": retriever.width,
        "framework": ["JAX"],
        "similarity_fn_name": function,
        "use_instructions": bool(model.query_prefix or model.passage_prefix),
    }
    return ModelMeta.create_empty(described)


def _name(name: str) -> str:
    """As mteb wants it, ORGANIZATION/MODEL; a folder is one of ours."""
    repository = name.partition("@")[0]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", repository) and not Path(name).exists():
        return repository
    return f"jaxir/{Path(name).resolve().name if name else 'model'}"


def _revision(retriever: Retriever) -> str:
    """A digest of weights, tokenizer, prefixes, lengths and precision."""
    model = retriever.model
    parts = (
        *(retriever.fingerprint, model.query_prefix, str(model.max_query_tokens)),
        model.config.compute_dtype,
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]

"""A jaxir model as an encoder for mteb's tasks (mteb 2; the extra `mteb` installs it).

    import mteb
    from jaxir.mteb import MtebEncoder

    mteb.evaluate(MtebEncoder("DIR"), mteb.get_tasks(tasks=["XQuADRetrieval"]))

Queries and documents get the model's own prefixes instead of mteb's prompts; in tasks without
queries and documents (STS, clustering, classification) all texts are encoded as queries.

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

from jaxir.models.trained import ModelSettings
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
        model_name: a name or folder that `jaxir.Retriever.load` reads, or a retriever.
        revision: key of the model in mteb's cache of results; None: a digest of all that determines
            its embeddings, so that another checkpoint of a workdir is evaluated anew.
        device: ignored; all devices of the machine are used.
        settings: of `jaxir.Retriever.load`; ignored for a retriever.

    Raises:
        UserError: there is no such model, it is damaged, or a setting is impossible.
    """

    def __init__(
        self,
        model_name: str | Path | Retriever,
        revision: str | None = None,
        *,
        device: str | None = None,
        settings: ModelSettings | None = None,
    ):
        if isinstance(model_name, Retriever):
            retriever = model_name
        else:
            retriever = Retriever.load(model_name, settings)
        self._retriever = retriever
        self.mteb_model_meta = _model_meta(retriever, revision)

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
            task_metadata: ignored, as are `hf_split` and `hf_subset`.
            hf_split: ignored.
            hf_subset: ignored.
            prompt_type: documents are encoded as passages, all other texts as queries.
            **kwargs: `show_progress_bar`; the batch size is the retriever's `batch_tokens`.
        """
        # half a surrogate pair, which no tokenizer accepts, becomes "?"
        texts = [
            text.encode("utf-8", "replace").decode() for batch in inputs for text in batch["text"]
        ]
        side = "passages" if prompt_type == PromptType.document else "queries"
        progress = side if kwargs.get("show_progress_bar") else None
        if prompt_type == PromptType.document:
            return self._retriever.encode_passages(texts, progress=progress)
        return self._retriever.encode_queries(texts, progress=progress)


def _model_meta(retriever: Retriever, revision: str | None) -> ModelMeta:
    model = retriever.model
    sizes = [leaf.size for leaf in jax.tree.leaves(model.params)]
    function = ScoringFunction.COSINE if model.config.normalize else ScoringFunction.DOT_PRODUCT
    fields = {
        "name": _name(retriever.name),
        "revision": revision or _revision(retriever),
        "n_parameters": sum(sizes),
        "max_tokens": max(model.max_query_tokens, model.max_passage_tokens),
        "embed_dim": retriever.width,
        "framework": ["JAX"],
        "similarity_fn_name": function,
        "use_instructions": bool(model.query_prefix or model.passage_prefix),
    }
    return ModelMeta.create_empty(fields)


def _name(name: str) -> str:
    """A name ORGANIZATION/MODEL, as mteb requires; that of a folder is jaxir/FOLDER."""
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

"""XLM-R base on SQuAD in nine languages, half monolingual and half cross-lingual batches.

    python -m jaxir.train --config tpu_v4.py --distributed --workdir gs://BUCKET/base

The data is SQuAD v1.1 and its machine translations, through TFDS (`squad`, and `xquad/LANGUAGE`
with split `translate-train`), the public equivalent of the training data of arXiv 2408.10536.
Learning rate, weight decay and shares are that paper's; it does not state the rest.

The first run downloads 2.6 GB, as TFDS states: two files of `squad`, and four of each of the eight
translations. TFDS keeps them and the prepared datasets in $TFDS_DATA_DIR, by default
~/tensorflow_datasets on each host. If all hosts see that folder (gs://BUCKET/tfds, for example),
one host prepares each dataset and the others wait for it. The weights, 1.1 GB, come from the hub.

Hardware: a v4-8 slice (four chips) or larger. Cost and scores on a TPU: not measured; plans are in
tpu/README.md. Published for the paper's own data: XQuAD-R mAP .798 monolingual, .705 cross-lingual,
.593 multilingual, rank distance 287. More in configs/README.md.
"""

from jaxir.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    HybridConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RetrievalEvaluationConfig,
    ScaleConfig,
    Shares,
    Source,
)

TRANSLATED = ("ar", "de", "es", "hi", "ru", "th", "tr", "zh")


def get_config() -> Config:
    """XLM-R base, batch 2,048."""
    return Config(
        steps=10_000,
        batch_size=2_048,
        model=ModelConfig(
            init="FacebookAI/xlm-roberta-base",
            pooling="mean",
            max_query_tokens=64,
            max_passage_tokens=256,
            packed_length=256,
        ),
        data=DataConfig(
            sources=(
                Source("tfds", "squad", ("en",), parallel="squad"),
                *(
                    Source(
                        "tfds",
                        f"xquad/{language}",
                        (language,),
                        parallel="squad",
                        split="translate-train",
                        repair_answers=True,
                    )
                    for language in TRANSLATED
                ),
            ),
            held_out=0.02,
            held_out_limit=1_000,
        ),
        hybrid=HybridConfig(shares=Shares(monolingual=0.5, cross_lingual=0.5)),
        loss=LossConfig(temperature=0.02),
        optimizer=OptimizerConfig(learning_rate=3e-5, weight_decay=1e-2, warmup_steps=500),
        scale=ScaleConfig(grad_cache_chunk=64),
        checkpoint=CheckpointConfig(every=500),
        evaluation=RetrievalEvaluationConfig(every=500, batch_tokens=1 << 17),
    )

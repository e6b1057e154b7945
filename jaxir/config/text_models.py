"""Shapes of the text encoders and of the dual encoder."""

from dataclasses import dataclass, field

from jaxir.config.checks import not_negative, one_of, positive, require, under_one

ARCHITECTURES = ("xlm-roberta", "xlm-roberta-xl", "bert")
POOLINGS = ("cls", "mean")
COMPUTE_DTYPES = ("float32", "bfloat16")
TOKENIZER_KINDS = ("unigram", "bpe")
REMATS = ("none", "products", "layers")  # nothing; all but matrix products; whole layers


@dataclass
class EncoderConfig:
    """Shape of a transformer encoder; the defaults are XLM-R base."""

    architecture: str = one_of("xlm-roberta", *ARCHITECTURES)  # "xlm-roberta-xl" is pre-LayerNorm
    vocab_size: int = positive(250_002)
    hidden_size: int = positive(768)
    layers: int = not_negative(12)  # 0: a text is the mean (or first) of its tokens' vectors
    heads: int = positive(12)
    intermediate_size: int = positive(3072)
    # rows of the position table; XLM-R's first pad_id + 1 rows hold no token
    positions: int = positive(514)
    token_types: int = 1
    pad_id: int = 1
    layer_norm_epsilon: float = 1e-5
    dropout: float = under_one(0.1)
    attention_dropout: float = under_one(0.1)
    initializer_range: float = 0.02  # standard deviation of random kernels and embeddings

    @property
    def norm_first(self) -> bool:
        """Pre-LayerNorm: a LayerNorm before each block and one at the end, not one after each."""
        return self.architecture == "xlm-roberta-xl"

    @property
    def activation(self) -> str:
        """Activation of the feed-forward blocks."""
        return "gelu"

    @property
    def max_tokens(self) -> int:
        """Longest text, in tokens with the special ones, that the position table can hold."""
        return self.positions if self.architecture == "bert" else self.positions - self.pad_id - 1


@dataclass
class DualEncoderConfig:
    """An encoder shared by queries and passages, and the head that makes its output embeddings."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    pooling: str = one_of("mean", *POOLINGS)
    dense: int = not_negative(0)  # width of LaBSE's Dense(tanh) after pooling; 0: none
    projection: int = not_negative(0)  # width of a linear projection without bias, after it; 0: no
    normalize: bool = True  # embeddings of length 1, so that a dot product is a cosine
    # of matrix products; parameters, softmax and LayerNorm stay in float32
    compute_dtype: str = one_of("bfloat16", *COMPUTE_DTYPES)
    # rematerialization: activations that the backward pass computes again to save memory
    remat: str = one_of("none", *REMATS)

    @property
    def embedding_size(self) -> int:
        """Width of an embedding."""
        return self.projection or self.dense or self.encoder.hidden_size


@dataclass
class ModelConfig(DualEncoderConfig):
    """The dual encoder of a run, its initial weights and tokenizer, and the limits of its texts."""

    # folder or hub name (OWNER/NAME@REVISION) to start from, which decides the shape; "": random
    init: str = ""
    tokenizer: str = ""  # folder, vocab.txt or hub name; "": the one of `init`
    # train a tokenizer of that many pieces on the training texts; 0: do not
    trained_tokenizer_size: int = not_negative(0)
    # "bpe": whole words of a small vocabulary
    trained_tokenizer_kind: str = one_of("unigram", *TOKENIZER_KINDS)
    query_prefix: str = "Query: "
    passage_prefix: str = "Passage: "
    max_query_tokens: int = 64  # with the special tokens; longer texts are cut
    max_passage_tokens: int = 256
    # packing: texts share rows of that many tokens; 0: one text per row, padded
    packed_length: int = not_negative(0)


def check_heads(heads: int, hidden_size: int, name: str) -> None:
    """Raise a `UserError` unless the heads divide the hidden size; `name` is the field's."""
    divides = heads > 0 and hidden_size % heads == 0
    require(divides, name, heads, f"a divisor of hidden_size = {hidden_size}")

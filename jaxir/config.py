"""What a run can be told: typed dataclasses, and the checks that need neither data nor devices.

A config file `configs/NAME.py` defines `get_config()`, which returns a `RunConfig`. The dataclasses
are not frozen because command-line overrides (`--config.optimizer.learning_rate=1e-4`) assign to
fields. This module imports neither JAX nor TensorFlow, so that `--help` answers at once.
"""

import dataclasses
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxir.errors import UserError

ARCHITECTURES = ("xlm-roberta", "xlm-roberta-xl", "bert")
POOLINGS = ("cls", "mean")
COMPUTE_DTYPES = ("float32", "bfloat16")
TOKENIZER_KINDS = ("unigram", "bpe")
REMATS = ("none", "products", "layers")  # nothing; all but matrix products; whole layers
BENCHMARKS = ("", "cldr", "xquad_r", "mlqa_r")
PASSAGE_UNITS = ("paragraph", "sentence", "sentence_with_paragraph")


@dataclass
class EncoderConfig:
    """Shape of a transformer encoder; the defaults are XLM-R base."""

    architecture: str = "xlm-roberta"  # one of ARCHITECTURES; "xlm-roberta-xl" is pre-LayerNorm
    vocab_size: int = 250_002
    hidden_size: int = 768
    layers: int = 12  # 0: a text is the mean (or first) of its tokens' vectors
    heads: int = 12
    intermediate_size: int = 3072
    positions: int = 514  # rows of the position table; XLM-R's first pad_id + 1 rows hold no token
    token_types: int = 1
    pad_id: int = 1
    layer_norm_epsilon: float = 1e-5
    dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02  # standard deviation of random kernels and embeddings

    @property
    def norm_first(self) -> bool:
        """Whether LayerNorm stands before each block and once at the end, not after each."""
        return self.architecture == "xlm-roberta-xl"

    @property
    def activation(self) -> str:
        """Of the feed-forward blocks."""
        return "gelu"

    @property
    def max_tokens(self) -> int:
        """Longest text, in tokens with the special ones, that the position table can hold."""
        return self.positions if self.architecture == "bert" else self.positions - self.pad_id - 1


@dataclass
class DualEncoderConfig:
    """One encoder shared by queries and passages, and what turns its output into an embedding."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    pooling: str = "mean"  # one of POOLINGS
    dense: int = 0  # width of LaBSE's Dense(tanh) after pooling; 0: none
    projection: int = 0  # width of a linear projection without bias, after that; 0: none
    normalize: bool = True  # embeddings of length 1, so that a dot product is a cosine
    compute_dtype: str = (
        "bfloat16"  # of matrix products; parameters, softmax and LayerNorm: float32
    )
    remat: str = "none"  # one of REMATS: what the backward pass computes again to save memory

    @property
    def embedding_size(self) -> int:
        """Width of an embedding."""
        return self.projection or self.dense or self.encoder.hidden_size


@dataclass
class ModelConfig(DualEncoderConfig):
    """The dual encoder of a run, where it starts from, and how texts become its input."""

    init: str = (
        ""  # folder or hub name (@REVISION) to start from (decides the shape); "": random weights
    )
    tokenizer: str = ""  # folder, vocab.txt or hub name; "": the one of `init`
    trained_tokenizer_size: int = 0  # train a tokenizer of that many pieces on the training texts
    trained_tokenizer_kind: str = "unigram"  # or "bpe": whole words of a small vocabulary
    query_prefix: str = "Query: "
    passage_prefix: str = "Passage: "
    max_query_tokens: int = 64  # with the special tokens; longer texts are cut
    max_passage_tokens: int = 256
    row_tokens: int = 0  # packing: texts share rows of that many tokens; 0: a row a text
    # of batches of short texts that do not share rows: halve both limits up to that often, less 1
    length_buckets: int = 1


@dataclass
class Fields:
    """Names of the fields of a JSON line or Parquet row; "" where the file has none."""

    id: str = "id"
    query: str = "query"
    passage: str = "passage"
    query_language: str = "query_lang"
    passage_language: str = "passage_lang"
    hard_negatives: str = "hard_negatives"
    answers: str = ""  # SQuAD's {"text": [...], "answer_start": [...]}; needed for sentences
    text: str = ""  # a text that stands on both sides: as query and as passage of its translations


@dataclass
class Source:
    """One source of training rows. Relative paths are looked up under `DataConfig.directory`."""

    reader: str = "jsonl"  # a name in `jaxir.data.sources.READERS`
    path: str = ""  # file, folder or glob ("{language}" is filled in); for tfds: "xquad/ar"
    languages: tuple[str, ...] = ()  # (query,), (query, passage), or those of the parallel files
    name: str = ""  # what reports call it; "": the path
    parallel: str = ""  # sources with the same word here tie rows of equal id together; "": alone
    split: str = "train"  # tfds only
    fields: Fields = field(default_factory=Fields)  # of jsonl and parquet; id="" numbers the rows
    language_codes: dict[str, str] = field(default_factory=dict)  # the file's code: the real one
    skip: int = 0  # rows at the start that are left out
    id_suffix: str = ""  # cut off the end of ids, e.g. "_{language}" (the file's own code)
    drop_empty: bool = False  # leave out rows without a text instead of stopping
    repair_answers: bool = False  # look for an answer that is not where its offset says


@dataclass
class DataConfig:
    """Where the rows come from and how they are cut, held out and cached."""

    directory: str = "."
    sources: tuple[Source, ...] = ()
    passage: str = "paragraph"  # one of PASSAGE_UNITS
    cache: str = ""  # folder of the token cache; "": `tokens` in the workdir
    held_out: float = 0.02  # share of the passages kept from training, for validation
    held_out_limit: int = 2_000  # at most that many parallel groups are held out
    drop_overlap_with: str = ""  # XQuAD-R folder: drop passages that share a 10-gram with it
    hard_negatives: int = 0  # a row
    limit: int = 0  # read at most that many parallel groups a source; 0: all


@dataclass
class Shares:
    """Relative frequency of each kind of batch; any non-negative numbers with a positive sum."""

    monolingual: float = 0.5  # one language for the whole batch
    mixed_monolingual: float = 0.0  # query and passage in one language, rows in different ones
    cross_lingual: float = 0.5  # query and passage of a row in different languages
    multilingual: float = 0.0  # the two languages of each row drawn independently
    english: float = 0.0


@dataclass
class HybridConfig:
    """The batch schedule (arXiv 2408.10536, section 3): which rows make the batch of a step."""

    shares: Shares = field(default_factory=Shares)
    language_weights: str = "uniform"  # "uniform", "size" or "temperature"
    language_temperature: float = 2.0  # weights are size ** (1 / temperature)
    pair_per: str = "row"  # cross-lingual batches draw a language pair per "row" or per "batch"
    one_source_batches: bool = False  # every batch from one source only


@dataclass
class TemperatureConfig:
    """What similarities are divided by."""

    temperature: float = 0.05
    learned_temperature: bool = False
    min_temperature: float = 0.01  # clamp of the learned one
    max_temperature: float = 1.0


@dataclass
class LossConfig(TemperatureConfig):
    """InfoNCE over the global batch."""

    directions: str = "both"  # "query_to_passage" or "both"
    false_negatives: str = "mask"  # "mask", "positives" or "keep"
    matryoshka: tuple[int, ...] = ()  # also train these leading dimensions


@dataclass
class OptimizerConfig:
    """AdamW with warm-up."""

    learning_rate: float = 3e-5
    schedule: str = "cosine"  # after warm-up: "cosine", "linear" or "constant"
    warmup_steps: int = 1_000
    final_learning_rate: float = 0.0
    weight_decay: float = 1e-2  # not on biases, LayerNorms and the temperature
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float = 1.0  # of the gradient's global norm; 0: no clipping


@dataclass
class ScaleConfig:
    """How a step is spread over the devices, and what it saves of their memory."""

    # gradient caching: texts (or rows that texts share) a device embeds at a time; 0: all its own
    texts_at_once: int = 0
    fsdp: bool = False  # parameters and optimizer state split over the devices
    replicas: int = 1  # with fsdp: whole copies, each split over devices that are near each other
    gradient_dtype: str = "float32"  # in which gradients are summed over devices


@dataclass
class CheckpointConfig:
    """When checkpoints are written, and which are kept."""

    every: int = 1_000  # steps; the last step is always saved
    keep: int = 2  # newest ones kept, besides the best


@dataclass
class EvaluationConfig:
    """When a run is measured on what it keeps from training, and which checkpoint is the best."""

    every: int = 1_000  # steps between evaluations on the held-out set; 0: at the end only
    best: str = "loss"  # the best checkpoint has the lowest "loss" or the highest "map"


@dataclass
class RetrievalEvaluationConfig(EvaluationConfig):
    """What else a retriever is measured by."""

    queries: int = 0  # of the held-out set, until the end; against all its passages; 0: all
    batch_tokens: int = 0  # encoded at a time, padding included; 0: what suits the devices
    benchmark: str = ""  # evaluated whole at the end: one of BENCHMARKS; "": none
    benchmark_directory: str = ""  # where it lies; "": xquad_r is downloaded
    passage: str = "sentence"  # its candidates: "sentence" or "sentence_with_paragraph"
    baselines: bool = False  # at the end also BM25 and the untrained model


@dataclass
class WatchConfig:
    """How a run is watched. These fields may change when a run is resumed."""

    every: int = 50  # steps between lines in metrics.jsonl
    tensorboard: bool = True
    wandb_project: str = ""  # "": no Weights & Biases
    export: bool = True  # write the best checkpoint as a sentence-transformers folder at the end


@dataclass
class SweepConfig:
    """Runs that differ in the shares of `kinds` and in the seed alone; see `jaxir.study.points`.

    Without a point there is one run, of `hybrid.shares`.
    """

    kinds: tuple[str, ...] = ("monolingual", "cross_lingual", "multilingual")  # the three corners
    step: float = 0.0  # of a grid over all their shares: it divides 1; 0: no grid
    named: tuple[str, ...] = ()  # of jaxir.study.points.NAMED, "uniform" for one
    shares: dict[str, Shares] = field(default_factory=dict)  # further points, by name
    seeds: int = 1  # of each point: config.seed and those after it


@dataclass
class RunConfig:
    """What every run has, whatever it trains; see `jaxir.tasks` for the kinds of runs."""

    task: str = ""  # what is trained, a name in `jaxir.tasks.CONFIGS`; each kind of config has one
    seed: int = 0
    steps: int = 100_000
    batch_size: int = 128  # pairs in the global batch, over all devices and processes
    hybrid: HybridConfig = field(default_factory=HybridConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)

    @property
    def trains_tokenizer(self) -> bool:
        """Whether its runs share a tokenizer of their own."""
        return False

    def validate(self) -> None:
        """Check every value that can be judged without data, weights or devices.

        Raises:
            UserError: names the field, its value and the bound it breaks.
        """
        check_fields(self, RUN_BOUNDS)
        own_task = type(self)().task
        require(self.task == own_task, "task", self.task, repr(own_task))
        _validate_shares("hybrid.shares", self.hybrid.shares)
        for name, shares in self.sweep.shares.items():
            _validate_shares(f"sweep.shares[{name}]", shares)


@dataclass
class Config(RunConfig):
    """A run that trains a retriever of texts."""

    task: str = "retrieval"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    evaluation: RetrievalEvaluationConfig = field(default_factory=RetrievalEvaluationConfig)

    @property
    def trains_tokenizer(self) -> bool:
        """Whether its runs share a tokenizer of their own."""
        return bool(self.model.trained_tokenizer_size)

    def validate(self) -> None:
        """As every run's, and what a retriever adds to it."""
        super().validate()
        check_fields(self, RETRIEVAL_BOUNDS)
        encoder, loss = self.model.encoder, self.loss
        require(
            encoder.hidden_size % encoder.heads == 0,
            "model.encoder.heads",
            encoder.heads,
            f"a divisor of hidden_size = {encoder.hidden_size}",
        )
        require_temperature(loss)
        for source in self.data.sources:
            require(source.skip >= 0, f"data.sources[{source.path}].skip", source.skip, "0 or more")


@dataclass(frozen=True)
class Bounds:
    """Names of the fields that have to lie within some bounds, dotted."""

    positive: tuple[str, ...] = ()
    not_negative: tuple[str, ...] = ()
    under_one: tuple[str, ...] = ()  # and not negative
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


RUN_BOUNDS = Bounds(
    positive=(
        *("steps", "batch_size", "hybrid.language_temperature", "optimizer.learning_rate"),
        *("optimizer.epsilon", "checkpoint.every", "checkpoint.keep", "watch.every"),
        *("sweep.seeds", "scale.replicas"),
    ),
    not_negative=(
        *("seed", "optimizer.warmup_steps", "optimizer.weight_decay", "optimizer.clip_norm"),
        *("optimizer.final_learning_rate", "evaluation.every", "scale.texts_at_once"),
        "model.trained_tokenizer_size",
    ),
    under_one=("optimizer.beta1", "optimizer.beta2"),
    choices={
        "model.trained_tokenizer_kind": TOKENIZER_KINDS,
        "scale.gradient_dtype": ("float32", "bfloat16"),
        "hybrid.language_weights": ("uniform", "size", "temperature"),
        "hybrid.pair_per": ("row", "batch"),
        "optimizer.schedule": ("cosine", "linear", "constant"),
        "evaluation.best": ("loss", "map"),
    },
)
RETRIEVAL_BOUNDS = Bounds(
    positive=(
        *("model.encoder.vocab_size", "model.encoder.hidden_size", "model.encoder.heads"),
        *("model.encoder.intermediate_size", "model.length_buckets"),
        *("loss.temperature", "loss.min_temperature"),
    ),
    not_negative=(
        *("model.dense", "model.projection", "model.encoder.layers", "model.row_tokens"),
        *("data.held_out_limit", "data.hard_negatives", "data.limit"),
        *("evaluation.queries", "evaluation.batch_tokens"),
    ),
    under_one=("model.encoder.dropout", "model.encoder.attention_dropout", "data.held_out"),
    choices={
        "model.encoder.architecture": ARCHITECTURES,
        "model.pooling": POOLINGS,
        "model.compute_dtype": COMPUTE_DTYPES,
        "model.remat": REMATS,
        "data.passage": PASSAGE_UNITS,
        "loss.directions": ("query_to_passage", "both"),
        "loss.false_negatives": ("mask", "positives", "keep"),
        "evaluation.benchmark": BENCHMARKS,
        "evaluation.passage": ("sentence", "sentence_with_paragraph"),
    },
)


def require(holds: bool, name: str, value: object, bound: str) -> None:
    """Raise a `UserError` that names the field, its value and the bound, unless that holds."""
    if not holds:
        raise UserError(f"config.{name} = {value!r}: must be {bound}")


def require_temperature(loss: TemperatureConfig) -> None:
    """Raise a `UserError` unless the temperature lies within its clamp."""
    low, high = loss.min_temperature, loss.max_temperature
    bound = f"from min_temperature = {low} to max_temperature = {high}"
    require(low <= loss.temperature <= high, "loss.temperature", loss.temperature, bound)


def check_fields(config: object, bounds: Bounds) -> None:
    """Check the fields of a config, or of a part of one, that have bounds of their own.

    Raises:
        UserError: names the field, its value and the bound it breaks.
    """
    infinite = float("inf")
    for names, holds, bound in (
        (bounds.positive, lambda value: 0 < value < infinite, "positive"),
        (bounds.not_negative, lambda value: 0 <= value < infinite, "0 or more"),
        (bounds.under_one, lambda value: 0 <= value < 1, "at least 0 and under 1"),
    ):
        for name in names:
            value = operator.attrgetter(name)(config)
            require(holds(value), name, value, bound)
    for name, allowed in bounds.choices.items():
        value = operator.attrgetter(name)(config)
        listed = ", ".join(repr(choice) for choice in allowed)
        require(value in allowed, name, value, f"one of {listed}")


def _validate_shares(name: str, shares: Shares) -> None:
    values = dataclasses.asdict(shares)
    for kind, share in values.items():
        require(0 <= share < float("inf"), f"{name}.{kind}", share, "0 or more")
    require(sum(values.values()) > 0, name, values, "shares with a positive sum")


def validate_shape(model: ModelConfig, dimensions: tuple[int, ...] = ()) -> None:
    """Check what depends on the encoder's true shape, which `model.init` may have decided.

    Args:
        model: with that shape.
        dimensions: of `loss.matryoshka`.

    Raises:
        UserError: names the field, its value and the bound it breaks.
    """
    for name in ("max_query_tokens", "max_passage_tokens"):
        value = getattr(model, name)
        require(
            3 <= value <= model.encoder.max_tokens,
            f"model.{name}",
            value,
            f"from 3 to the model's {model.encoder.max_tokens} positions",
        )
        require(
            not model.row_tokens or model.row_tokens >= value,
            "model.row_tokens",
            model.row_tokens,
            f"0 (no packing) or at least {name} = {value}",
        )
    require(
        not model.row_tokens or model.length_buckets == 1,
        "model.length_buckets",
        model.length_buckets,
        "1, since texts share rows (model.row_tokens)",
    )
    for dimension in dimensions:
        require(
            0 < dimension < model.embedding_size,
            "loss.matryoshka",
            dimension,
            f"positive and under the embedding's width, {model.embedding_size}",
        )

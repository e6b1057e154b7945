"""The config of a run that trains a retriever of texts: its data, model, loss and evaluation."""

from dataclasses import dataclass, field

from jaxir.config.checks import not_negative, one_of, require, under_one
from jaxir.config.run import EvaluationConfig, RunConfig, TemperatureConfig
from jaxir.config.text_models import ModelConfig, check_heads

BENCHMARKS = ("", "cldr", "xquad_r", "mlqa_r")
PASSAGE_UNITS = ("paragraph", "sentence", "sentence_with_paragraph")


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
    text: str = ""  # a text used as query and as passage of its translations


@dataclass
class Source:
    """A source of training rows. Relative paths are looked up under `DataConfig.directory`."""

    reader: str = "jsonl"  # a name in `jaxir.data.readers.READERS`
    path: str = ""  # file, folder or glob ("{language}" is filled in); for tfds: "xquad/ar"
    languages: tuple[str, ...] = ()  # (query,), (query, passage), or those of the parallel files
    name: str = ""  # what reports call it; "": the path
    # sources with the same word share ids: rows of equal id are translations; "": none do
    parallel: str = ""
    split: str = "train"  # tfds only
    fields: Fields = field(default_factory=Fields)  # of jsonl and parquet; id="" numbers the rows
    language_codes: dict[str, str] = field(default_factory=dict)  # the file's code: the real one
    skip: int = not_negative(0)  # rows at the start that are left out
    id_suffix: str = ""  # cut off the end of ids, e.g. "_{language}" (the file's own code)
    drop_empty: bool = False  # leave out rows without a text instead of stopping
    repair_answers: bool = False  # look for an answer that is not where its offset says


@dataclass
class DataConfig:
    """The training rows: where they come from, and how they are cut, held out and cached."""

    directory: str = "."
    sources: tuple[Source, ...] = ()
    passage: str = one_of("paragraph", *PASSAGE_UNITS)
    cache: str = ""  # folder of the token cache; "": `tokens` in the workdir
    held_out: float = under_one(0.02)  # share of the passages kept from training, for validation
    held_out_limit: int = not_negative(2_000)  # at most that many parallel groups are held out
    drop_overlap_with: str = ""  # XQuAD-R folder: drop passages that share a 10-gram with it
    hard_negatives: int = not_negative(0)  # per row
    limit: int = not_negative(0)  # read at most that many parallel groups a source; 0: all


@dataclass
class LossConfig(TemperatureConfig):
    """InfoNCE over the global batch."""

    directions: str = one_of("both", "query_to_passage", "both")
    false_negatives: str = one_of("mask", "mask", "positives", "keep")
    matryoshka: tuple[int, ...] = ()  # also train these leading dimensions


@dataclass
class RetrievalEvaluationConfig(EvaluationConfig):
    """The evaluation of a retriever, on its held-out set and on a benchmark."""

    queries: int = not_negative(0)  # of the held-out set, until the end; 0: all of them
    # encoded at a time, padding included; 0: what suits the devices
    batch_tokens: int = not_negative(0)
    benchmark: str = one_of("", *BENCHMARKS)  # evaluated whole at the end; "": none
    benchmark_directory: str = ""  # folder of its files; "": xquad_r is downloaded
    # unit of its candidates
    passage: str = one_of("sentence", "sentence", "sentence_with_paragraph")
    baselines: bool = False  # at the end also BM25 and the untrained model


@dataclass
class Config(RunConfig):
    """A run that trains a retriever of texts."""

    task: str = "retrieval"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    evaluation: RetrievalEvaluationConfig = field(default_factory=RetrievalEvaluationConfig)

    def validate(self) -> None:
        """Check every run's fields, and how a retriever's fit each other.

        Raises:
            UserError: names the field, its value and the bound it breaks.
        """
        super().validate()
        encoder = self.model.encoder
        check_heads(encoder.heads, encoder.hidden_size, "model.encoder.heads")
        self.loss.check_clamp()


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
            not model.packed_length or model.packed_length >= value,
            "model.packed_length",
            model.packed_length,
            f"0 (no packing) or at least {name} = {value}",
        )
    for dimension in dimensions:
        require(
            0 < dimension < model.embedding_size,
            "loss.matryoshka",
            dimension,
            f"positive and under the embedding's width, {model.embedding_size}",
        )

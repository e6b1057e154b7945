"""Config fields of every task: schedule, optimizer, devices, logging, sweep.

The dataclasses are not frozen because command-line overrides
(`--config.optimizer.learning_rate=1e-4`) assign to fields.
"""

import dataclasses
from dataclasses import dataclass, field

from jaxir.config.checks import check_bounds, not_negative, one_of, positive, require, under_one


@dataclass
class Shares:
    """Relative frequency of each kind of batch; any non-negative numbers with a positive sum."""

    monolingual: float = not_negative(0.5)  # one language for the whole batch
    # query and passage in one language, rows in different ones
    mixed_monolingual: float = not_negative(0.0)
    cross_lingual: float = not_negative(0.5)  # query and passage of a row in different languages
    multilingual: float = not_negative(0.0)  # the two languages of each row drawn independently
    english: float = not_negative(0.0)


@dataclass
class HybridConfig:
    """The batch schedule (arXiv 2408.10536, section 3): which rows make the batch of a step."""

    shares: Shares = field(default_factory=Shares)
    language_weights: str = one_of("uniform", "uniform", "size", "temperature")
    language_temperature: float = positive(2.0)  # weights are size ** (1 / temperature)
    # cross-lingual batches draw a language pair per row or per batch
    pair_per: str = one_of("row", "row", "batch")
    one_source_batches: bool = False  # every batch from one source only


@dataclass
class TemperatureConfig:
    """Temperature that similarities are divided by, fixed or learned within a clamp."""

    temperature: float = positive(0.05)
    learned_temperature: bool = False
    min_temperature: float = positive(0.01)
    max_temperature: float = positive(1.0)

    def check_clamp(self) -> None:
        """Raise a `UserError` unless the temperature lies within its clamp."""
        low, high = self.min_temperature, self.max_temperature
        bound = f"from min_temperature = {low} to max_temperature = {high}"
        require(low <= self.temperature <= high, "loss.temperature", self.temperature, bound)


@dataclass
class OptimizerConfig:
    """AdamW with warm-up."""

    learning_rate: float = positive(3e-5)
    schedule: str = one_of("cosine", "cosine", "linear", "constant")  # after warm-up
    warmup_steps: int = not_negative(1_000)
    final_learning_rate: float = not_negative(0.0)
    weight_decay: float = not_negative(1e-2)  # not on biases, LayerNorms and the temperature
    beta1: float = under_one(0.9)
    beta2: float = under_one(0.999)
    epsilon: float = positive(1e-8)
    clip_norm: float = not_negative(1.0)  # of the gradient's global norm; 0: no clipping


@dataclass
class ScaleConfig:
    """Sharding of a step over the devices, and ways to save their memory."""

    # gradient caching: texts (packed: rows) that a device embeds at a time; 0: all that it has
    grad_cache_chunk: int = not_negative(0)
    fsdp: bool = False  # parameters and optimizer state split over the devices
    replicas: int = positive(1)  # with fsdp: whole copies, each split over neighbouring devices
    # in which gradients are summed over devices
    gradient_dtype: str = one_of("float32", "float32", "bfloat16")


@dataclass
class CheckpointConfig:
    """Steps at which checkpoints are written, and the number that is kept."""

    every: int = positive(1_000)  # steps; the last step is always saved
    keep: int = positive(2)  # newest ones kept, besides the best


@dataclass
class EvaluationConfig:
    """Evaluation on the held-out set during training, and the choice of the best checkpoint."""

    every: int = not_negative(1_000)  # steps between evaluations; 0: at the end only
    # the best checkpoint has the lowest "loss" or the highest "map" on the held-out set
    best: str = one_of("loss", "loss", "map")


@dataclass
class LoggingConfig:
    """Logging and export of a run. These fields may change when a run is resumed."""

    every: int = positive(50)  # steps between lines in metrics.jsonl
    tensorboard: bool = True
    wandb_project: str = ""  # "": no Weights & Biases
    export: bool = True  # write the best checkpoint as a sentence-transformers folder at the end


@dataclass
class SweepConfig:
    """Runs that differ in the shares of `kinds` and in the seed alone; see `jaxir.sweep.mixtures`.

    Without mixtures there is one run, of `hybrid.shares`.
    """

    kinds: tuple[str, ...] = ("monolingual", "cross_lingual", "multilingual")  # the three corners
    step: float = 0.0  # of a grid over all their shares: it divides 1; 0: no grid
    named: tuple[str, ...] = ()  # of jaxir.sweep.mixtures.NAMED, "uniform" for one
    shares: dict[str, Shares] = field(default_factory=dict)  # further mixtures, by name
    seeds: int = positive(1)  # of each mixture: config.seed and those after it


@dataclass
class RunConfig:
    """Fields of every run; `jaxir.config.CONFIGS` has the config of each task."""

    task: str = ""  # what is trained, a name in `jaxir.config.CONFIGS`; each config class has one
    seed: int = not_negative(0)
    steps: int = positive(100_000)
    batch_size: int = positive(128)  # pairs in the global batch, over all devices and processes
    hybrid: HybridConfig = field(default_factory=HybridConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)

    def validate(self) -> None:
        """Check every value that can be judged without data, weights or devices.

        Raises:
            UserError: names the field, its value and the bound it breaks.
        """
        check_bounds(self)
        expected = type(self)().task
        require(self.task == expected, "task", self.task, repr(expected))
        check_shares("hybrid.shares", self.hybrid.shares)
        for name, shares in self.sweep.shares.items():
            check_shares(f"sweep.shares[{name}]", shares)


def check_shares(name: str, shares: Shares) -> None:
    """Raise a `UserError` unless the shares have a positive sum."""
    values = dataclasses.asdict(shares)
    require(sum(values.values()) > 0, name, values, "shares with a positive sum")

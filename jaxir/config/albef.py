"""The config of a run that trains ALBEF: its model, captions, losses and evaluation."""

from dataclasses import dataclass, field

from jaxir.config.checks import not_negative, positive, require, within
from jaxir.config.image_data import CaptionsConfig, ImageSource, validate_captions
from jaxir.config.image_models import AlbefModelConfig
from jaxir.config.run import EvaluationConfig, RunConfig, TemperatureConfig


@dataclass
class AlbefLossConfig(TemperatureConfig):
    """ALBEF's losses (arXiv 2107.07651, section 3); each can be switched off."""

    temperature: float = positive(0.07)
    learned_temperature: bool = True
    min_temperature: float = positive(0.001)
    max_temperature: float = positive(0.5)
    itc: bool = True  # image-text contrast
    itm: bool = True  # image-text matching against hard negatives
    mlm: bool = True  # masked language modelling
    # soft targets and queues of a momentum model; off: one-hot targets, candidates of the batch
    momentum: bool = True
    momentum_coefficient: float = within(0.995, 0, 1)
    # features; a multiple of the devices, and no fewer than the batch; without momentum unused
    queue: int = positive(65_536)
    alpha: float = within(0.4, 0, 1)  # share of the momentum model's soft targets
    ramp_steps: int = not_negative(10_000)  # in which that grows from 0 (the paper's first epoch)
    mask_share: float = 0.15  # of a caption's tokens
    text_text: float = not_negative(1.0)  # weight of the contrast between two captions of an image

    def check(self) -> None:
        """Check how the values fit each other.

        Raises:
            UserError: names the field, its value and the bound it breaks.
        """
        any_loss = self.itc or self.itm or self.mlm
        require(any_loss, "loss.itc", self.itc, "on, since itm and mlm are off as well")
        self.check_clamp()
        share = self.mask_share
        require(0 < share < 1, "loss.mask_share", share, "over 0 and under 1")


@dataclass
class AlbefEvaluationConfig(EvaluationConfig):
    """The evaluation of ALBEF, on the held-out captions and on further sources."""

    sources: tuple[ImageSource, ...] = ()  # of images that are never trained on: a dataset each
    images: int = not_negative(0)  # of the first dataset, until the end; 0: all
    candidates: int = not_negative(16)  # top-ranked ones that ITM re-scores at the end; 0: none
    baselines: bool = False  # at the end also the nearest training image by pixels
    judge: str = ""  # model that scores the top-ranked captions by CLIPScore; "": none


@dataclass
class AlbefConfig(RunConfig):
    """A run that aligns images and captions."""

    task: str = "albef"
    model: AlbefModelConfig = field(default_factory=AlbefModelConfig)
    captions: CaptionsConfig = field(default_factory=lambda: CaptionsConfig(image_size=256))
    loss: AlbefLossConfig = field(default_factory=AlbefLossConfig)
    evaluation: AlbefEvaluationConfig = field(default_factory=AlbefEvaluationConfig)

    def validate(self) -> None:
        """Check every run's fields, and how those of ALBEF fit each other.

        Raises:
            UserError: names the field, its value and the bound it breaks.
        """
        super().validate()
        self.model.check()
        self.loss.check()
        validate_captions(self.captions, "captions")
        size, seen = self.captions.image_size, self.model.vit.image_size
        require(size == seen, "captions.image_size", size, f"model.vit.image_size = {seen}")
        queue, batch = self.loss.queue, self.batch_size
        if self.loss.momentum:
            require(queue >= batch, "loss.queue", queue, f"at least batch_size = {batch}")
        scale = self.scale
        rounded = self.loss.momentum and scale.gradient_dtype != "float32"
        bound = "'float32': the momentum model follows what gradients are taken of"
        require(not rounded, "scale.gradient_dtype", scale.gradient_dtype, bound)
        chunk = scale.grad_cache_chunk
        require(not chunk, "scale.grad_cache_chunk", chunk, "0: ITM needs whole batches")
        sources = [source.name for source in self.evaluation.sources]
        for name in sources:
            fine = bool(name) and sources.count(name) == 1
            require(fine, "evaluation.sources", name, "sources with names, each another")

"""Shapes of the models that see images: ViT, CLIP and ALBEF."""

import dataclasses
from dataclasses import dataclass, field

from jaxir.config.checks import not_negative, one_of, positive, require, under_one
from jaxir.config.text_models import (
    COMPUTE_DTYPES,
    REMATS,
    TOKENIZER_KINDS,
    EncoderConfig,
    check_heads,
)


@dataclass
class VitConfig:
    """Shape of a vision transformer; the defaults are ViT-B/16 as DeiT and ALBEF have it."""

    image_size: int = 224  # side in pixels
    patch_size: int = 16
    hidden_size: int = positive(768)
    layers: int = positive(12)
    heads: int = 12
    intermediate_size: int = positive(3072)
    dropout: float = under_one(0.0)
    attention_dropout: float = under_one(0.0)
    layer_norm_epsilon: float = 1e-6
    activation: str = one_of("gelu", "gelu", "quick_gelu")
    patch_bias: bool = True
    norm_before: bool = False  # CLIP: a LayerNorm before the first layer too
    initializer_range: float = 0.02  # standard deviation of random kernels and embeddings

    @property
    def norm_first(self) -> bool:
        """LayerNorm stands before each block and once at the end."""
        return True

    @property
    def side(self) -> int:
        """Patches along a side of the image."""
        return self.image_size // self.patch_size

    @property
    def positions(self) -> int:
        """P: patches, and the class token before them."""
        return 1 + self.side**2


@dataclass
class ClipTextConfig:
    """Shape of CLIP's causal text transformer; the defaults are those beside ViT-B."""

    vocab_size: int = 49_408
    hidden_size: int = 512
    layers: int = 12
    heads: int = 8
    intermediate_size: int = 2048
    positions: int = 77
    end_id: int = 49_407  # the text's vector is the state at the first token of this id
    # where the config has the old eos_token_id = 2: read out at the first of the highest id
    highest_id_ends: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    layer_norm_epsilon: float = 1e-5
    activation: str = "quick_gelu"
    initializer_range: float = 0.02

    @property
    def norm_first(self) -> bool:
        """LayerNorm stands before each block and once at the end."""
        return True


def _clip_vit(**changes) -> VitConfig:
    base = VitConfig(
        layer_norm_epsilon=1e-5, activation="quick_gelu", patch_bias=False, norm_before=True
    )
    return dataclasses.replace(base, **changes)


@dataclass
class ClipConfig:
    """Shape of CLIP (arXiv 2103.00020); the defaults are ViT-B/16."""

    vision: VitConfig = field(default_factory=_clip_vit)
    # None: texts are embedded by a dual encoder, to the projection's width
    text: ClipTextConfig | None = field(default_factory=ClipTextConfig)
    projection: int = 512
    compute_dtype: str = "float32"


CLIP_SHAPES = {
    "ViT-B/32": ClipConfig(_clip_vit(patch_size=32)),
    "ViT-B/16": ClipConfig(),
    "ViT-L/14": ClipConfig(
        _clip_vit(patch_size=14, hidden_size=1024, layers=24, heads=16, intermediate_size=4096),
        ClipTextConfig(hidden_size=768, heads=12, intermediate_size=3072),
        projection=768,
    ),
}


@dataclass
class AlbefModelConfig:
    """Shape of ALBEF (arXiv 2107.07651); the defaults are its own with XLM-R as the text side."""

    vit: VitConfig = field(default_factory=lambda: VitConfig(image_size=256))
    text: EncoderConfig = field(default_factory=EncoderConfig)
    text_layers: int = 6  # of text.layers; the rest fuse the text with the image
    projection: int = positive(256)  # width of the features that are compared
    # of matrix products; parameters, softmax and LayerNorm stay in float32
    compute_dtype: str = one_of("bfloat16", *COMPUTE_DTYPES)
    # rematerialization: activations that the backward pass computes again to save memory
    remat: str = one_of("none", *REMATS)
    init_vision: str = ""  # transformers folder of a ViT to start from; "": random weights
    init_text: str = ""  # the same of XLM-R or BERT; both decide the shape
    tokenizer: str = ""  # folder, vocab.txt or hub name; "": the one of `init_text`
    # train a tokenizer of that many pieces on the captions; 0: do not
    trained_tokenizer_size: int = not_negative(0)
    # "bpe": whole words of a small vocabulary
    trained_tokenizer_kind: str = one_of("unigram", *TOKENIZER_KINDS)
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    mask_id: int = 250_001  # the token that stands for a masked one
    special_ids: tuple[int, ...] = (0, 1, 2, 3)  # tokens that are never masked

    @property
    def dropping(self) -> bool:
        """True if training drops anything."""
        shapes = (self.text, self.vit)
        return any(shape.dropout or shape.attention_dropout for shape in shapes)

    def check(self) -> None:
        """Check how the values fit each other.

        Raises:
            UserError: names the field, its value and the bound it breaks.
        """
        text, vit = self.text, self.vit
        inner = f"from 1 to text.layers - 1 = {text.layers - 1}"
        require(0 < self.text_layers < text.layers, "model.text_layers", self.text_layers, inner)
        kinds = ("xlm-roberta", "bert")
        known = text.architecture in kinds
        bound = f"one of {', '.join(map(repr, kinds))}"
        require(known, "model.text.architecture", text.architecture, bound)
        check_heads(text.heads, text.hidden_size, "model.text.heads")
        check_heads(vit.heads, vit.hidden_size, "model.vit.heads")
        patches = vit.patch_size > 0 and vit.image_size % vit.patch_size == 0
        bound = f"a divisor of image_size = {vit.image_size}"
        require(patches, "model.vit.patch_size", vit.patch_size, bound)
        for name, three in (("image_mean", self.image_mean), ("image_std", self.image_std)):
            require(len(three) == 3, f"model.{name}", three, "three numbers")
        require(min(self.image_std) > 0, "model.image_std", self.image_std, "positive")
        bound = f"from 0 to vocab_size - 1 = {text.vocab_size - 1}"
        for name, token in (
            ("mask_id", self.mask_id),
            *(("special_ids", token) for token in self.special_ids),
        ):
            require(0 <= token < text.vocab_size, f"model.{name}", token, bound)

    @property
    def fusion(self) -> "FusionConfig":
        """Shape of the fusion layers."""
        shape = {name: getattr(self.text, name) for name in vars(self.text)}
        shape["layers"] = self.text.layers - self.text_layers
        return FusionConfig(**shape, source_size=self.vit.hidden_size)


@dataclass
class FusionConfig(EncoderConfig):
    """Shape of layers that also attend to something of another width."""

    source_size: int = 768

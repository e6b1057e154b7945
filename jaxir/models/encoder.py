"""The transformer encoder of XLM-R, XLM-R XL and BERT/LaBSE.

Dimension key: B rows, L tokens of a row, M tokens attended to, D hidden size, E output width, N
layers, V rows of an embedding table.

XLM-R is arXiv 1911.02116, XLM-R XL arXiv 2105.00572, BERT arXiv 1810.04805, LaBSE arXiv 2007.01852.
What tells them apart: XLM-R counts positions from `pad_id + 1` and skips padding; XL normalises
before each block and once at the end, but not its embeddings; BERT counts positions from 0.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from jaxir.config import EncoderConfig
from jaxir.models.attention import SAVED_NAMES, TokenLayout, attention
from jaxir.models.dropout import Seeds, dropout, fold_in_if_any
from jaxir.models.parameters import gather_params

# by `config.remat`: what each layer saves for the backward pass besides its input; the rest is
# computed again
_SAVE_POLICIES = {
    "layers": jax.checkpoint_policies.nothing_saveable,
    "products": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(*SAVED_NAMES),
    ),
}


class LayerConfig(Protocol):
    """The fields that a layer reads of a config: `EncoderConfig`, or another transformer's."""

    @property
    def hidden_size(self) -> int: ...  # noqa: D102
    @property
    def layers(self) -> int: ...  # noqa: D102
    @property
    def heads(self) -> int: ...  # noqa: D102
    @property
    def intermediate_size(self) -> int: ...  # noqa: D102
    @property
    def layer_norm_epsilon(self) -> float: ...  # noqa: D102
    @property
    def dropout(self) -> float: ...  # noqa: D102
    @property
    def attention_dropout(self) -> float: ...  # noqa: D102
    @property
    def activation(self) -> str: ...  # noqa: D102
    @property
    def norm_first(self) -> bool: ...  # noqa: D102
    @property
    def initializer_range(self) -> float: ...  # noqa: D102


def row_sharding(x: Array) -> NamedSharding | None:
    """The sharding of x's rows alone, for results whose own JAX cannot infer; None: no mesh."""
    sharding = jax.typeof(x).sharding
    if not sharding.mesh.explicit_axes:
        return None
    return NamedSharding(sharding.mesh, P(sharding.spec[0]))


def lookup(table: Float[Array, "V D"], ids: Int[Array, "B L"]) -> Float[Array, "B L D"]:
    """Rows of the table; an id beyond it gives NaN, which then shows in the loss."""
    return table.at[ids].get(mode="fill", fill_value=jnp.nan, out_sharding=row_sharding(ids))


@partial(jax.checkpoint, prevent_cse=False)  # the backward pass saves only the input
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The exact GELU (arXiv 1606.08415), from erf, which costs half of the erfc in JAX's own."""
    cdf = 0.5 + 0.5 * jax.lax.erf(x.astype(jnp.float32) * 0.5**0.5)
    return x * cdf.astype(x.dtype)


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """OpenAI's approximation of the GELU, in its CLIP models."""
    return x * jax.nn.sigmoid(1.702 * x.astype(jnp.float32)).astype(x.dtype)


ACTIVATIONS = {"gelu": gelu, "quick_gelu": quick_gelu}


def kernel_init(config: LayerConfig) -> Callable:
    """Initializer of a model's kernels and embeddings (BERT's code: standard deviation 0.02)."""
    return nnx.initializers.normal(config.initializer_range)


def _platform(x: Array) -> str:
    """The platform that computes x, also while a step is compiled for an absent machine."""
    device = jax.typeof(x).sharding.mesh.abstract_device
    return device.platform if device else jax.default_backend()


def token_dot_general(
    x: Float[Array, "B L D"], kernel: Float[Array, "D E"], dimensions: Any, **options: Any
) -> Float[Array, "B L E"]:
    """The matrix product of a dense layer, for `nnx.Linear`; on CPUs of one [B * L, D] matrix.

    The kernel's gradient then has the memory layout of the kernel; otherwise it and its operands
    are copied into another layout, which takes as long as the product. The TPU's compiler chooses
    layouts itself, and by its own estimate a step takes a twelfth longer with one matrix.
    """
    if _platform(x) != "cpu":
        return jax.lax.dot_general(x, kernel, dimensions, **options)
    tokens = x.reshape(-1, x.shape[-1])
    product = jax.lax.dot_general(tokens, kernel, (((1,), (0,)), ((), ())), **options)
    return jnp.reshape(product, (*x.shape[:-1], -1), out_sharding=row_sharding(x))


class Norm(nnx.LayerNorm):
    """LayerNorm in float32 whose output has the dtype of its input."""

    def __init__(self, config: LayerConfig, *, rngs: nnx.Rngs):
        super().__init__(
            config.hidden_size,
            epsilon=config.layer_norm_epsilon,
            dtype=jnp.float32,
            use_fast_variance=False,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "B L D"], *, mask=None) -> Float[Array, "B L D"]:
        """Normalise each vector."""
        return super().__call__(x, mask=mask).astype(x.dtype)


class Layer(nnx.Module):
    """Self-attention and feed-forward block, each with dropout, residual and LayerNorm."""

    def __init__(self, config: LayerConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.config = config
        linear = partial(
            nnx.Linear,
            dtype=dtype,
            kernel_init=kernel_init(config),
            dot_general=token_dot_general,
            rngs=rngs,
        )
        width, inner = config.hidden_size, config.intermediate_size
        self.query = linear(width, width)
        self.key = linear(width, width)
        self.value = linear(width, width)
        self.attention_output = linear(width, width)
        self.attention_norm = Norm(config, rngs=rngs)
        self.intermediate = linear(width, inner)
        self.output = linear(inner, width)
        self.feed_forward_norm = Norm(config, rngs=rngs)

    def attend(
        self,
        linears: tuple[nnx.Linear, nnx.Linear, nnx.Linear, nnx.Linear],
        x: Float[Array, "B L D"],
        source: Float[Array, "B M _"],
        layout: TokenLayout,
    ) -> Float[Array, "B L D"]:
        """Multi-head attention from x to `source`.

        Args:
            linears: of query, key, value and output.
            x: states of the tokens that attend.
            source: states of the tokens attended to; x itself in self-attention.
            layout: of the tokens.
        """
        *projections, output = linears
        query, key, value = (
            linear(states).reshape(*states.shape[:2], self.config.heads, -1)
            for linear, states in zip(projections, (x, source, source))
        )
        heads = attention(query, key, value, layout, self.config.attention_dropout)
        return output(heads.reshape(x.shape))

    def residual(
        self,
        block: Callable[[Array], Array],
        norm: Norm,
        x: Float[Array, "B L D"],
        seeds: Seeds | None,
    ) -> Float[Array, "B L D"]:
        """Residual connection around a block, with LayerNorm before the block or after the sum."""
        if self.config.norm_first:
            return x + dropout(block(norm(x)), self.config.dropout, seeds)
        return norm(x + dropout(block(x), self.config.dropout, seeds))

    def self_attention(
        self, x: Float[Array, "B L D"], layout: TokenLayout
    ) -> Float[Array, "B L D"]:
        """The self-attention block."""
        # dropout's numbers within a layer: 0 attention, 1 its output, 2 feed-forward;
        # `FusionLayer` goes on with 3 and 4
        attention_seeds, output_seeds = (fold_in_if_any(layout.seeds, i) for i in range(2))
        linears = (self.query, self.key, self.value, self.attention_output)

        def attend(x: Array) -> Array:
            return self.attend(linears, x, x, layout._replace(seeds=attention_seeds))

        return self.residual(attend, self.attention_norm, x, output_seeds)

    def feed_forward(self, x: Float[Array, "B L D"], layout: TokenLayout) -> Float[Array, "B L D"]:
        """The feed-forward block: two dense layers with the activation between them."""

        def dense(x: Array) -> Array:
            return self.output(ACTIVATIONS[self.config.activation](self.intermediate(x)))

        return self.residual(dense, self.feed_forward_norm, x, fold_in_if_any(layout.seeds, 2))

    def __call__(self, x: Float[Array, "B L D"], layout: TokenLayout) -> Float[Array, "B L D"]:
        """Self-attention, then feed-forward."""
        return self.feed_forward(self.self_attention(x, layout), layout)


def stacked_layers(
    config: LayerConfig, dtype: jnp.dtype, rngs: nnx.Rngs, kind: type[Layer] = Layer
) -> Layer:
    """At least one layer; the parameters of all are stacked along a leading axis N."""
    # vmap over the layers' keys gives one module whose leaves have the axis N in front
    keys = jax.random.split(rngs.params(), config.layers)
    return nnx.vmap(lambda key: kind(config, dtype, nnx.Rngs(key)))(keys)


def run_layers(
    stacked: Layer,
    x: Float[Array, "B L D"],
    layout: TokenLayout,
    dtype: jnp.dtype,
    remat: str = "none",
    all_states: bool = False,
    extra: tuple[Array, ...] = (),
) -> tuple[Float[Array, "B L D"], Float[Array, "N B L D"] | None]:
    """States after the last layer, and after each layer if `all_states`.

    Args:
        stacked: from `stacked_layers`.
        x: input of the first layer.
        layout: of the tokens.
        dtype: of the layers' matrix products.
        remat: one of `jaxir.config.REMATS`.
        all_states: return the states after each layer.
        extra: further arguments of each layer's call.
    """
    config = stacked.config
    graph, layers = nnx.split(stacked)
    shapes = nnx.state(nnx.eval_shape(lambda: type(stacked)(config, dtype, nnx.Rngs(0))))

    # a scan over the axis N: XLA compiles one layer, and one layer at a time is gathered
    def step(x, layer_and_number):
        layer, number = layer_and_number
        layer = gather_params(layer, shapes)
        seeds = fold_in_if_any(layout.seeds, number)
        x = nnx.merge(graph, layer)(x, layout._replace(seeds=seeds), *extra)
        return x, x if all_states else None

    if remat != "none":
        # the gather is inside: the backward pass gathers the layer again and saves no whole copy
        step = jax.checkpoint(step, policy=_SAVE_POLICIES[remat], prevent_cse=False)
    return jax.lax.scan(step, x, (layers, jnp.arange(config.layers)))


class Encoder(nnx.Module):
    """Embeddings, then a stack of layers whose parameters have a leading axis N."""

    def __init__(
        self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs, remat: str = "none"
    ):
        self.config, self.dtype, self.remat = config, dtype, remat
        embedding = partial(
            nnx.Embed, features=config.hidden_size, embedding_init=kernel_init(config), rngs=rngs
        )
        self.token_embedding = embedding(config.vocab_size)
        self.position_embedding = embedding(config.positions)
        self.token_type_embedding = embedding(config.token_types)
        if config.layers:
            self.layers = stacked_layers(config, dtype, rngs)
        if config.norm_first:
            self.final_norm = Norm(config, rngs=rngs)
        else:
            self.embedding_norm = Norm(config, rngs=rngs)

    def embed(self, ids: Int[Array, "B L"], layout: TokenLayout) -> Float[Array, "B L D"]:
        """Sum of the embeddings of token, position and token type 0, with LayerNorm but in XL."""
        rows = layout.positions  # of the position table
        if self.config.architecture != "bert":
            # fairseq's convention: padding has row pad_id, a text's first token row pad_id + 1
            rows = jnp.where(layout.mask, rows + 1, 0) + self.config.pad_id
        x = lookup(self.token_embedding.embedding[...], ids)
        x = x + lookup(self.position_embedding.embedding[...], rows)
        x = x + self.token_type_embedding.embedding[...][None, :1]
        if not self.config.norm_first:
            x = self.embedding_norm(x)
        return dropout(x, self.config.dropout, layout.seeds).astype(self.dtype)

    def __call__(
        self, ids: Int[Array, "B L"], layout: TokenLayout, all_states: bool = False
    ) -> Float[Array, "B L D"] | Float[Array, "states B L D"]:
        """Last hidden states, or with `all_states` those of the embeddings and of every layer.

        XL's last one is that after the final LayerNorm, as in PyTorch transformers.
        """
        # layers fold_in in 0 to N - 1, the embeddings N
        seeds = fold_in_if_any(layout.seeds, self.config.layers)
        embedded = last = self.embed(ids, layout._replace(seeds=seeds))
        states = None
        if self.config.layers:
            last, states = run_layers(
                self.layers, embedded, layout, self.dtype, self.remat, all_states
            )
        if self.config.norm_first:
            last = self.final_norm(last)
        if not all_states:
            return last
        earlier = [] if states is None else [embedded[None], states[:-1]]
        return jnp.concatenate([*earlier, last[None]])

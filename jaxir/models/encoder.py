"""One transformer encoder for XLM-R, XLM-R XL and BERT/LaBSE.

Dimension key: B rows, L tokens of a row, M places attended to, D hidden size, N layers, V rows of
an embedding table.

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
from jaxir.models.attention import KEPT, Places, attention
from jaxir.models.dropout import Seeds, dropout, fold_each

# what each layer keeps for the backward pass besides its input; the rest is computed again
_KEPT = {
    "layers": jax.checkpoint_policies.nothing_saveable,
    "products": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(*KEPT),
    ),
}


class LayerShape(Protocol):
    """What a layer asks of a config: `EncoderConfig`, or one of another transformer."""

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


def gathered(params, shapes):
    """The same parameters, whole on every device of their mesh.

    Replicated parameters are left alone; sharded ones (FSDP) are gathered where they are used, and
    their gradient is scattered back. Inside `jax.shard_map` a leaf that is smaller than it should
    be is a device's part, split over the mesh axis `data`.

    Args:
        params: a tree of arrays.
        shapes: the same tree of anything with the whole's `shape`.
    """

    def whole(leaf, expected):
        mesh = jax.typeof(leaf).sharding.mesh
        if mesh.explicit_axes:
            return jax.reshard(leaf, NamedSharding(mesh, P()))
        for axis, size in enumerate(expected.shape):
            if leaf.shape[axis] < size:
                return jax.lax.all_gather(leaf, "data", axis=axis, tiled=True)
        return leaf

    return jax.tree.map(whole, params, shapes)


def with_params(make: Callable[[], nnx.Module], params: dict[str, Any]) -> Any:
    """The module that `make` makes, with these parameters.

    They are gathered, but for those stacked under "layers", which `run_layers` gathers layer by
    layer.
    """
    graph, state = nnx.split(nnx.eval_shape(make))

    def ready(path: tuple, leaf: Array, shape: jax.ShapeDtypeStruct) -> Array:
        stacked = any(getattr(key, "key", None) == "layers" for key in path)
        return jnp.asarray(leaf) if stacked else gathered(jnp.asarray(leaf), shape)

    return nnx.merge(graph, jax.tree.map_with_path(ready, params, nnx.to_pure_dict(state)))


def sharding_of_rows(x: Array) -> NamedSharding | None:
    """Rows split as those of x and nothing else, where JAX cannot infer it; None without a mesh."""
    sharding = jax.typeof(x).sharding
    if not sharding.mesh.explicit_axes:
        return None
    return NamedSharding(sharding.mesh, P(sharding.spec[0]))


def lookup(table: Float[Array, "V D"], ids: Int[Array, "B L"]) -> Float[Array, "B L D"]:
    """Rows of the table; an id beyond it gives NaN, so that the loss shows it."""
    return table.at[ids].get(mode="fill", fill_value=jnp.nan, out_sharding=sharding_of_rows(ids))


@partial(jax.checkpoint, prevent_cse=False)  # of all this the backward pass keeps the input only
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The exact GELU (arXiv 1606.08415), from erf, which costs half of the erfc in JAX's own."""
    share = 0.5 + 0.5 * jax.lax.erf(x.astype(jnp.float32) * 0.5**0.5)
    return x * share.astype(x.dtype)


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """OpenAI's approximation of the GELU, which its CLIP models were trained with."""
    return x * jax.nn.sigmoid(1.702 * x.astype(jnp.float32)).astype(x.dtype)


ACTIVATIONS = {"gelu": gelu, "quick_gelu": quick_gelu}


def kernel_init(config: LayerShape) -> Callable:
    """Initializer of a shape's random kernels and embeddings (BERT's code: deviation 0.02)."""
    return nnx.initializers.normal(config.initializer_range)


def _platform(x: Array) -> str:
    """What computes x, also where a step is compiled for a machine that is not there."""
    device = jax.typeof(x).sharding.mesh.abstract_device
    return device.platform if device else jax.default_backend()


def over_tokens(
    x: Float[Array, "B L D"], kernel: Float[Array, "D E"], dimensions: Any, **how: Any
) -> Float[Array, "B L E"]:
    """The matrix product of a dense layer, for `nnx.Linear`; on CPUs all tokens are one matrix.

    A kernel's gradient then comes out as the kernel lies in memory; else it and what it is made of
    are copied into another order, which takes as long as the product. The TPU's compiler chooses
    orders itself, and expects a step to take a twelfth longer with one matrix.
    """
    if _platform(x) != "cpu":
        return jax.lax.dot_general(x, kernel, dimensions, **how)
    flat = x.reshape(-1, x.shape[-1])
    product = jax.lax.dot_general(flat, kernel, (((1,), (0,)), ((), ())), **how)
    return jnp.reshape(product, (*x.shape[:-1], -1), out_sharding=sharding_of_rows(x))


class Norm(nnx.LayerNorm):
    """LayerNorm in float32 whose output has the dtype of its input."""

    def __init__(self, config: LayerShape, *, rngs: nnx.Rngs):
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

    def __init__(self, config: LayerShape, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.config = config
        linear = partial(
            nnx.Linear,
            dtype=dtype,
            kernel_init=kernel_init(config),
            dot_general=over_tokens,
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
        places: Places,
    ) -> Float[Array, "B L D"]:
        """Multi-head attention to a source, by the linears of query, key, value and output."""
        *inner, output = linears
        query, key, value = (
            linear(y).reshape(*y.shape[:2], self.config.heads, -1)
            for linear, y in zip(inner, (x, source, source))
        )
        attended = attention(query, key, value, places, self.config.attention_dropout)
        return output(attended.reshape(x.shape))

    def residual(
        self,
        block: Callable[[Array], Array],
        norm: Norm,
        x: Float[Array, "B L D"],
        seeds: Seeds | None,
    ) -> Float[Array, "B L D"]:
        """A block's output is added to its input, with LayerNorm before the block or after."""
        if self.config.norm_first:
            return x + dropout(block(norm(x)), self.config.dropout, seeds)
        return norm(x + dropout(block(x), self.config.dropout, seeds))

    def self_attention(self, x: Float[Array, "B L D"], places: Places) -> Float[Array, "B L D"]:
        """The block in which each row attends to itself."""
        first, second = (fold_each(places.seeds, number) for number in range(2))
        linears = (self.query, self.key, self.value, self.attention_output)

        def attend(x: Array) -> Array:
            return self.attend(linears, x, x, places._replace(seeds=first))

        return self.residual(attend, self.attention_norm, x, second)

    def feed_forward(self, x: Float[Array, "B L D"], places: Places) -> Float[Array, "B L D"]:
        """The block of two dense layers with the activation between them."""

        def dense(x: Array) -> Array:
            return self.output(ACTIVATIONS[self.config.activation](self.intermediate(x)))

        return self.residual(dense, self.feed_forward_norm, x, fold_each(places.seeds, 2))

    def __call__(self, x: Float[Array, "B L D"], places: Places) -> Float[Array, "B L D"]:
        """One block after the other."""
        return self.feed_forward(self.self_attention(x, places), places)


def stacked_layers(
    config: LayerShape, dtype: jnp.dtype, rngs: nnx.Rngs, kind: type[Layer] = Layer
) -> Layer:
    """Layers, one at least, whose parameters are stacked along a leading axis N."""
    keys = jax.random.split(rngs.params(), config.layers)
    return nnx.vmap(lambda key: kind(config, dtype, nnx.Rngs(key)))(keys)


def run_layers(
    stacked: Layer,
    x: Float[Array, "B L D"],
    places: Places,
    dtype: jnp.dtype,
    remat: str = "none",
    all_states: bool = False,
    more: tuple[Array, ...] = (),
) -> tuple[Float[Array, "B L D"], Float[Array, "N B L D"] | None]:
    """States after the last of the stacked layers, and after each where they are asked for.

    Args:
        stacked: what `stacked_layers` made.
        x: what enters the first of them.
        places: what the tokens belong to.
        dtype: of the layers' matrix products.
        remat: one of `jaxir.config.REMATS`.
        all_states: ask for the states after each layer.
        more: what else layers of their kind are called with.
    """
    config = stacked.config
    graph, layers = nnx.split(stacked)
    shapes = nnx.state(nnx.eval_shape(lambda: type(stacked)(config, dtype, nnx.Rngs(0))))

    def step(x, layer_and_number):
        layer, number = layer_and_number
        layer = gathered(layer, shapes)
        seeds = fold_each(places.seeds, number)
        x = nnx.merge(graph, layer)(x, places._replace(seeds=seeds), *more)
        return x, x if all_states else None

    if remat != "none":
        step = jax.checkpoint(step, policy=_KEPT[remat], prevent_cse=False)
    return jax.lax.scan(step, x, (layers, jnp.arange(config.layers)))


class Encoder(nnx.Module):
    """Embeddings and a stack of layers whose parameters have a leading axis N."""

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

    def embed(self, ids: Int[Array, "B L"], places: Places) -> Float[Array, "B L D"]:
        """Sum of token, position and token type 0, normalised but in XL."""
        at = places.positions
        if self.config.architecture != "bert":
            at = jnp.where(places.mask, at + 1, 0) + self.config.pad_id
        x = lookup(self.token_embedding.embedding[...], ids)
        x = x + lookup(self.position_embedding.embedding[...], at)
        x = x + self.token_type_embedding.embedding[...][None, :1]
        if not self.config.norm_first:
            x = self.embedding_norm(x)
        return dropout(x, self.config.dropout, places.seeds).astype(self.dtype)

    def __call__(
        self, ids: Int[Array, "B L"], places: Places, all_states: bool = False
    ) -> Float[Array, "B L D"] | Float[Array, "states B L D"]:
        """Last hidden states, or those of the embeddings and of every layer.

        As in PyTorch transformers, the last one of XL stands after the final LayerNorm.
        """
        first = places._replace(seeds=fold_each(places.seeds, self.config.layers))
        embedded = last = self.embed(ids, first)
        states = None
        if self.config.layers:
            last, states = run_layers(
                self.layers, embedded, places, self.dtype, self.remat, all_states
            )
        if self.config.norm_first:
            last = self.final_norm(last)
        if not all_states:
            return last
        before = [] if states is None else [embedded[None], states[:-1]]
        return jnp.concatenate([*before, last[None]])

"""One transformer encoder for XLM-R, XLM-R XL and BERT/LaBSE.

Dimension key: B rows, L tokens of a row, S texts of a row, D hidden size, H heads, K width of a
head, N layers, V rows of an embedding table.

XLM-R is arXiv 1911.02116, XLM-R XL arXiv 2105.00572, BERT arXiv 1810.04805, LaBSE arXiv 2007.01852.
What tells them apart: XLM-R counts positions from `pad_id + 1` and skips padding; XL normalises
before each block and once at the end, but not its embeddings; BERT counts positions from 0.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, UInt32

from jaxir.config import EncoderConfig
from jaxir.models.dropout import Seeds, attention_dropout, dropout, fold, fold_each

_INIT = nnx.initializers.normal(0.02)
# what each layer keeps for the backward pass besides its input; the rest is computed again
_KEPT = {
    "layers": jax.checkpoint_policies.nothing_saveable,
    "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


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


def _sharding_with_width(ids: Array) -> NamedSharding | None:
    """Sharding of the vectors looked up for `ids`, which JAX cannot infer; None without a mesh."""
    sharding = jax.typeof(ids).sharding
    if not sharding.mesh.explicit_axes:
        return None
    return NamedSharding(sharding.mesh, P(*sharding.spec, None))


class Places(NamedTuple):
    """What a row's tokens belong to."""

    mask: Bool[Array, "B L"]  # False: padding
    attended: Bool[Array, "B #L L"]  # the tokens that each token attends to
    positions: Int[Array, "#B L"]  # in its text, from 0; of no meaning where there is padding
    seeds: Seeds | None  # None: no dropout


def one_text_a_row(
    config: EncoderConfig, mask: Bool[Array, "B L"], seeds: UInt32[Array, "B"] | None
) -> Places:
    """Places of rows that hold a text each, with padding around it.

    Args:
        config: BERT counts positions from the start of the row, the others from that of the text.
        mask: where the text is.
        seeds: of the texts' dropout; None: none.
    """
    places = jnp.arange(mask.shape[1], dtype=jnp.int32)[None, :]
    counted = places
    if config.architecture != "bert":
        counted = jnp.cumsum(mask, axis=1, dtype=jnp.int32) - 1
    return Places(
        mask, mask[:, None, :], counted, None if seeds is None else fold(seeds[:, None], places)
    )


def several_texts_a_row(segments: Int[Array, "B L"], seeds: UInt32[Array, "B S"] | None) -> Places:
    """Places of rows in which texts follow one another: none sees another, each counts from 0.

    Args:
        segments: number of the text in its row, from 1; 0: padding.
        seeds: of the texts' dropout; None: none.
    """
    places = jnp.arange(segments.shape[1], dtype=jnp.int32)[None, :]
    before = jnp.pad(segments[:, :-1], ((0, 0), (1, 0)))
    positions = places - jax.lax.cummax(jnp.where(segments != before, places, 0), axis=1)
    if seeds is not None:
        # that of padding is drawn from the first text, and nothing is made of it
        own = jnp.take_along_axis(seeds, jnp.maximum(segments - 1, 0), axis=1)
        seeds = fold(own, positions)
    mask = segments > 0
    same = (segments[:, :, None] == segments[:, None, :]) & mask[:, None, :]
    return Places(mask, same, positions, seeds)


def lookup(table: Float[Array, "V D"], ids: Int[Array, "B L"]) -> Float[Array, "B L D"]:
    """Rows of the table; an id beyond it gives NaN, so that the loss shows it."""
    return table.at[ids].get(
        mode="fill", fill_value=jnp.nan, out_sharding=_sharding_with_width(ids)
    )


def attention(
    query: Float[Array, "B L H K"],
    key: Float[Array, "B L H K"],
    value: Float[Array, "B L H K"],
    places: Places,
    rate: float = 0.0,
) -> Float[Array, "B L H K"]:
    """Scaled dot-product attention within each text, with dropout on the probabilities.

    The softmax is in float32. A token that has none to attend to attends evenly to all: no NaN.
    Source: arXiv 1706.03762, section 3.2.1.
    """
    mask = places.attended[:, None]
    dropping = places.seeds is not None and rate > 0
    if not dropping and _has_fused_attention(query.dtype):
        return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")

    # L x L numbers a head are not kept for the backward pass: computing them again is cheaper
    # than fetching them from memory
    @partial(jax.checkpoint, prevent_cse=False)
    def attend(query, key, value):
        # each head's tokens side by side, which processors without a layout of their own want
        query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
        scores = jnp.einsum("bhlk,bhmk->bhlm", query, key, preferred_element_type=jnp.float32)
        scores = jnp.where(mask, scores * query.shape[-1] ** -0.5, jnp.finfo(jnp.float32).min)
        probabilities = jax.nn.softmax(scores)
        if dropping:
            probabilities = attention_dropout(probabilities, rate, places.seeds, places.positions)
        attended = jnp.einsum("bhlm,bhmk->bhlk", probabilities.astype(value.dtype), value)
        return attended.transpose(0, 2, 1, 3)

    return attend(query, key, value)


def _has_fused_attention(dtype: jnp.dtype) -> bool:
    """Whether cuDNN's kernel, which holds no L x L numbers, runs here: half precision, Ampere."""
    if jax.default_backend() != "gpu" or dtype.itemsize != 2:
        return False
    capability = getattr(jax.devices()[0], "compute_capability", "0.0")
    return float(capability) >= 8.0


@partial(jax.checkpoint, prevent_cse=False)  # of all this the backward pass keeps the input only
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The exact GELU (arXiv 1606.08415), from erf, which costs half of the erfc in JAX's own."""
    share = 0.5 + 0.5 * jax.lax.erf(x.astype(jnp.float32) * 0.5**0.5)
    return x * share.astype(x.dtype)


class Norm(nnx.LayerNorm):
    """LayerNorm in float32 whose output has the dtype of its input."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs):
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

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.config = config
        linear = partial(nnx.Linear, dtype=dtype, kernel_init=_INIT, rngs=rngs)
        width, inner = config.hidden_size, config.intermediate_size
        self.query = linear(width, width)
        self.key = linear(width, width)
        self.value = linear(width, width)
        self.attention_output = linear(width, width)
        self.attention_norm = Norm(config, rngs=rngs)
        self.intermediate = linear(width, inner)
        self.output = linear(inner, width)
        self.feed_forward_norm = Norm(config, rngs=rngs)

    def attend(self, x: Float[Array, "B L D"], places: Places) -> Float[Array, "B L D"]:
        """Multi-head self-attention."""
        heads = (*x.shape[:2], self.config.heads, -1)
        query, key, value = (f(x).reshape(heads) for f in (self.query, self.key, self.value))
        rate = self.config.attention_dropout
        return self.attention_output(attention(query, key, value, places, rate).reshape(x.shape))

    def feed_forward(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Two dense layers with the exact GELU between them."""
        return self.output(gelu(self.intermediate(x)))

    def __call__(self, x: Float[Array, "B L D"], places: Places) -> Float[Array, "B L D"]:
        """Pre-LayerNorm in XL, post-LayerNorm otherwise."""
        first, second, third = (fold_each(places.seeds, number) for number in range(3))
        attend = partial(self.attend, places=places._replace(seeds=first))
        drop = partial(dropout, rate=self.config.dropout)
        if self.config.architecture == "xlm-roberta-xl":
            x = x + drop(attend(self.attention_norm(x)), seeds=second)
            return x + drop(self.feed_forward(self.feed_forward_norm(x)), seeds=third)
        x = self.attention_norm(x + drop(attend(x), seeds=second))
        return self.feed_forward_norm(x + drop(self.feed_forward(x), seeds=third))


class Encoder(nnx.Module):
    """Embeddings and a stack of layers whose parameters have a leading axis N."""

    def __init__(
        self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs, remat: str = "none"
    ):
        self.config, self.dtype, self.remat = config, dtype, remat
        embedding = partial(nnx.Embed, features=config.hidden_size, embedding_init=_INIT, rngs=rngs)
        self.token_embedding = embedding(config.vocab_size)
        self.position_embedding = embedding(config.positions)
        self.token_type_embedding = embedding(config.token_types)
        if config.layers:
            keys = jax.random.split(rngs.params(), config.layers)
            self.layers = nnx.vmap(lambda key: Layer(config, dtype, nnx.Rngs(key)))(keys)
        if config.architecture == "xlm-roberta-xl":
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
        if self.config.architecture != "xlm-roberta-xl":
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
            last, states = self._run_layers(embedded, places, all_states)
        if self.config.architecture == "xlm-roberta-xl":
            last = self.final_norm(last)
        if not all_states:
            return last
        before = [] if states is None else [embedded[None], states[:-1]]
        return jnp.concatenate([*before, last[None]])

    def _run_layers(
        self, x: Float[Array, "B L D"], places: Places, all_states: bool
    ) -> tuple[Float[Array, "B L D"], Float[Array, "N B L D"] | None]:
        """States after the last layer, and after each where they are asked for."""
        graph, layers = nnx.split(self.layers)
        one_layer = nnx.eval_shape(lambda: Layer(self.config, self.dtype, nnx.Rngs(0)))
        shapes = nnx.state(one_layer)

        def step(x, layer_and_number):
            layer, number = layer_and_number
            layer = gathered(layer, shapes)
            seeds = fold_each(places.seeds, number)
            x = nnx.merge(graph, layer)(x, places._replace(seeds=seeds))
            return x, x if all_states else None

        if self.remat != "none":
            step = jax.checkpoint(step, policy=_KEPT[self.remat], prevent_cse=False)
        return jax.lax.scan(step, x, (layers, jnp.arange(self.config.layers)))

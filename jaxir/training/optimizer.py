"""AdamW with warm-up, a schedule, clipping, and weight decay on matrices only."""

from typing import Any

import jax
import optax

from jaxir.config import OptimizerConfig

# biases, LayerNorms and the temperature are scales and offsets: decaying them only hurts
NOT_DECAYED = ("bias", "scale", "log_temperature")


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then the chosen decay down to `final_learning_rate` at `steps`."""
    warmup = min(config.warmup_steps, steps)
    rest = max(steps - warmup, 1)
    peak, last = config.learning_rate, config.final_learning_rate
    after = {
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=last / peak),
        "linear": optax.linear_schedule(peak, last, rest),
        "constant": optax.constant_schedule(peak),
    }[config.schedule]
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def decayed(params: Any) -> Any:
    """True for the leaves that weight decay applies to, by the leaf's name."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key not in NOT_DECAYED, params)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101) behind clipping by the gradient's global norm."""
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(
        clip,
        optax.adamw(
            learning_rate(config, steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            mask=decayed,
        ),
    )

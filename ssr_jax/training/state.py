"""The training state, its optimiser and the one step that all stages share."""

import re
from typing import Any, Callable, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from ssr_jax import xla
from ssr_jax.types import Array, SSRError

Tree = Any


@flax.struct.dataclass
class TrainState:
  """All that a run needs to go on.

  Attributes:
    step: steps done, int32.
    params: {part: parameters} of the trained parts.
    stats: {part: batch statistics}, empty dicts where there are none.
    ema: exponential moving average of `params`, what is validated and exported.
    optimizer: optax state.
  """

  step: Array
  params: Tree
  stats: Tree
  ema: Tree
  optimizer: Tree


def trainable(params: Tree, frozen: Sequence[str]) -> Tree:
  """Which parameters a run trains, as a tree of bools.

  Args:
    params: {part: parameters}.
    frozen: regular expressions; a parameter whose path 'part/module/.../name' begins with a match keeps its value.

  Raises:
    SSRError: an expression that cannot be read or matches no parameter, or nothing left to train.
  """
  paths = traverse_util.flatten_dict(params, sep='/')
  hits = {}
  for pattern in frozen:
    try:
      hits[pattern] = [path for path in paths if re.match(pattern, path)]
    except re.error as error:
      raise SSRError(f'train.frozen: {pattern!r} is no regular expression ({error})') from error
    if not hits[pattern]:
      known = ', '.join(sorted({'/'.join(path.split('/')[:2]) for path in paths}))
      raise SSRError(f'train.frozen: {pattern!r} matches no parameter; their paths begin with {known}')
  fixed = {path for found in hits.values() for path in found}
  if len(fixed) == len(paths):
    raise SSRError(f'train.frozen={tuple(frozen)} leaves nothing to train')
  return traverse_util.unflatten_dict({path: path not in fixed for path in paths}, sep='/')


def make_optimizer(train, mask: Tree | None = None) -> optax.GradientTransformation:
  """AdamW behind a clip of each part's gradient norm, with a linear warm-up and a cosine down to `final_rate`.

  Parts are clipped one by one: with the critic the common norm was about ten times the autoencoder's own.

  Args:
    train: the config's `train` section.
    mask: from `trainable`; parameters that are not trained have neither moments nor weight decay. None trains all.
  """
  schedule = optax.warmup_cosine_decay_schedule(
      0.0, train.learning_rate, min(train.warmup, max(train.steps - 1, 1)), train.steps, train.learning_rate * train.final_rate
  )

  def clip(updates, params):
    del params
    return {part: optax.projections.projection_l2_ball(tree, train.clip) for part, tree in updates.items()}

  adamw = optax.adamw(schedule, b1=0.9, b2=0.99, weight_decay=train.weight_decay)
  if mask is not None and not all(jax.tree.leaves(mask)):
    labels = jax.tree.map(lambda train_it: 'trained' if train_it else 'frozen', mask)
    adamw = optax.multi_transform({'trained': adamw, 'frozen': optax.set_to_zero()}, labels)
  return optax.chain(optax.stateless(clip), adamw)


def create(params: Tree, stats: Tree, optimizer: optax.GradientTransformation) -> TrainState:
  """The state before the first step; every buffer is its own, since steps donate them."""
  params, stats = jax.tree.map(jnp.copy, (params, stats))
  return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      stats=stats,
      ema=jax.tree.map(jnp.copy, params),
      optimizer=optimizer.init(params),
  )


def make_step(
    loss: Callable[..., tuple[Array, tuple[dict[str, Array], Tree]]],
    optimizer: optax.GradientTransformation,
    ema: float,
    mask: Tree | None = None,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
  """Compiles `(state, frozen, batch, seed) -> (state, scalars)`.

  The average's decay is min(ema, (1 + n) / (10 + n)) at step n, so that a short run is not dominated by its start.

  Args:
    loss: `(params, stats, frozen, batch, key, step) -> (loss, (scalars, new stats))`.
    optimizer: from `make_optimizer`.
    ema: decay of the average.
    mask: from `trainable`, the one that the optimiser was made with; the backward pass stops at what is not trained.
  """

  def masked(params, *arguments):
    if mask is not None:
      params = jax.tree.map(lambda p, train_it: p if train_it else jax.lax.stop_gradient(p), params, mask)
    return loss(params, *arguments)

  def step(state, frozen, batch, seed):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    (value, (scalars, stats)), gradients = jax.value_and_grad(masked, has_aux=True)(
        state.params, state.stats, frozen, batch, key, state.step
    )
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    n = state.step.astype(jnp.float32)
    decay = jnp.minimum(ema, (1 + n) / (10 + n))
    average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.ema, params)
    scalars = {'loss': value, 'gradient_norm': optax.tree.norm(gradients), **scalars}
    return TrainState(state.step + 1, params, stats, average, optimizer_state), scalars

  return xla.jit(step, donate_argnums=0)

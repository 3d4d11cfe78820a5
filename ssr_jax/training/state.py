"""The training state, the optimiser and the step, shared by all stages."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import re
from typing import Any

from flax import traverse_util
import flax.struct
import jax
import jax.numpy as jnp
import optax

from ssr_jax import xla
from ssr_jax.systems.base import Stage
from ssr_jax.training import sharding, stages
from ssr_jax.types import Array, SSRError

Tree = Any


@flax.struct.dataclass
class TrainState:
  """The state of a run.

  Attributes:
    step: number of steps done, int32, with skipped ones.
    skipped: number of steps whose loss or gradient was not finite, int32; they change nothing else.
    params: {part: parameters} of the trained parts.
    stats: {part: batch statistics}, an empty dict for a part without.
    ema: exponential moving average of `params`, which is validated and exported.
    ema_stats: exponential moving average of `stats`, to match the features of averaged weights.
    optimizer: optax state.
  """

  step: Array
  skipped: Array
  params: Tree
  stats: Tree
  ema: Tree
  ema_stats: Tree
  optimizer: Tree


def trainable(params: Tree, frozen: Sequence[str]) -> Tree:
  """A tree of bools: whether a run trains each parameter.

  Args:
    params: {part: parameters}.
    frozen: regular expressions; a parameter whose path 'part/module/.../name' begins with a match is not trained.

  Raises:
    SSRError: an invalid expression, one that matches no parameter, or nothing left to train.
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


def stopped(params: Tree, mask: Tree) -> Tree:
  """The parameters, without gradients for those that `mask`, from `trainable`, excludes."""
  return jax.tree.map(lambda p, train_it: p if train_it else jax.lax.stop_gradient(p), params, mask)


def make_optimizer(train, mask: Tree | None = None) -> optax.GradientTransformation:
  """AdamW after a clip of each part's gradient norm, with a linear warm-up and a cosine down to `final_rate`.

  Parts are clipped separately: the norm of critic and autoencoder together was about ten times the autoencoder's.

  Args:
    train: the config's `train` section.
    mask: from `trainable`; parameters that are not trained get no moments and no weight decay. None trains all.
  """
  steps = max(train.steps, 2)  # for a run of no steps
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, train.learning_rate, min(train.warmup, steps - 1), steps, train.learning_rate * train.final_rate
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
  """The state before the first step, with its own buffers, since steps donate them."""
  params, stats = jax.tree.map(jnp.copy, (params, stats))
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    skipped=jnp.zeros((), jnp.int32),
    params=params,
    stats=stats,
    ema=jax.tree.map(jnp.copy, params),
    ema_stats=jax.tree.map(jnp.copy, stats),
    optimizer=optimizer.init(params),
  )


def make_step(
  loss: Callable[..., tuple[Array, tuple[dict[str, Array], Tree]]],
  optimizer: optax.GradientTransformation,
  ema: float,
  *,
  mask: Tree | None = None,
  accumulate: int = 1,
  places: tuple[Any, Any] | None = None,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
  """Compiles `(state, frozen, batch, seed) -> (state, scalars)`; the state is donated.

  The average's decay is min(ema, (1 + n) / (10 + n)) at step n, so that the initial weights do not dominate a short
  run. A step whose loss or gradient is not finite is skipped but counted, and `scalars['finite']` is 0.

  Args:
    loss: `(params, stats, frozen, batch, key, step) -> (loss, (scalars, new stats))`, means over the batch.
    optimizer: from `make_optimizer`.
    ema: decay of the average.
    mask: from `trainable`, the same as for the optimiser; parameters that are not trained get no gradients.
    accumulate: number of parts of a batch that are processed one after the other, to save memory. Gradients and scalars
      are the parts' means; batch statistics are updated once per part.
    places: shardings of the state and of the frozen parts, from `sharding.shardings`; None for those of the arguments.
  """

  def masked(params, *arguments):
    if mask is not None:
      params = stopped(params, mask)
    return loss(params, *arguments)

  gradient = jax.value_and_grad(masked, has_aux=True)

  def gradients(state, frozen, batch, key):
    if accumulate == 1:
      return gradient(state.params, state.stats, frozen, batch, key, state.step)

    def part(carry, i):
      stats, total = carry
      # Every accumulate-th record rather than the i-th block, so that each device uses records that it holds.
      records = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:])[:, i], batch)
      (value, (scalars, stats)), found = gradient(
        state.params, stats, frozen, records, jax.random.fold_in(key, i), state.step
      )
      return (stats, jax.tree.map(jnp.add, total, found)), (value, scalars)

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    # Unrolled on a CPU, where a convolution's weight gradient inside a loop is a hundred times slower.
    unroll = accumulate if xla.platform() == 'cpu' else 1
    (stats, total), seen = jax.lax.scan(part, (state.stats, zeros), jnp.arange(accumulate), unroll=unroll)
    value, scalars = jax.tree.map(lambda x: x.mean(0), seen)
    return (value, (scalars, stats)), jax.tree.map(lambda x: x / accumulate, total)

  def step(state, frozen, batch, seed):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    (value, (scalars, stats)), found = gradients(state, frozen, batch, key)
    norm = optax.tree.norm(found)
    updates, optimizer_state = optimizer.update(found, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    n = state.step.astype(jnp.float32)
    decay = jnp.minimum(ema, (1 + n) / (10 + n))
    mean = lambda a, p: decay * a + (1 - decay) * p
    average = jax.tree.map(mean, state.ema, params)
    stats_average = jax.tree.map(mean, state.ema_stats, stats)
    if mask is not None:  # the mean of two equal numbers may differ from them by rounding
      average = jax.tree.map(lambda a, p, train_it: a if train_it else p, average, params, mask)
    finite = jnp.isfinite(value) & jnp.isfinite(norm)
    new = TrainState(state.step, state.skipped, params, stats, average, stats_average, optimizer_state)
    state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
    state = state.replace(step=state.step + 1, skipped=state.skipped + ~finite)
    scalars = {
      'loss': value,
      'finite': finite.astype(jnp.float32),
      'gradient_norm': norm,
      'parameter_norm': optax.tree.norm(params),
      'update_norm': optax.tree.norm(updates),
      **scalars,
    }
    return state, scalars

  if places is None:
    return xla.jit(step, donate_argnums=0)
  return xla.jit(step, donate_argnums=0, in_shardings=(*places, None, None), out_shardings=(places[0], None))


@dataclasses.dataclass(frozen=True)
class Program:
  """The step of a run, and the shardings of its arguments.

  Attributes:
    create: (params, stats) -> the state before the first step; to be compiled with the output shardings `places`.
    places: shardings of the state.
    frozen_places: shardings of the frozen parts and constants.
    step: from `make_step`.
  """

  create: Callable[[Tree, Tree], TrainState]
  places: TrainState
  frozen_places: Tree
  step: Callable[..., tuple[TrainState, dict[str, Array]]]


def with_mesh(mesh: sharding.Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
  """Traces a function with a known mesh, for attention kernels that the compiler cannot split (`nn.attention`)."""

  def call(*args, **kwargs):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*args, **kwargs)

  return call


def loss_of(stage: Stage) -> Callable[..., tuple[Array, tuple[dict[str, Array], Tree]]]:
  """A stage's loss as a function `(params, stats, frozen, batch, key, step)`, for `make_step`."""

  def loss(params, stats, frozen, batch, key, step):
    return stage.loss(stages.context(params, stats, frozen, key, step), batch)

  return loss


def program(
  stage: Stage, config, mesh: sharding.Mesh, params: Tree, stats: Tree, frozen: Mapping[str, Tree]
) -> Program:
  """Makes the step of a stage for a mesh. Computes nothing: the arguments may be arrays or shapes.

  Args:
    stage: from `stages.build`.
    config: of the run.
    mesh: from `sharding.make_mesh`.
    params: {part: parameters} of the trained parts.
    stats: {part: batch statistics} of the trained parts.
    frozen: {part: variables} of the frozen parts and, under 'constants', the constants of the trained parts.
  """
  train = config.train
  mask = trainable(params, (*stage.fixed, *train.frozen))
  optimizer = make_optimizer(train, mask)

  def start(params, stats):
    return create(params, stats, optimizer)

  places = sharding.shardings(jax.eval_shape(start, params, stats), mesh, config.mesh.min_size)
  frozen_places = sharding.shardings(frozen, mesh, config.mesh.min_size)
  step = make_step(
    with_mesh(mesh, loss_of(stage)),
    optimizer,
    train.ema,
    mask=mask,
    accumulate=train.accumulate,
    places=(places, frozen_places),
  )
  return Program(start, places, frozen_places, step)

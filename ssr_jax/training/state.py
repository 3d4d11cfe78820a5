"""The training state, its optimiser and the one step that all stages share."""

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
  """All that a run needs to go on.

  Attributes:
    step: steps done, int32; skipped ones count.
    skipped: steps whose loss or gradient was not finite, int32; they changed nothing else.
    params: {part: parameters} of the trained parts.
    stats: {part: batch statistics}, empty dicts where there are none.
    ema: exponential moving average of `params`, what is validated and exported.
    ema_stats: likewise of `stats`: averaged weights make features with averaged statistics.
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


def stopped(params: Tree, mask: Tree) -> Tree:
  """The parameters, with no gradient flowing into those that `mask`, from `trainable`, leaves out."""
  return jax.tree.map(lambda p, train_it: p if train_it else jax.lax.stop_gradient(p), params, mask)


def make_optimizer(train, mask: Tree | None = None) -> optax.GradientTransformation:
  """AdamW behind a clip of each part's gradient norm, with a linear warm-up and a cosine down to `final_rate`.

  Parts are clipped one by one: with the critic the common norm was about ten times the autoencoder's own.

  Args:
    train: the config's `train` section.
    mask: from `trainable`; parameters that are not trained have neither moments nor weight decay. None trains all.
  """
  steps = max(train.steps, 2)  # a run of none has a schedule too
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
  """The state before the first step; every buffer is its own, since steps donate them."""
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

  The average's decay is min(ema, (1 + n) / (10 + n)) at step n, so that a short run is not dominated by its start.
  Where the loss or a gradient is not finite the step is counted and skipped, and `scalars['finite']` is 0.

  Args:
    loss: `(params, stats, frozen, batch, key, step) -> (loss, (scalars, new stats))`, means over the batch.
    optimizer: from `make_optimizer`.
    ema: decay of the average.
    mask: from `trainable`, the one that the optimiser was made with; the backward pass stops at what is not trained.
    accumulate: parts that a batch is worked through in, one after the other, to save memory. Gradients and scalars are
      the parts' means; batch statistics move once for each part.
    places: shardings of the state and of the frozen parts, from `sharding.shardings`; None leaves them where they are.
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
      # Every accumulate-th record, not the i-th block of them: so each device works on records that it has.
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
    if mask is not None:  # a mean of equal numbers may round to another one
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
  """The step of a run, and where what it works on lives.

  Attributes:
    create: (params, stats) -> the state before the first step; to be compiled with `places` for its results.
    places: shardings of the state.
    frozen_places: shardings of what the step reads and does not change.
    step: from `make_step`.
  """

  create: Callable[[Tree, Tree], TrainState]
  places: TrainState
  frozen_places: Tree
  step: Callable[..., tuple[TrainState, dict[str, Array]]]


def knowing(mesh: sharding.Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
  """A function that is traced with its mesh known: a kernel that the compiler cannot split has to be split by hand."""

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
  """The one step of a stage, for a mesh. Nothing is computed: arrays and their shapes do as well.

  Args:
    stage: from `stages.build`.
    config: of the run.
    mesh: from `sharding.make_mesh`.
    params: of the trained parts, {part: tree}.
    stats: likewise.
    frozen: variables of the parts that the stage needs and, under 'constants', the constants of the trained ones.
  """
  train = config.train
  mask = trainable(params, (*stage.fixed, *train.frozen))
  optimizer = make_optimizer(train, mask)

  def start(params, stats):
    return create(params, stats, optimizer)

  places = sharding.shardings(jax.eval_shape(start, params, stats), mesh, config.mesh.min_size)
  frozen_places = sharding.shardings(frozen, mesh, config.mesh.min_size)
  step = make_step(
    knowing(mesh, loss_of(stage)),
    optimizer,
    train.ema,
    mask=mask,
    accumulate=train.accumulate,
    places=(places, frozen_places),
  )
  return Program(start, places, frozen_places, step)

"""SVKR: spatially variant kernel refinement, Algorithm 1 of the SSR paper."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from ssr_jax.image.resize import upscale
from ssr_jax.types import Array, Float

RULES = ('algorithm1', 'eq2')

Kept = tuple[Array, Array, Array]


@flax.struct.dataclass
class SVKR:
  """Result of the refinement.

  Attributes:
    depth: D^T, relative inverse depth, as `estimate_depth` gives it.
    kernels: K^T, [b, h, w, k*k], normalised.
    image: I^T, the restored image, [b, H, W, 3], not clipped; the bicubic LR if T is 0.
  """

  depth: Array
  kernels: Array
  image: Array


def svkr(
  estimate_depth: Callable[[Array], Array],
  estimate_kernels: Callable[[Array, Array], Array],
  restore: Callable[[Array, Array], Array],
  lr: Float[Array, 'b h w 3'],
  *,
  scale: int = 4,
  iterations: int = 3,
  gamma: float = 0.9,
  rule: str = 'algorithm1',
  unroll: int | bool = 1,
) -> SVKR:
  """Refines depth, kernels and image in turn (Algorithm 1), as one `lax.scan` with a static trip count.

  I_0 is the bicubic LR, so that the carry has one shape. Each iteration: D = DE(I); E = KE(LR, D); K from E by the
  rule; I = NBSR(LR, K). The paper's two update rules disagree:
    'algorithm1' (used): K^{t+1} = gamma E^{t+1} + (1 - gamma) K^t;
    'eq2': K^{t+1} = gamma E^t + (1 - gamma) E^{t-1}, the same blend with every index one step back, where E^0 is the
      initial estimate and E^{-1} = E^0. The paper writes K for both; with K for the estimates too, the loop would be
      constant.
  Both are convex, so K stays normalised. iterations = 0 returns the initial D and K (the ablation without SVKR).

  Args:
    estimate_depth: DE, [b, H, W, 3] -> depth at any resolution.
    estimate_kernels: KE, (LR [b, h, w, 3], depth from DE) -> [b, h, w, k*k]; resizes the depth itself.
    restore: NBSR, (LR, K) -> [b, H, W, 3].
    lr: [b, h, w, 3] in [0, 1].
    scale: s.
    iterations: T.
    gamma: weight of the newer estimate.
    rule: 'algorithm1' or 'eq2'.
    unroll: as of `lax.scan`, but True makes no loop at all, not even one of a single iteration: for training on a CPU,
      where convolution gradients inside a loop are slow.

  Returns:
    an `SVKR`.

  Raises:
    ValueError: an unknown rule, or fewer than 0 iterations.
  """
  if rule not in RULES:
    raise ValueError(f'unknown SVKR rule {rule!r}; known: {", ".join(RULES)}')
  if iterations < 0:
    raise ValueError(f'SVKR iterations must be 0 or more; got {iterations}')
  image = upscale(lr, scale)
  if iterations == 0:
    depth = estimate_depth(image)
    return SVKR(depth=depth, kernels=estimate_kernels(lr, depth), image=image)

  def refined(image: Array, kept: Kept, first: bool | Array) -> tuple[Array, Array, Kept]:
    """D, I and (K, the newest estimate, the one before) of the next round."""
    depth = estimate_depth(image)
    estimate = estimate_kernels(lr, depth)
    kernels, newer, older = kept
    new, old = (estimate, kernels) if rule == 'algorithm1' else (newer, older)
    kernels = gamma * new + (1 - gamma) * old
    # The first round sees the image of the initial estimate: all three are that estimate, which is not made twice.
    kernels, newer, older = (jnp.where(first, estimate, x) for x in (kernels, estimate, newer))
    return depth, restore(lr, kernels), (kernels, newer, older)

  if unroll is True:
    unused = jnp.zeros(())  # by the first round
    depth, kept = unused, (unused, unused, unused)
    for t in range(iterations):
      depth, image, kept = refined(image, kept, t == 0)
    return SVKR(depth=depth, kernels=kept[0], image=image)

  # Under 'algorithm1' the last two of what is kept are not used, and XLA drops them.
  seen = jax.eval_shape(estimate_depth, image)
  depth, estimate = (jnp.zeros(x.shape, x.dtype) for x in (seen, jax.eval_shape(estimate_kernels, lr, seen)))

  def step(carry: tuple[Array, Array, Kept], t: Array) -> tuple[tuple[Array, Array, Kept], None]:
    _, image, kept = carry
    return refined(image, kept, t == 0), None

  carry = (depth, image, (estimate, estimate, estimate))
  (depth, image, kept), _ = jax.lax.scan(step, carry, jnp.arange(iterations), unroll=unroll)
  return SVKR(depth=depth, kernels=kept[0], image=image)

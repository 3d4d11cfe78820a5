"""A noise field for a whole image; each tile reads its own window."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from ssr_jax.types import Array

_BLOCK = 64


@flax.struct.dataclass
class NoiseField:
  """Gaussian noise over an unbounded plane, given by a seed; overlapping tiles get the same values in the overlap.

  Attributes:
    seed: uint32 scalar.
    origin: (y, x) of a tile in LR pixels, int32 [2].
  """

  seed: Any  # an array; Any, because JAX puts shapes and marks of its own into trees
  origin: Any

  def window(self, shape: tuple[int, int, int], lr_rows: int) -> tuple[Array, Array]:
    """The tile's noise.

    Args:
      shape: (hl, wl, c) of the tile's latent.
      lr_rows: LR rows of the tile, hl latent rows. The window begins at origin * hl / lr_rows, which must be whole.

    Returns:
      noise float32 [hl, wl, c]; and a key for a sampler's later draws, which depends on the window's origin.
    """
    key_field, key_steps = jax.random.split(jax.random.key(self.seed))
    origin = jnp.asarray(self.origin) * shape[0] // lr_rows
    field = noise_window(key_field, origin, shape)
    return field, jax.random.fold_in(jax.random.fold_in(key_steps, origin[0]), origin[1])


def noise_window(key: Array, origin: Array, shape: tuple[int, int, int]) -> Array:
  """A window of the field of a key.

  Args:
    key: of the field.
    origin: (y, x) of the window, int32.
    shape: (h, w, c) of the window.

  Returns:
    [h, w, c] float32.
  """
  h, w, c = shape
  rows, columns = (-(-size // _BLOCK) + 1 for size in (h, w))
  first = origin // _BLOCK

  def block(row, column):
    place = jax.random.fold_in(jax.random.fold_in(key, first[0] + row), first[1] + column)
    return jax.random.normal(place, (_BLOCK, _BLOCK, c))

  blocks = jax.vmap(jax.vmap(block, (None, 0)), (0, None))(jnp.arange(rows), jnp.arange(columns))
  field = blocks.transpose(0, 2, 1, 3, 4).reshape(rows * _BLOCK, columns * _BLOCK, c)
  y, x = origin - first * _BLOCK
  return jax.lax.dynamic_slice(field, (y, x, 0), (h, w, c))

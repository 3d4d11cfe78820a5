"""JPEG's losses as an array function: the steps of libjpeg between two 8-bit images, without the entropy coder.

Entropy coding is lossless, so an image that went through a JPEG file can be computed without writing one; on the device
and for a whole batch at once. Every rounding that libjpeg makes is made here too: 8-bit YCbCr, 2x2 chroma averages,
quantised coefficients, 8-bit samples after the inverse DCT, triangular chroma upsampling; and the fixed-point rounding
of its forward DCT, which decides coefficients that fall between two levels. Two or three pixels in a hundred still
differ, by a level, because the DCT's own constants are float32 here and have 13 bits there.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax.types import ArrayLike

# ITU-T T.81, Annex K: tables K.1 (luminance) and K.2 (chrominance), for quality 50.
_LUMINANCE = np.array(
  [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
  ],
  np.float32,
)
_CHROMINANCE = np.full((8, 8), 99, np.float32)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]


def _dct_matrix() -> np.ndarray:
  """Orthonormal DCT-II of 8 samples: coefficients = matrix @ samples."""
  u, x = np.mgrid[:8, :8]
  rows = np.cos((2 * x + 1) * u * np.pi / 16) / 2
  rows[0] /= np.sqrt(2)
  return rows


_DCT = _dct_matrix()


def jpeg(image: ArrayLike, quality: ArrayLike | float, size: tuple[ArrayLike, ArrayLike] | None = None) -> jax.Array:
  """An image after a baseline JPEG file of the given quality, 4:2:0, as libjpeg writes and reads it (Pillow's default).

  Works under jit and vmap: shapes are fixed. Its derivative is zero almost everywhere, like that of rounding.

  Args:
    image: [b, H, W, 3] RGB in [0, 1], any H and W; rounded to 8 bits first.
    quality: [b] or scalar, 1 to 100, rounded to an integer.
    size: heights and widths, each [b] integer or scalar, of images that fill only the top left of their canvas; None
      where they fill it.

  Returns:
    [b, H, W, 3] float32 in [0, 1], multiples of 1/255. Samples below and to the right of `size` have no meaning.

  Raises:
    ValueError: not [b, H, W, 3].
  """
  if image.ndim != 4 or image.shape[-1] != 3:
    raise ValueError(f'expected [b, H, W, 3]; got shape {tuple(image.shape)}')
  b, H, W, _ = image.shape
  half_H, half_W = -(-H // 2), -(-W // 2)
  quality = jnp.broadcast_to(jnp.asarray(quality, jnp.float32), (b,))
  luminance, chrominance = (quantisation_table(table, quality) for table in (_LUMINANCE, _CHROMINANCE))

  heights, widths = (H, W) if size is None else (jnp.broadcast_to(n, (b,)) for n in size)
  half_heights, half_widths = (heights + 1) // 2, (widths + 1) // 2

  rgb = jnp.clip(jnp.round(image.astype(jnp.float32) * 255), 0, 255).astype(jnp.int32)
  # libjpeg replicates the border at full resolution to the right, but below only up to the pair that chroma needs;
  # the rest of a chroma block's rows repeat the last averaged row.
  rgb = _extend(rgb, heights, widths, 2 * half_H, -(-W // 16) * 16)
  y = _weigh(rgb, (19595, 38470, 7471))  # .299, .587, .114 in 16 bits
  # Halves of chroma round down. They are frequent: blue minus an equal red and green is a half if it is odd.
  cb = _weigh(rgb, (-11059, -21709, 32768), 128 * 65536 - 1)
  cr = _weigh(rgb, (32768, -27439, -5329), 128 * 65536 - 1)

  y = _code_blocks(y, luminance)[:, :H, :W]
  chroma = jnp.concatenate([_halve(cb), _halve(cr)])  # [2b, half_H, ...]: both in one go
  if size is not None:
    half_heights, half_widths = (jnp.concatenate([n, n]) for n in (half_heights, half_widths))
    chroma = jax.vmap(_take_up_to)(chroma, half_heights)
  chroma = _code_blocks(chroma, jnp.concatenate([chrominance, chrominance]))[:, :half_H, :half_W]
  chroma = _double(chroma, half_heights, half_widths)[:, :H, :W] - 128
  chroma = jnp.stack(jnp.split(chroma, 2), axis=-1)

  red, green, blue = _weigh(chroma, (0, 91881)), _weigh(chroma, (-22554, -46802)), _weigh(chroma, (116130, 0))
  return jnp.clip(y[..., None] + jnp.stack([red, green, blue], axis=-1), 0, 255).astype(jnp.float32) / 255


def quantisation_table(base: ArrayLike, quality: jax.Array) -> jax.Array:
  """Libjpeg's scaling of a quality-50 table [8, 8] to qualities [b]: [b, 8, 8] integers 1 to 255 as float32."""
  quality = jnp.clip(jnp.round(quality), 1, 100)
  percent = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)
  return jnp.clip(jnp.floor((jnp.asarray(base) * percent[:, None, None] + 50) / 100), 1, 255)


def _weigh(channels: jax.Array, weights: Sequence[int], offset: int = 0) -> jax.Array:
  """Weighted sum over the last axis, weights and offset in 1/65536, rounded: int32 to int32."""
  total = jnp.int32(offset + 32768)
  for i, weight in enumerate(weights):
    total = total + weight * channels[..., i]
  return total >> 16


def _round(x: jax.Array) -> jax.Array:
  return jnp.floor(x + 0.5)  # halves round up, as in libjpeg's shifts


def _extend(x: jax.Array, heights, widths, H: int, W: int) -> jax.Array:
  """Repeats the last valid row and column up to [b, H, W, ...]; heights and widths are numbers, or arrays [b]."""
  if isinstance(heights, int):
    return _pad_to(x, H, W)
  x = _pad_to(x, H, W)
  x = jax.vmap(_take_up_to)(x, heights)
  return jax.vmap(jax.vmap(_take_up_to, (0, None)))(x, widths)


def _take_up_to(x: jax.Array, n: jax.Array) -> jax.Array:
  """The first n elements of the first axis, the last of them repeated over the rest."""
  return x[jnp.minimum(jnp.arange(x.shape[0]), n - 1)]


def _pad_to(x: jax.Array, H: int, W: int) -> jax.Array:
  widths = [(0, 0), (0, H - x.shape[1]), (0, W - x.shape[2])] + [(0, 0)] * (x.ndim - 3)
  return jnp.pad(x, widths, mode='edge')


def _halve(x: jax.Array) -> jax.Array:
  """2x2 averages of [b, 2h, 2w], with libjpeg's ordered dither of the rounding: columns add 1 and 2 in turn."""
  b, H, W = x.shape
  total = x.reshape(b, H // 2, 2, W // 2, 2).sum((2, 4))
  bias = 1 + jnp.arange(W // 2) % 2
  return (total + bias) >> 2


def _double(x: jax.Array, heights, widths) -> jax.Array:
  """Libjpeg's 'fancy' upsampling, [b, h, w] -> [b, 2h, 2w]: weights 9 3 3 1, borders (of the valid size) repeated."""
  b, h, w = x.shape
  plain = x.repeat(2, 1).repeat(2, 2)
  if isinstance(widths, int) and w <= 2:  # too narrow for libjpeg to interpolate
    return plain
  padded = _extend(x, heights, widths, h + 1, w + 1)
  x = padded[:, :h, :w]
  rows = jnp.concatenate([padded[:, :1], padded], 1)[:, :, :w]
  rows = jnp.stack([3 * x + rows[:, :-2], 3 * x + rows[:, 2:]], 2).reshape(b, 2 * h, w)
  columns = jnp.concatenate([rows[:, :, :1], rows, rows[:, :, -1:]], 2)
  left = (3 * rows + columns[:, :, :-2] + 8) >> 4
  right = (3 * rows + columns[:, :, 2:] + 7) >> 4
  fancy = jnp.stack([left, right], 3).reshape(b, 2 * h, 2 * w)
  return fancy if isinstance(widths, int) else jnp.where((widths <= 2)[:, None, None], plain, fancy)


def _code_blocks(plane: jax.Array, table: jax.Array) -> jax.Array:
  """DCT, quantisation by table [b, 8, 8], and back: [b, H, W] integers 0-255 -> the same, padded to whole blocks."""
  b, H, W = plane.shape
  rows, columns = -(-H // 8), -(-W // 8)
  blocks = _pad_to(plane, rows * 8, columns * 8).reshape(b, rows, 8, columns, 8).transpose(0, 1, 3, 2, 4)
  blocks = blocks.reshape(b, rows * columns, 8, 8) - 128
  table = table.reshape(b, 1, 8, 8)
  # Rows, then columns; each pass of libjpeg scales by sqrt(8), and the first keeps two more bits. 'highest': at an
  # accelerator's default precision the coefficients would be off by more than the rounding.
  forward = (np.sqrt(8) * _DCT).astype(np.float32)
  levels = _round(4 * jnp.einsum('bnyx,vx->bnyv', blocks, forward, precision='highest'))
  levels = _round(jnp.einsum('uy,bnyv->bnuv', forward, levels, precision='highest') / 4) / (8 * table)
  levels = jnp.sign(levels) * jnp.floor(jnp.abs(levels) + 0.5)
  # Ties do not occur in the inverse, so that both of its passes can be one product with a [64, 64] matrix.
  inverse = np.kron(_DCT, _DCT).astype(np.float32)
  blocks = jnp.matmul((levels * table).reshape(b, rows * columns, 64), inverse, precision='highest')
  blocks = jnp.clip(_round(blocks + 128), 0, 255).astype(jnp.int32)
  return blocks.reshape(b, rows, columns, 8, 8).transpose(0, 1, 3, 2, 4).reshape(b, rows * 8, columns * 8)

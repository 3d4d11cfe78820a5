"""What a camera does to a photo after the lens: noise, demosaicking, denoising, sharpening and JPEG.

An LR photo from a camera is not the blurred image plus independent noise. The sensor measures one colour per pixel, in
linear light, with shot and read noise; demosaicking spreads that noise over neighbouring pixels and mixes the colours;
a denoiser flattens detail that is weaker than the noise; a sharpener adds overshoot at edges; JPEG comes last. `draw`
draws all parameters of one image, and `apply` runs these steps except JPEG, which the caller runs with the drawn
quality.

The clean image itself is not demosaicked: only the noise goes through the mosaic. Bilinear demosaicking is linear, so
this gives the noise that it makes without the colour fringes, which newer methods avoid.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ssr_jax.image import colour
from ssr_jax.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Camera:
  """Ranges of the parameters, uniform unless stated. The defaults are a phone or an SLR at ISO 100 to 1600.

  Attributes:
    quiet: probability of a nearly clean image: `shot` is below its range, there is little sharpening, JPEG is rarer and
      of higher quality, and there is neither chroma noise nor denoising.
    quiet_sharpening: factor of the amount of sharpening of a nearly clean image.
    shot: variance of the shot noise per unit of linear light; log-uniform. The read noise follows from it, with the
      line that Brooks et al. (2019, arXiv 1811.11127) fit to a phone: log read = 2.18 log shot + 1.20 (a variance).
    red: white balance gain of red, which amplifies the noise of red.
    blue: the same for blue.
    chroma: standard deviation of the low-frequency chroma noise, relative to the square root of `shot`.
    chroma_radius: standard deviation of the Gaussian that smooths the chroma noise, in LR pixels.
    denoise: probability of denoising.
    denoise_range: range sigma of the bilateral filter, relative to the noise's root mean square.
    sharpen: probability of sharpening.
    radius: standard deviation of the unsharp mask's Gaussian, in LR pixels.
    amount: weight of the unsharp mask.
    jpeg: probability of JPEG for a nearly clean image and for the others; 1/2 for all images together.
    quality: JPEG quality, rounded.
    quiet_quality: JPEG quality of a nearly clean image.
  """

  quiet: float = 1 / 3
  quiet_sharpening: float = 0.2
  shot: tuple[float, float] = (1e-4, 4e-3)
  red: tuple[float, float] = (1.2, 2.4)
  blue: tuple[float, float] = (1.2, 2.0)
  chroma: tuple[float, float] = (0.0, 0.15)
  chroma_radius: tuple[float, float] = (1.0, 3.0)
  denoise: float = 0.75
  denoise_range: tuple[float, float] = (1.0, 3.0)
  sharpen: float = 0.8
  radius: tuple[float, float] = (0.5, 2.0)
  amount: tuple[float, float] = (0.0, 1.5)
  jpeg: tuple[float, float] = (0.2, 0.65)
  quality: tuple[float, float] = (60.0, 95.0)
  quiet_quality: tuple[float, float] = (85.0, 95.0)


CAMERA = Camera()
"""The camera of the mode 'isp'."""

_REACH = 2  # of the bilateral filter: 5x5 pixels
_SPATIAL = 1.5  # its spatial sigma, LR pixels


def draw(key: Array, camera: Camera = CAMERA) -> dict[str, Array]:
  """All parameters of one image.

  Args:
    key: one key.
    camera: what to draw.

  Returns:
    scalars: `quiet`, bool; `shot` and `read`, standard deviation of the read noise in linear light; `red` and `blue`;
    `row` and `column`, 0 or 1, where the Bayer pattern's red sample lies; `chroma`, standard deviation of 1, and
    `chroma_radius`; `denoise`, the range sigma relative to the noise, 0 for none; `radius` and `amount` of the
    sharpening, amount 0 for none; `quality` of JPEG, 0 for none.
  """
  u = iter(jax.random.uniform(key, (15,)))
  quiet = next(u) < camera.quiet
  low, high = np.log(camera.shot)
  level = next(u)
  shot = jnp.where(quiet, camera.shot[0] * level, jnp.exp(_between(level, low, high)))
  draws = {
    'quiet': quiet,
    'shot': shot,
    'read': jnp.sqrt(jnp.exp(1.2) * shot**2.18),
    'red': _between(next(u), *camera.red),
    'blue': _between(next(u), *camera.blue),
    'row': (next(u) < 0.5).astype(jnp.int32),
    'column': (next(u) < 0.5).astype(jnp.int32),
    'chroma': jnp.where(quiet, 0.0, _between(next(u), *camera.chroma) * jnp.sqrt(shot)),
    'chroma_radius': _between(next(u), *camera.chroma_radius),
  }
  denoised = (next(u) < camera.denoise) & ~quiet
  draws['denoise'] = jnp.where(denoised, _between(next(u), *camera.denoise_range), 0.0)
  amount = _between(next(u), *camera.amount) * jnp.where(quiet, camera.quiet_sharpening, 1.0)
  draws['amount'] = jnp.where(next(u) < camera.sharpen, amount, 0.0)
  draws['radius'] = _between(next(u), *camera.radius)
  coded = next(u) < jnp.where(quiet, *camera.jpeg)
  level = next(u)
  quality = jnp.where(quiet, _between(level, *camera.quiet_quality), _between(level, *camera.quality))
  return draws | {'quality': jnp.where(coded, jnp.round(quality), 0.0)}


def apply(
  keys: Array, image: Float[Array, 'b h w 3'], draws: dict[str, Array]
) -> tuple[Float[Array, 'b h w 3'], Float[Array, ' b']]:
  """Runs the steps before JPEG.

  Args:
    keys: one for each image, [b]; of the noise.
    image: [b, h, w, 3] sRGB in [0, 1]: blurred and subsampled, without noise. h and w are at least 2.
    draws: of `draw`, each [b].

  Returns:
    the image [b, h, w, 3] in [0, 1], multiples of 1/255; and the root mean square of the noise in sRGB before it was
    denoised, [b].
  """
  return jax.vmap(_apply)(keys, image, draws)


def _apply(key: Array, image: Array, d: dict[str, Array]) -> tuple[Array, Array]:
  sensor_key, chroma_key = jax.random.split(key)
  image = jnp.clip(image, 0, 1)
  linear = colour.srgb_to_linear(image)
  noisy = colour.linear_to_srgb(jnp.clip(linear + sensor_noise(sensor_key, linear, d), 0, 1))
  h, w, _ = image.shape
  noisy = noisy + chroma_noise(chroma_key, (h, w), d['chroma'], d['chroma_radius'])
  rms = jnp.sqrt(jnp.mean((noisy - image) ** 2))
  out = jnp.where(d['denoise'] > 0, bilateral(noisy, d['denoise'] * rms), noisy)
  out = unsharp_mask(out, d['radius'], d['amount'])
  return jnp.round(jnp.clip(out, 0, 1) * 255) / 255, rms


def sensor_noise(key: Array, linear: Float[Array, 'h w 3'], draws: dict[str, Array]) -> Float[Array, 'h w 3']:
  """Shot and read noise of a Bayer sensor after bilinear demosaicking.

  Each pixel has the noise of the one colour that the sensor measures there; the other two are averages over neighbours,
  so the noise of neighbouring pixels is correlated, and less so in green.

  Args:
    key: one key.
    linear: [h, w, 3] linear light in [0, 1], which sets the shot noise.
    draws: 'shot', 'read', 'red', 'blue', 'row' and 'column' of `draw`.

  Returns:
    [h, w, 3], in linear light.
  """
  h, w, _ = linear.shape
  odd_row = (jnp.arange(h)[:, None] + draws['row']) % 2 == 1
  odd_column = (jnp.arange(w)[None, :] + draws['column']) % 2 == 1
  sites = jnp.stack([~odd_row & ~odd_column, odd_row ^ odd_column, odd_row & odd_column], -1)  # [h, w, 3], one is set
  gains = jnp.stack([draws['red'], jnp.ones(()), draws['blue']])
  # The sensor's own signal is the image divided by the gain; the gain then multiplies its noise.
  variance = gains * draws['shot'] * linear + (gains * draws['read']) ** 2
  mosaic = jnp.sqrt((variance * sites).sum(-1)) * jax.random.normal(key, (h, w))
  # Reflection without repeating the border keeps the colours of the pattern in place.
  samples = jnp.pad(mosaic[..., None] * sites, ((1, 1), (1, 1), (0, 0)), mode='reflect')
  at = lambda dy, dx: samples[1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w]
  cross = at(-1, 0) + at(1, 0) + at(0, -1) + at(0, 1)
  corners = at(-1, -1) + at(-1, 1) + at(1, -1) + at(1, 1)
  diagonal = np.array([1.0, 0.0, 1.0], np.float32)  # red and blue lie on every other row, green on each
  return at(0, 0) + cross * (0.25 + 0.25 * diagonal) + corners * 0.25 * diagonal


def chroma_noise(
  key: Array, size: tuple[int, int], deviation: Float[Array, ''], radius: Float[Array, '']
) -> Float[Array, 'h w 3']:
  """Low-frequency colour noise with constant luma, like the blotches that denoisers leave.

  Args:
    key: one key.
    size: (h, w).
    deviation: standard deviation of Cb and Cr, of 1, scalar.
    radius: standard deviation of the Gaussian that white noise is filtered with, in pixels, scalar.

  Returns:
    [h, w, 3], sRGB.
  """
  rows, columns = (_gaussian_matrix(n, radius) for n in size)
  rows, columns = (m / jnp.sqrt((m**2).sum(1, keepdims=True)) for m in (rows, columns))  # unit variance again
  cb, cr = deviation * _filter(jax.random.normal(key, (2, *size)), rows, columns)
  return jnp.stack([1.402 * cr, -0.344136 * cb - 0.714136 * cr, 1.772 * cb], -1)  # BT.601


def bilateral(image: Float[Array, 'h w 3'], range_sigma: Float[Array, '']) -> Float[Array, 'h w 3']:
  """Bilateral filter over 5x5 pixels whose weights compare the luma, so that colour is smoothed most.

  Args:
    image: [h, w, 3], any range.
    range_sigma: difference in luma at which a neighbour's weight has fallen to 0.61, scalar.

  Returns:
    [h, w, 3].
  """
  h, w, _ = image.shape
  luma = _luma(image)
  with_luma = jnp.concatenate([image, luma], -1)
  padded = jnp.pad(with_luma, ((_REACH, _REACH), (_REACH, _REACH), (0, 0)), mode='edge')
  scale = 0.5 / jnp.maximum(range_sigma, 1e-4) ** 2
  total, norm = jnp.zeros_like(image), jnp.zeros_like(luma)
  for dy in range(2 * _REACH + 1):
    for dx in range(2 * _REACH + 1):
      there = padded[dy : dy + h, dx : dx + w]
      distance = ((dy - _REACH) ** 2 + (dx - _REACH) ** 2) / (2 * _SPATIAL**2)
      weight = jnp.exp(-distance - scale * (there[..., 3:] - luma) ** 2)
      total, norm = total + weight * there[..., :3], norm + weight
  return total / norm


def unsharp_mask(
  image: Float[Array, 'h w 3'], radius: Float[Array, ''], amount: Float[Array, '']
) -> Float[Array, 'h w 3']:
  """Adds `amount` times the luma's difference from its Gaussian blur to each channel.

  Args:
    image: [h, w, 3], any range.
    radius: standard deviation of the Gaussian in pixels, scalar.
    amount: scalar.

  Returns:
    [h, w, 3]; it can leave the range of `image`.
  """
  luma = _luma(image)[..., 0]
  rows, columns = (_gaussian_matrix(n, radius) for n in luma.shape)
  return image + amount * (luma - _filter(luma, rows, columns))[..., None]


def _luma(image: Array) -> Array:
  return 0.299 * image[..., :1] + 0.587 * image[..., 1:2] + 0.114 * image[..., 2:]


def _gaussian_matrix(n: int, sigma: Array) -> Array:
  """[n, n]: one axis of a Gaussian filter; the weights are normalised over what lies inside the image."""
  distance = np.arange(n)[:, None] - np.arange(n)[None, :]
  weights = jnp.exp(-0.5 * (distance / sigma) ** 2)
  return weights / weights.sum(1, keepdims=True)


def _filter(planes: Array, rows: Array, columns: Array) -> Array:
  """[..., h, w] filtered along both axes by matrices [h, h] and [w, w]."""
  planes = jnp.einsum('rh,...hw->...rw', rows, planes, precision='highest')
  return jnp.einsum('...hw,cw->...hc', planes, columns, precision='highest')


def _between(u: Array, low: float, high: float) -> Array:
  return low + (high - low) * u

"""The map of what was found and what was invented: against values that are known, in bands, and around a system."""

import dataclasses

import jax
import numpy as np
import pytest

from ssr_jax.image import blur
from ssr_jax.image import kernels as kernel_lib
from ssr_jax.runtime import trust
from ssr_jax.runtime.restorer import Restorer
from ssr_jax.systems.base import Output, System
from ssr_jax.types import SSRError
from tests.runtime.standins import compiled_operator  # noqa: F401  a fixture

SCALE = 4
LUMA = 219 / 255  # of gray 0 to 1
FAINT = 2 / 255


pytestmark = pytest.mark.usefixtures('compiled_operator')


def _waves(h, w, amplitude, period=8):
  """Gray [H, W, 3] around 0.5 with diagonal waves, whose mean square is half the amplitude's square."""
  y, x = np.indices((SCALE * h, SCALE * w))
  wave = 0.5 + amplitude * np.sin(2 * np.pi * (x + 2 * y) / period)
  return np.repeat(wave[..., None], 3, -1).astype(np.float32)


def _checkers(h, w, amplitude):
  """[H, W, 3], plus and minus the amplitude, pixel by pixel: no blur of the kernels here leaves any of it."""
  return np.repeat((amplitude * (1 - 2 * (np.indices((SCALE * h, SCALE * w)).sum(0) % 2)))[..., None], 3, -1)


def _kernels(h, w, seed=0):
  rng = np.random.default_rng(seed)
  drawn = [rng.uniform(*limits, (h, w)).astype(np.float32) for limits in ((3, 8), (3, 8), (0, 3))]
  return np.asarray(kernel_lib.gaussian_kernels(*drawn))


def _degrade(image, kernels):
  return np.array(blur.blur_downsample(image[None], kernels[None], SCALE))[0]


@pytest.mark.parametrize('invented', [0.02, 0.1])
def test_change_and_residual_are_in_units_of_local_contrast(invented):
  """Invented detail that the blur hides is change; what is missing from the photo is residual."""
  h, w = 40, 72
  restored, kernels = _waves(h, w, 0.1), _kernels(h, w)
  image = restored + _checkers(h, w, invented)
  photo = _degrade(restored, kernels)
  photo[:, w // 2 :] += 0.03
  found = trust.trust_map(photo, restored, image, kernels)
  unit = LUMA * 0.1 / np.sqrt(2) + FAINT
  change, residual = LUMA * invented / unit, LUMA * 0.03 / unit
  left, right = np.s_[10:30, 10 : w // 2 - 10], np.s_[10:30, w // 2 + 10 : -10]
  np.testing.assert_allclose(found[left][..., 0], change, rtol=0.02)
  np.testing.assert_allclose(found[right][..., 1], residual, rtol=0.03)
  assert found[left][..., 1].max() < 0.05 * residual
  share = change**2 / (1 + change**2)
  np.testing.assert_allclose(found[left][..., 2], share, rtol=0.05)
  strength = change**2 + residual**2
  np.testing.assert_allclose(found[right][..., 2], strength / (1 + strength), rtol=0.05)
  assert trust.share(found) == pytest.approx(found[..., 2].mean(), rel=1e-5)


def test_a_change_that_blur_does_not_hide_is_residual():
  """Texture as coarse as the photo's own pixels is in neither photo nor restored image."""
  h, w = 40, 40
  restored, kernels = _waves(h, w, 0.1), _kernels(h, w)
  image = restored + _waves(h, w, 0.1, period=40) - 0.5
  found = trust.trust_map(_degrade(restored, kernels), restored, image, kernels)
  wanted = _degrade(image - restored, kernels)[10:-10, 10:-10].std() * LUMA / (LUMA * 0.1 / np.sqrt(2) + FAINT)
  assert found[10:-10, 10:-10, 1].mean() == pytest.approx(wanted, rel=0.1) and wanted > 0.5


def test_nothing_is_invented_where_the_result_explains_the_photo():
  restored, kernels = _waves(30, 50, 0.1), _kernels(30, 50)
  photo = _degrade(restored, kernels)
  assert trust.trust_map(photo, restored, restored, kernels).max() < 1e-3
  assert trust.trust_map(photo, None, restored, kernels).max() < 1e-3
  flat = np.full_like(restored, 0.5)
  assert trust.trust_map(_degrade(flat, kernels), flat, flat, kernels).max() < 1e-3


def test_noise_of_the_photo_is_no_invention():
  restored, kernels = _waves(64, 64, 0.1), _kernels(64, 64)
  clean = _degrade(restored, kernels)
  noise = 0.05 * np.random.default_rng(0).standard_normal((64, 64, 1)).astype(np.float32)
  without = trust.trust_map(clean + noise, restored, restored, kernels)
  told = trust.trust_map(clean + noise, restored, restored, kernels, noise=LUMA * 0.05)
  unit = LUMA * 0.1 / np.sqrt(2) + FAINT
  np.testing.assert_allclose(np.sqrt((without[..., 1] ** 2).mean()), LUMA * 0.05 / unit, rtol=0.1)
  assert trust.share(told) < 0.25 * trust.share(without)


@pytest.mark.parametrize('shape', [(70, 33), (3, 130), (64, 64)])
def test_blocks_are_the_operator_on_the_whole(shape):
  plane = np.random.default_rng(0).random((SCALE * shape[0], SCALE * shape[1]), np.float32)
  kernels = _kernels(*shape)
  wanted = _degrade(plane[..., None], kernels)[..., 0]
  np.testing.assert_allclose(trust.degraded(plane, kernels), wanted, atol=1e-6)
  first, last = shape[0] // 3, max(shape[0] // 3 + 1, shape[0] // 2)
  around = {'above': min(first, 5), 'below': min(shape[0] - last, 5)}
  rows = plane[SCALE * (first - around['above']) : SCALE * (last + around['below'])]
  if min(around.values()) >= 3:
    np.testing.assert_allclose(trust.degraded(rows, kernels[first:last], **around), wanted[first:last], atol=1e-6)


def _cut(array, heights):
  parts, top = [], 0
  for height in heights:
    parts.append(array[top : top + height])
    top += height
  assert top == len(array)
  return parts


@pytest.mark.parametrize('kernels_first', [True, False])
def test_bands_give_the_map_of_the_whole(kernels_first):
  h, w = 60, 25
  restored, kernels = _waves(h, w, 0.1), _kernels(h, w)
  image = np.clip(restored + 0.05 * np.random.default_rng(1).standard_normal(restored.shape), 0, 1).astype(np.float32)
  photo = _degrade(restored, kernels)
  rows = {'image': _cut(image, [3, 150, 1, 86]), 'restored': _cut(restored, [3, 150, 1, 86])}
  bands = [{name: parts[i] for name, parts in rows.items()} for i in range(4)]
  if kernels_first:
    bands = [{'kernels': part} for part in _cut(kernels, [20, 40])] + bands
  else:
    bands = [band | {'kernels': part} for band, part in zip(bands, _cut(kernels, [10, 30, 7, 13]), strict=True)]
  names = trust.Names('image', 'restored', 'kernels')
  for kept in (True, False):
    *passed, last = trust.measured(iter(bands), photo, names, SCALE, kept)
    wanted = trust.trust_map(photo, restored, image, kernels, float(trust.noise.noise_level(trust._Luma(photo))[0]))
    np.testing.assert_allclose(last['trust'], wanted, atol=2e-4)
    assert [set(band) for band in passed] == [set(b) if kept else set(b) - {'kernels'} for b in bands]
    np.testing.assert_array_equal(np.concatenate([b['image'] for b in passed if 'image' in b]), image)


# -- Around a system ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Options:
  plant: bool | None = None


@dataclasses.dataclass(frozen=True)
class _Plan:
  parts: tuple = ()
  plant: bool = False
  scale: int = SCALE


FIELD = np.s_[20:50, 60:100]
"""LR rows and columns where `Planter` plants texture."""


class Planter(System):
  """Answers with what it was made with, and plants texture in a field of it."""

  name = 'planter'
  outputs = (Output('kernels', 'kernels', 'kernels'), Output('restored', 'image', ''), Output('image', 'image', ''))
  Options = _Options

  def __init__(self, truth, kernels):
    h, w, _ = kernels.shape
    self.truth, self.kernels, self.texture = truth, kernels, np.zeros_like(truth)
    y, x = ((SCALE * axis.start, SCALE * axis.stop) for axis in FIELD)
    self.texture[y[0] : y[1], x[0] : x[1]] = _checkers(h, w, 0.06)[y[0] : y[1], x[0] : x[1]]

  def required(self, config, modules, options):
    return ()

  def plan(self, config, modules, options):
    return _Plan(plant=bool(options.plant))

  def restore(self, modules, variables, lr, window, context, noise, plan, last=True):
    y, x = (int(o) for o in window.origin)
    h, w = lr.shape[1:3]

    def tile(array, scale):
      cut = array[scale * y : scale * (y + h), scale * x : scale * (x + w)]
      return np.pad(cut, [(0, scale * side - n) for side, n in zip((h, w), cut.shape[:2], strict=True)] + [(0, 0)])[
        None
      ]

    restored = tile(self.truth, SCALE)
    image = restored + tile(self.texture, SCALE) * plan.plant
    return {'kernels': tile(self.kernels, 1), 'restored': restored, 'image': image}


def _planted(**options):
  h, w = 80, 120
  system = Planter(_waves(h, w, 0.1), _kernels(h, w))
  photo = _degrade(system.truth, system.kernels)
  with jax.disable_jit():
    model = Restorer(system, {'name': 'planter', 'scale': SCALE, 'parts': {}}, {}, {})
    return photo, model, model.sample(photo, trust=True, **options)


@pytest.mark.parametrize('options', [{'tile': 128}, {'tile': 64}, {'tile': 64, 'scale': 2, 'keep_kernels': False}])
def test_the_map_rises_where_texture_is_planted_and_nowhere_else(options):
  found = {plant: _planted(plant=plant, **options)[2] for plant in (False, True)}
  rise = found[True].trust[..., 2] - found[False].trust[..., 2]
  field = np.zeros(rise.shape, bool)
  field[FIELD] = True
  near = np.zeros_like(field)
  near[FIELD[0].start - 8 : FIELD[0].stop + 8, FIELD[1].start - 8 : FIELD[1].stop + 8] = True
  inner = np.zeros_like(field)
  inner[FIELD[0].start + 5 : FIELD[0].stop - 5, FIELD[1].start + 5 : FIELD[1].stop - 5] = True
  assert rise[inner].min() > 0.25 and np.abs(rise[~near]).max() < 0.01
  assert trust.share(found[True].trust) > trust.share(found[False].trust) + 0.02
  assert (found[True].kernels is None) == ('keep_kernels' in options) and found[True].trust.shape == (80, 120, 3)
  assert found[True].image.shape[0] == 80 * options.get('scale', SCALE)


def test_the_stream_gives_the_same_map_at_its_end_and_the_image_stays_as_it_is():
  photo, model, sampled = _planted(plant=True, tile=64)
  with jax.disable_jit():
    *bands, last = model.stream(photo, tile=64, plant=True, trust=True)
    plain = model.sample(photo, tile=64, plant=True)
  np.testing.assert_array_equal(last['trust'], sampled.trust)
  assert all('trust' not in band for band in bands)
  np.testing.assert_array_equal(sampled.image, plain.image)
  np.testing.assert_array_equal(np.concatenate([band['image'] for band in bands if 'image' in band]), plain.image)
  assert 'trust' not in plain.outputs


def test_a_batch_has_a_map_for_each_image_and_a_system_without_kernels_is_refused():
  photo, model, one = _planted(plant=True, tile=128)
  with jax.disable_jit():
    both = model.sample(np.stack([photo, photo]), trust=True, plant=True, tile=128)
  np.testing.assert_array_equal(both.trust, np.stack([one.trust] * 2))

  class Blind(System):
    name, outputs, Options = 'blind', (Output('image', 'image', 'result'),), _Options

    def plan(self, config, modules, options):
      return _Plan()

  blind = Restorer(Blind(), {'name': 'b', 'scale': SCALE, 'parts': {}}, {}, {})
  with pytest.raises(SSRError, match="trust needs blur kernels, which system 'blind' of model 'b' does not estimate"):
    blind.sample(photo, trust=True)
  with pytest.raises(SSRError, match='trust 1: must be True or False'):
    model.sample(photo, trust=1)

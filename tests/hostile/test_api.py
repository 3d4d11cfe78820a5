"""Wrong arguments of the Python interface: each is an SSRError that names the argument; memory stays bounded.

A system that only enlarges stands for a model, so that nothing large is compiled.
"""

import dataclasses
import gc
import multiprocessing
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

import ssr_jax
from ssr_jax import runtime, xla
from ssr_jax.systems.base import Output, System


@dataclasses.dataclass(frozen=True)
class _Options:
  steps: int | None = None
  start: float | None = None
  sampler: str | None = None
  fast: bool | None = None


@dataclasses.dataclass(frozen=True)
class _Plan:
  parts: tuple = ()
  scale: int = 4


class Enlarger(System):
  """Repeats pixels; remembers the options it was asked for."""

  name = 'enlarger'
  outputs = (Output('image', 'image', 'result'),)
  Options = _Options
  asked = None

  def required(self, config, modules, options):
    return ()

  def plan(self, config, modules, options):
    self.asked = options
    return _Plan()

  def alignment(self, modules, plan):
    return 1

  def passes(self, plan):
    return 1

  def view_size(self, modules, plan):
    return None

  def restore(self, modules, variables, lr, window, context, noise, plan, last=True):
    return {'image': jnp.repeat(jnp.repeat(lr, 4, 1), 4, 2)}


@pytest.fixture(scope='module')
def model():
  return runtime.Restorer(Enlarger(), {'name': 'enlarger', 'scale': 4}, {}, {})


_LR = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)


@pytest.mark.parametrize(
  'lr, words',
  [
    (None, 'lr is NoneType'),
    ({}, 'lr is dict'),
    (object(), 'lr is object'),
    (b'photo.png', 'lr is bytes'),
    (iter([]), 'lr is list_iterator'),
    ([[1, 2], [3]], 'lr is no array'),
    (np.array([['a', 'b']]), 'lr is ndarray'),
    (np.zeros((8, 8, 3), 'datetime64[s]'), 'lr is ndarray'),
    (5, r'shape \[\]'),
    ([], r'shape \[0\]'),
    (np.zeros((8, 8, 3), bool), 'got bool'),
    (np.zeros((8, 8, 3), complex), 'got complex128'),
    (np.zeros((8, 8, 3), np.int64), 'got int64'),
    ('missing.png', 'missing.png: cannot be read'),
    (pathlib.Path('missing.png'), 'missing.png: cannot be read'),
    (Image.new('F', (8, 8)), 'lr: floating-point image'),
  ],
)
def test_wrong_images(model, lr, words):
  for sample in (model.sample, lambda lr: ssr_jax.sample(lr, model)):
    with pytest.raises(ssr_jax.SSRError, match=words) as caught:
      sample(lr)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'options, words',
  [
    ({'seed': None}, 'seed None: must be a whole number'),
    ({'seed': 'a'}, "seed 'a'"),
    ({'seed': 1.5}, 'seed 1.5'),
    ({'seed': [1.5]}, r'seed \[1.5\]'),
    ({'seed': [[1], [2, 3]]}, 'seed'),
    ({'seed': [1, 2]}, '2 numbers for 1 images'),
    ({'scale': '4'}, "scale '4': must be a number"),
    ({'scale': 0.5}, 'scale 0.5: must be from 1 to 8'),
    ({'scale': float('nan')}, 'scale nan'),
    ({'scale': 2, 'size': (16, 16)}, 'exclude each other'),
    ({'size': 16}, 'size 16: must be'),
    ({'size': (16.5, 16)}, 'size 16.5: must be a whole number'),
    ({'size': (1, 1)}, 'size 1x1: must be 1 to 8 times the size of the image'),
    ({'tile': None}, 'tile None: must be a whole number'),
    ({'tile': '64'}, "tile '64'"),
    ({'tile': 64.0}, 'tile 64.0'),
    ({'tile': -64}, 'tile -64'),
    ({'progress': 5}, 'progress 5: must be a function'),
    ({'keep_kernels': 'no'}, "keep_kernels 'no': must be True or False"),
    ({'steps': 'x'}, "steps 'x': must be a whole number"),
    ({'steps': 2.5}, 'steps 2.5'),
    ({'steps': True}, 'steps True'),
    ({'start': 'x'}, "start 'x': must be a number"),
    ({'start': [1]}, r'start \[1\]'),
    ({'sampler': 5}, 'sampler 5: must be a text'),
    ({'fast': 1}, 'fast 1: must be True or False'),
    ({'stpes': 1}, "unknown option 'stpes'; system 'enlarger' has steps"),
  ],
)
def test_wrong_options(model, options, words):
  with pytest.raises(ssr_jax.SSRError, match=words):
    model.sample(_LR, **options)


@pytest.mark.parametrize('name', [None, 5, b'compact', [], object(), 'a\0b', 'x' * 5000, '', np.zeros(3)])
def test_wrong_models(name):
  for call in (ssr_jax.load, lambda name: ssr_jax.sample(_LR, name)):
    with pytest.raises(ssr_jax.SSRError, match='model'):
      call(name)


@pytest.mark.parametrize('dtype', [5, [], np.float32, 'half'])
def test_wrong_dtypes(dtype):
  for call in (lambda: ssr_jax.load('compact', dtype=dtype), lambda: ssr_jax.sample(_LR, dtype=dtype)):
    with pytest.raises(ssr_jax.SSRError, match='dtype'):
      call()


def test_options_arrive_as_pythons_own_types(model):
  model.sample(_LR, steps=np.int64(3), start=np.float32(0.5), fast=np.bool_(True), seed=np.uint8(3), tile=np.int32(64))
  asked = dataclasses.astuple(model.system.asked)
  assert asked == (3, 0.5, None, True) and [type(value) for value in asked] == [int, float, type(None), bool]


def test_paths_and_pil_images_are_read_upright(model, tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(_LR).save(tmp_path / 'a.png', exif=exif)
  upright = np.rot90(_LR, -1).repeat(4, 0).repeat(4, 1)
  with Image.open(tmp_path / 'a.png') as opened:
    for lr in (tmp_path / 'a.png', str(tmp_path / 'a.png'), opened):
      found = model.sample(lr).image
      assert found.dtype == np.uint8
      np.testing.assert_array_equal(found, upright)
    assert opened.getexif()[0x0112] == 6  # the caller's image is as it was
  gray = Image.fromarray(_LR[..., 0])
  np.testing.assert_array_equal(model.sample(gray).image[::4, ::4], np.repeat(_LR[..., :1], 3, -1))


def test_sixteen_bits_come_back(model):
  lr = np.random.default_rng(0).integers(0, 65536, (2, 8, 10, 3)).astype(np.uint16)
  found = model.sample(lr).image
  assert found.dtype == np.uint16
  np.testing.assert_array_equal(found[:, ::4, ::4], lr)


# -- Memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_programs_of_few_size_classes_are_kept(monkeypatch):
  monkeypatch.setattr(xla, '_lowered', None)  # else what is compiled again is not traced again
  model = runtime.Restorer(Enlarger(), {'name': 'enlarger', 'scale': 4}, {}, {})
  sides = [32, 64, 96, 128, 192]
  sizes = [(h, w) for h in sides for w in sides][: runtime.PROGRAMS + 4]
  model.sample(np.zeros((*sizes[0], 3), np.uint8))
  live = []
  for h, w in sizes:
    model.sample(np.zeros((h, w, 3), np.uint8))
    gc.collect()
    live.append(len(jax.devices()[0].client.live_executables()))
  assert max(live) - live[0] == runtime.PROGRAMS - 1 and live[-1] == max(live)
  assert model.traces['restore'] == len(sizes)
  model.sample(np.zeros((*sizes[-1], 3), np.uint8))
  assert model.traces['restore'] == len(sizes)  # the last ones are there
  model.sample(np.zeros((*sizes[0], 3), np.uint8))
  assert model.traces['restore'] == len(sizes) + 1  # the first one is compiled again


def test_a_program_that_is_used_stays():
  calls = []

  def add(x, *, by):
    calls.append((x.shape, by))
    return x + by

  jitted = xla.jit(add, keep=2, static_argnames=('by',))
  for n, by in ((1, 1), (2, 1), (1, 1), (1, 2), (1, 1)):
    np.testing.assert_array_equal(jitted(jnp.ones(n), by=by), np.full(n, 1 + by))
  assert calls == [((1,), 1), ((2,), 1), ((1,), 2)]
  jitted(jnp.ones(2), by=1)
  assert len(calls) == 4
  assert jitted.__wrapped__ is add and jitted.__name__ == 'add'


def _sample_in_a_process(lr):
  return runtime.Restorer(Enlarger(), {'name': 'enlarger', 'scale': 4}, {}, {}).sample(lr).image


def test_the_documented_way_to_use_processes():
  with multiprocessing.get_context('spawn').Pool(1) as pool:
    found = pool.apply(_sample_in_a_process, (_LR,))
  np.testing.assert_array_equal(found, _LR.repeat(4, 0).repeat(4, 1))

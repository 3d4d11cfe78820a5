"""Images that run in bands of rows: the result is that of the whole image, and no band is larger than it must be."""

import itertools

import jax
import numpy as np
from PIL import Image
import pytest

from ssr_jax import runtime
from ssr_jax.cli import upscaling
from ssr_jax.image import io, transparency
from ssr_jax.image.colourfix import wavelet
from ssr_jax.runtime import bands
from ssr_jax.runtime.blend import Blend
from ssr_jax.runtime.restorer import Restorer
from ssr_jax.systems.base import Output, System, Variant
from tests.runtime import standins

LEVELS = 3


class Painter(System):
  """Enlarges a tile and adds what depends on the tile's place, so that tiles differ; fixes the colours at the end."""

  name = 'painter'
  outputs = (
    Output('where', 'map', 'place'),
    Output('restored', 'image', 'restored'),
    Output('image', 'image', 'result'),
  )
  Options = standins.Options

  def __init__(self, local=True):
    self.local, self.seen = local, []

  @property
  def variants(self):
    return {'restored': Variant('restored', {'steps': 0}), 'result': Variant('image')}

  def required(self, config, modules, options):
    return ()

  def plan(self, config, modules, options):
    return standins.Plan(steps=1 if options.steps is None else options.steps)

  def view_size(self, modules, plan):
    return (6, 10)

  def passes(self, plan):
    return 2

  def prepare(self, modules, variables, view, plan):
    return view

  def advance(self, modules, variables, context, view, plan):
    return (context + view) / 2

  def restore(self, modules, variables, lr, window, context, noise, plan, last=True):
    large = lr.repeat(4, 1).repeat(4, 2)
    self.seen.append(lr.shape)
    if not last:
      return {'view': large}
    y, x = (int(o) for o in window.origin)
    ramp = np.linspace(0, 0.1, large.shape[1], dtype=np.float32)[None, :, None, None] * (1 + y % 3 + x % 5)
    mean = 0 if context is None else np.asarray(context).mean()
    restored = large * np.float32(0.8) + np.float32(mean / 10)
    found = {'where': ramp + 0 * large[..., :1], 'restored': restored}
    return found | {'image': restored + ramp} if plan.steps else found

  def finish(self, found, plan):
    if not plan.steps:
      return {**found, 'image': found['restored']}
    return {**found, 'image': wavelet(found['image'], found['restored'], LEVELS)}

  def reach(self, plan):
    return (2**LEVELS if plan.steps else 0) if self.local else None


def _model(local=True):
  return Restorer(Painter(local), {'name': 'painter', 'scale': 4, 'parts': {}}, {}, {})


def _lr(h, w, dtype=np.float32):
  values = np.random.default_rng(h + w).random((h, w, 3), np.float32)
  return values if dtype == np.float32 else np.rint(values * 255).astype(dtype)


class _Source:
  """Rows that are decoded when they are asked for; remembers what was asked for."""

  def __init__(self, image):
    self._image, self.shape, self.dtype, self.asked = image, image.shape, image.dtype, []

  def __getitem__(self, rows):
    self.asked.append((rows.start, rows.stop))
    return self._image[rows]


@pytest.mark.parametrize('shape', [(40, 50), (150, 70), (333, 90)])
@pytest.mark.parametrize('options', [{}, {'scale': 1}, {'scale': 2.7}, {'scale': 8}, {'steps': 0}])
def test_bands_are_the_rows_of_the_whole(shape, options):
  """Whole: a system that wants the whole image at its end, and Pillow's resize of that."""
  lr = _lr(*shape, np.uint8)
  with jax.disable_jit():
    wanted = _model(local=False).sample(lr, tile=64, **options)
    source = _Source(lr)
    found = list(_model().stream(source, tile=64, **options))
    sampled = _model().sample(lr, tile=64, **options)
  for name in ('where', 'restored', 'image'):
    whole = getattr(wanted, name)
    rows = np.concatenate([band[name] for band in found])
    assert rows.dtype == whole.dtype and rows.shape == whole.shape
    np.testing.assert_allclose(rows.astype(float), whole, atol=1 if whole.dtype == np.uint8 else 1e-4)
    assert (rows.astype(float) != whole).mean() < (1e-3 if whole.dtype == np.uint8 else 1)  # roundings of the resize
    np.testing.assert_array_equal(getattr(sampled, name), rows)
  if shape[0] > 64:
    assert len(found) > 1 and max(last - first for first, last in source.asked) <= 64
    starts = [first for first, _ in source.asked]
    assert sum(b < a for a, b in itertools.pairwise(starts)) == 2  # the first look, and two passes


def test_without_a_resize_bands_equal_the_whole_to_the_bit():
  lr = _lr(200, 70)
  with jax.disable_jit():
    wanted, found = _model(local=False).sample(lr, tile=64), list(_model().stream(lr, tile=64))
  for name in ('where', 'restored', 'image'):
    np.testing.assert_array_equal(np.concatenate([band[name] for band in found]), getattr(wanted, name))


def test_a_system_with_a_step_of_its_own_at_the_end_needs_the_whole_image_unless_it_says_otherwise():
  class Silent(System):
    def finish(self, found, plan):
      return found

  assert Silent().reach(None) is None and System().reach(None) == 0


def test_blending_holds_no_more_than_a_row_of_tiles():
  layout = bands.Layout.of(500, 70, 64, 1)
  blend, rows = Blend((2000, 280), 4), 0
  for y, columns, end in layout.rows:
    for x in columns:
      blend.add({'a': np.full((1, 256, 256, 2), y, np.float32)}, (y, x), False)
    assert len(blend.totals['a']) <= 256
    rows += len(blend.take(end)['a'])
  assert rows == 2000 and len(blend.totals['a']) == 0


@pytest.mark.parametrize('size, view', [((100, 37), (16, 8)), ((10, 300), (16, 128)), ((64, 64), (64, 64))])
def test_a_view_from_bands_is_pillows_resize_of_the_whole(size, view):
  image = _lr(*size)
  seen = bands.View(size, view)
  for first, last in ((0, 1), (1, size[0] // 3), (size[0] // 3, size[0])):
    seen.add(image[first:last])
  wanted = [Image.fromarray(image[..., c]).resize(view[::-1], Image.Resampling.BILINEAR) for c in range(3)]
  np.testing.assert_allclose(seen.result(), np.stack([np.asarray(x) for x in wanted], -1), atol=1e-5)


def test_feed_gives_rows_in_any_portion():
  feed = bands.Feed(iter([np.arange(5), np.arange(5, 6), np.arange(6, 20)]))
  found = [feed.take(n).tolist() for n in (3, 3, 1, 100, 5)]
  assert found == [[0, 1, 2], [3, 4, 5], [6], list(range(7, 20)), []]


def test_transparency_stays_within_its_neighbours():
  """By a loop over all pixels; whatever the bands."""
  plane = np.random.default_rng(0).random((7, 9)).astype(np.float32)
  plane[2:, :5] = 1
  larger = np.random.default_rng(1).normal(0.5, 1, (16, 23)).astype(np.float32)
  wanted = np.empty_like(larger)
  for i in range(16):
    for j in range(23):
      y, x = int((i + 0.5) * 7 / 16), int((j + 0.5) * 9 / 23)
      near = plane[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
      wanted[i, j] = np.clip(larger[i, j], near.min(), near.max())
  for step in (1, 5, 16):
    parts = [transparency.limited(larger[i : i + step], i, (16, 23), plane) for i in range(0, 16, step)]
    np.testing.assert_array_equal(np.concatenate(parts), wanted)
  assert (wanted[8:14, :8] == 1).all()


# -- From file to file -------------------------------------------------------------------------------------------------


def _upscale(monkeypatch, source, target, banded, size=None, **options):
  arguments = upscaling.Settings(size=size, tile=64, overwrite=True)
  monkeypatch.setattr(upscaling, 'BANDED', 1600 if banded else 2**40)
  made_by = 'ssr_jax, some settings'
  upscaler = upscaling.Upscaler(_model(), arguments, {'tile': 64, **options}, made_by)
  ticks = []
  with jax.disable_jit():
    ((_, work),) = upscaling.run(upscaler, [upscaling.Job(source, target)], 2, lambda *a: ticks.append(a))
  if isinstance(work, Exception):
    raise work
  assert upscaler.written == 1 and ticks[-1][1] == ticks[-1][2] and work.result is None
  return work, io.read(target)


@pytest.mark.parametrize('target', ['.png', '.tif', '.jpg', '.webp'])
@pytest.mark.parametrize('kind', ['rgb', 'rgba', 'gray', 'deep'])
def test_a_file_in_bands_is_the_file_at_once(tmp_path, monkeypatch, kind, target):
  source = tmp_path / 'in.png'
  values = _lr(150, 70, np.uint8)
  if kind == 'deep':
    io.write(source, io.Picture(_lr(150, 70), bits=16, dpi=(72.0, 72.0)))
  elif kind == 'gray':
    Image.fromarray(values[..., 0]).save(source)
  else:
    alpha = np.where(np.arange(150)[:, None] < 80, 255, values[..., 0])
    Image.fromarray(np.dstack([values, alpha.astype(np.uint8)]) if kind == 'rgba' else values).save(source)
  options = {'scale': 3.0} if kind == 'rgb' else {}
  _, wanted = _upscale(monkeypatch, source, tmp_path / f'whole{target}', False, **options)
  work, found = _upscale(monkeypatch, source, tmp_path / f'bands{target}', True, **options)
  assert (found.gray, found.bits, found.icc, found.dpi) == (wanted.gray, wanted.bits, wanted.icc, wanted.dpi)
  assert (
    found.exif == wanted.exif and b'some settings' in found.exif and (found.alpha is None) == (wanted.alpha is None)
  )
  assert work.size == found.rgb.shape[:2] == ((450, 210) if kind == 'rgb' else (600, 280))
  if target == '.jpg':
    assert np.abs(found.rgb.astype(int) - wanted.rgb).mean() < 0.5
  else:
    np.testing.assert_array_equal(found.rgb, wanted.rgb)
  if kind == 'rgba' and target != '.jpg':
    np.testing.assert_array_equal(found.alpha, wanted.alpha)
    assert (found.alpha[: 4 * 79] == 255).all() and found.alpha[4 * 81 :].std() > 20


def test_a_figure_of_a_large_image_is_refused_before_the_model_runs(tmp_path, monkeypatch):
  Image.fromarray(_lr(20, 30, np.uint8)).save(tmp_path / 'in.png')
  monkeypatch.setattr(upscaling, 'BANDED', 1600)
  monkeypatch.setattr(Restorer, 'stream', lambda *_, **__: pytest.fail('must not run'))
  arguments = upscaling.Settings(overwrite=True)
  upscaler = upscaling.Upscaler(_model(), arguments, {}, None)
  job = upscaling.Job(tmp_path / 'in.png', tmp_path / 'out.png', tmp_path / 'figure.png')
  ((_, error),) = upscaling.run(upscaler, [job], 1, lambda *_: None)
  assert '--figures' in str(error) and [p.name for p in tmp_path.iterdir()] == ['in.png']


@pytest.mark.parametrize('banded', [False, True])
@pytest.mark.parametrize('tile', [None, 192])
def test_too_little_memory_makes_smaller_tiles_unless_the_user_named_them(tmp_path, monkeypatch, banded, tile):
  """From the image on for which it does not suffice; nothing half-written stays."""
  for name in ('a', 'b'):
    Image.fromarray(_lr(150, 70, np.uint8)).save(tmp_path / f'{name}.png')
  monkeypatch.setattr(upscaling, 'BANDED', 1600 if banded else 2**40)
  arguments = upscaling.Settings(tile=tile, overwrite=True)
  model, calls = _model(), []
  restore = Painter.restore

  def limited(self, modules, variables, lr, *rest, **more):
    calls.append(lr.shape[1])
    if len(calls) > 1 and lr.shape[1] * lr.shape[2] > 64 * 64:
      raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes')
    return restore(self, modules, variables, lr, *rest, **more)

  monkeypatch.setattr(Painter, 'restore', limited)
  options = {} if tile is None else {'tile': tile}
  jobs = [upscaling.Job(tmp_path / f'{name}.png', tmp_path / f'{name}4.png') for name in ('a', 'b')]
  with jax.disable_jit():
    calls.append(0)
    upscaler = upscaling.Upscaler(model, arguments, options, None)
    found = [work for _, work in upscaling.run(upscaler, jobs, 1, lambda *_: None)]
    if tile:
      assert all('RESOURCE_EXHAUSTED' in str(error) for error in found)
    else:
      assert all(work.notes == ['tiles of 64 pixels, for lack of memory; --tile chooses'] for work in found)
      assert calls[1:4] == [192, 128, 64] and set(calls[4:]) == {64}
      wanted = model.sample(io.read(tmp_path / 'a.png').rgb, tile=64).image
      np.testing.assert_array_equal(io.read(tmp_path / 'b4.png').rgb.shape, wanted.shape)
      np.testing.assert_array_equal(io.read(tmp_path / 'a4.png').rgb, wanted)
  left = {path.name for path in tmp_path.iterdir()}
  assert left == ({'a.png', 'b.png'} if tile else {'a.png', 'b.png', 'a4.png', 'b4.png'})


def test_results_do_not_depend_on_what_is_read_and_written_beside(tmp_path, monkeypatch):
  """Many files with one, and with several threads: the same bytes; a bad one among them is named and no more."""
  for i in range(12):
    Image.fromarray(_lr(20 + i, 30, np.uint8)).save(tmp_path / f'{i}.png')
  (tmp_path / '5.png').write_bytes(b'no picture')
  monkeypatch.setattr(upscaling, 'BANDED', 16 * 29 * 30)  # some run in bands
  arguments = upscaling.Settings(overwrite=True)
  contents = []
  for threads in (1, 5):
    out = tmp_path / f'out{threads}'
    out.mkdir()
    jobs = [upscaling.Job(tmp_path / f'{i}.png', out / f'{i}.png') for i in range(12)]
    with jax.disable_jit():
      found = list(upscaling.run(upscaling.Upscaler(_model(), arguments, {}, None), jobs, threads, lambda *_: None))
    assert sorted(job.source.name for job, _ in found) == sorted(job.source.name for job in jobs)
    assert [job.source.name for job, work in found if isinstance(work, Exception)] == ['5.png']
    contents.append({path.name: path.read_bytes() for path in sorted(out.iterdir())})
  assert contents[0] == contents[1] and len(contents[0]) == 11


def test_reading_ahead_is_bounded(tmp_path):
  """No more images are in memory than the threads, whatever the number of jobs."""
  state = {'read': 0, 'written': 0, 'most': 0}

  class Counting:
    def read(self, job):
      state['read'] += 1
      state['most'] = max(state['most'], state['read'] - state['written'])
      return job

    def restore(self, work, progress):
      pass

    def write(self, work):
      state['written'] += 1

  assert len(list(upscaling.run(Counting(), list(range(100)), 3, lambda *_: None))) == 100
  assert state['read'] == state['written'] == 100 and state['most'] <= 3 + 1 + 3 + 1


def test_what_was_begun_is_written_when_the_user_stops(tmp_path):
  class Stopping:
    written = 0

    def read(self, job):
      return job

    def restore(self, work, progress):
      if work == 2:
        raise KeyboardInterrupt

    def write(self, work):
      self.written += 1

  upscaler = Stopping()
  with pytest.raises(KeyboardInterrupt):
    list(upscaling.run(upscaler, list(range(9)), 3, lambda *_: None))
  assert upscaler.written == 2


def test_the_public_names_are_there():
  assert runtime.Feed is bands.Feed and runtime.bucket is bands.bucket

"""Sources and the input pipeline: what is read, the fixed split, and the same record whatever the threads."""

import numpy as np
from PIL import Image
import pytest

from ssr_jax.data import pipeline, sources
from ssr_jax.types import SSRError


@pytest.fixture
def folder(tmp_path):
  rng = np.random.default_rng(0)
  (tmp_path / 'sub').mkdir()
  for i in range(6):
    pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / ('sub' if i % 2 else '.') / f'{i}.png')
  (tmp_path / 'notes.txt').write_text('not an image')
  return tmp_path


def test_reads_recursively_in_order_and_keeps_to_its_memory(folder):
  files = sources.parse(f'folder:{folder}')
  assert sorted(f.name for f in files) == [f'{i}.png' for i in range(6)] and files == sorted(files)
  source = sources.Folder(files, cache_bytes=2 * 40 * 50 * 3)
  for _ in range(2):
    for i, file in enumerate(files):
      np.testing.assert_array_equal(source[i], np.asarray(Image.open(file)))
  assert len(source._cache) == 2


def test_split_is_fixed_and_disjoint(folder):
  files = sources.parse(f'folder:{folder}')
  train, held = sources.split(files, 3)
  assert len(held) == 2 and not set(train) & set(held) and set(train) | set(held) == set(files)
  assert sources.split(files, 0) == (files, [])


@pytest.mark.parametrize('spec,message', [('dir:x', 'must read'), ('folder:/does/not/exist', 'not a folder'), ('', 'empty')])
def test_wrong_sources_are_one_line(spec, message):
  with pytest.raises(SSRError, match=message):
    sources.parse(spec)


def test_unreadable_and_small_images_are_named(folder):
  (folder / 'bad.png').write_bytes(b'no image')
  files = sources.parse(f'folder:{folder}')
  bad = [f.name for f in files].index('bad.png')
  with pytest.raises(SSRError, match='bad.png'):
    sources.Folder(files)[bad]
  with pytest.raises(SSRError, match='data.patch'):
    pipeline.crop_patch(np.zeros((20, 30, 3), np.uint8), 24, np.random.default_rng(0))


def test_batches_do_not_depend_on_threads_or_on_where_one_starts(folder):
  source = sources.Folder(sources.parse(f'folder:{folder}'))

  def data():
    return pipeline.dataset(source, pipeline.photo_record(16), 4, seed=3)

  one = pipeline.batches(data(), threads=1)
  first = [next(one) for _ in range(6)]
  four = pipeline.batches(data(), start=4, threads=4)
  for expected in first[4:]:
    got = next(four)
    for name in expected:
      np.testing.assert_array_equal(got[name], expected[name])
  assert not np.array_equal(first[0]['seed'], first[3]['seed'])


def test_a_crop_is_one_of_the_eight_views_of_the_photo():
  image = np.arange(30 * 40 * 3, dtype=np.uint32).astype(np.uint8).reshape(30, 40, 3)
  image[..., 0] = np.arange(30)[:, None]
  image[..., 1] = np.arange(40)[None, :]
  seen = set()
  for seed in range(60):
    crop = pipeline.crop_patch(image, 16, np.random.default_rng(seed)).astype(int)
    steps = tuple(crop[1, 0, :2] - crop[0, 0, :2]), tuple(crop[0, 1, :2] - crop[0, 0, :2])
    assert sorted(abs(v) for pair in steps for v in pair) == [0, 0, 1, 1]
    seen.add(steps)
  assert len(seen) == 8

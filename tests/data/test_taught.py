"""Sources with a teacher's images: what belongs together, what is packed, what is cut alike."""

import numpy as np
from PIL import Image
import pytest

from ssr_jax.data import pack, records, sources
from ssr_jax.types import SSRError


def _write(path, array):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(array).save(path)


def _noise(shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_a_teachers_images_belong_to_their_pairs(tmp_path):
  for i in range(3):
    _write(tmp_path / 'hr' / f'{i}.png', _noise((33, 40, 3), i))
    _write(tmp_path / 'lr' / f'{i}.png', _noise((8, 10, 3), 10 + i))
    _write(tmp_path / 'out' / f'{i}_x4.png', _noise((32, 40, 3), 20 + i))
  spec = f'taught:{tmp_path}/hr,{tmp_path}/lr,{tmp_path}/out'
  source = sources.from_spec(spec)
  assert source.keys == ('hr', 'lr', 'taught') and len(source) == 3
  for i, record in enumerate(source):
    np.testing.assert_array_equal(record['hr'], _noise((33, 40, 3), i)[:32])
    np.testing.assert_array_equal(record['lr'], _noise((8, 10, 3), 10 + i))
    np.testing.assert_array_equal(record['taught'], _noise((32, 40, 3), 20 + i))
  assert source.name(2, 'taught').endswith('2_x4.png') and len(source.files(0)) == 3
  assert set(sources.from_spec(spec, ('hr',), ('lr',))[0]) == {'hr', 'lr'}
  _write(tmp_path / 'out' / '1_x4.png', _noise((32, 36, 3)))
  with pytest.raises(sources.BadRecord, match=r'1_x4.png: 36x32, but its HR image is 40x32'):
    _ = source[1]
  (tmp_path / 'out' / '1_x4.png').unlink()
  with pytest.raises(SSRError, match=r'1.png: has no partner of the same name below .*out'):
    sources.from_spec(spec)
  with pytest.raises(SSRError, match="must read 'taught:HR_DIR,LR_DIR,OUT_DIR'"):
    sources.from_spec(f'taught:{tmp_path}/hr,{tmp_path}/lr')


def test_a_teachers_images_are_packed_with_their_pairs_and_cut_alike(tmp_path):
  hr = _noise((48, 64, 3))
  _write(tmp_path / 'hr' / 'a.png', hr)
  _write(tmp_path / 'lr' / 'a.png', hr[::4, ::4])
  _write(tmp_path / 'out' / 'a.png', 255 - hr)
  spec = f'taught:{tmp_path}/hr,{tmp_path}/lr,{tmp_path}/out'
  pack.pack(spec, tmp_path / 'packed')
  source = sources.from_spec(f'array_record:{tmp_path}/packed')
  assert source.keys == ('hr', 'lr', 'taught')
  record = records.photo_record(24)(source[0], np.random.default_rng(3))
  np.testing.assert_array_equal(record['taught'], 255 - record['hr'])
  np.testing.assert_array_equal(record['lr'].shape, (6, 6, 3))

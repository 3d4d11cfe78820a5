"""What is kept of a case for the page: names of files, the very pixels, figures, and reading it back."""

import io
import json
import types

import numpy as np
from PIL import Image
import pytest

from ssr_jax.evaluation.report import figures, views
from ssr_jax.systems.base import Output
from ssr_jax.types import SSRError
from tests.evaluation import report_cases

DEPTH, KERNELS = Output('depth', 'depth', 'depth'), Output('kernels', 'kernels', 'kernels')


def _pixels(case, label):
  (view,) = [view for view in case.views if view.label == label]
  return np.asarray(Image.open(case.folder / view.file).convert('RGB'))


def _case(H, W, kernels=None):
  rng = np.random.default_rng(0)
  hr, lr = (rng.integers(0, 256, (H // s, W // s, 3), np.uint8) for s in (1, 4))
  return types.SimpleNamespace(image='a.png', recipe='smooth/no_noise', hr=hr, lr=lr, kernels=kernels)


def test_file_names_are_plain_unlike_each_other_and_short():
  same = ('é 1.tar.png', 'paired')
  assert views.file_names([('astronaut.png', 'smooth/no_noise'), same, same, ('é_1.tar_paired.png', '2'), same]) == [
    'astronaut_smooth_no_noise',
    'é_1.tar_paired',
    'é_1.tar_paired_2',
    'é_1.tar_paired_2_2',
    'é_1.tar_paired_3',
  ]
  assert views.file_names([('../a/..\\"\'<b>\n\udcff$(x).png', 'x/../y')]) == ['..____b_____x__x_.._y']
  assert len(views.file_names([('😀é漢' * 300 + '.png', 'r' * 300)])[0].encode()) < 250


def test_without_an_hr_image_there_is_no_view_of_it(tmp_path):
  case = _case(32, 48)
  images = {'m': case.hr}
  case.hr = None
  written = views.write(tmp_path / 'x', case, images, {})
  assert [view.label for view in written.views] == ['LR', 'm'] and written.size == (32, 48)


def test_files_hold_the_very_pixels_and_are_read_back(tmp_path):
  case = _case(32, 48)
  images = {'bicubic': case.hr // 2, 'a/b "c"': 255 - case.hr}
  written = views.write(tmp_path / 'x', case, images, {}, rows=['row'])
  assert [view.label for view in written.views] == ['LR', 'bicubic', 'a/b "c"', 'HR']
  assert [view.kind for view in written.views] == ['lr', 'image', 'image', 'image']
  for label, expected in {'LR': case.lr, **images, 'HR': case.hr}.items():
    np.testing.assert_array_equal(_pixels(written, label), expected)
  assert sorted(path.name for path in (tmp_path / 'x').iterdir()) == [
    *(view.file for view in written.views),
    'views.json',
  ]
  assert views.read(tmp_path / 'x', ['row']) == written and written.size == written.shown == (32, 48)


def test_of_a_large_image_the_middle_is_shown(tmp_path, monkeypatch):
  monkeypatch.setattr(views, 'SIDE', 32)
  kernels = report_cases.kernels(11, 8)
  case = _case(44, 32, kernels)
  depth = np.linspace(0, 1, 44 * 32, dtype=np.float32).reshape(44, 32, 1)
  written = views.write(tmp_path / 'x', case, {'m': case.hr}, {'m': [(DEPTH, depth), (KERNELS, kernels)]})
  assert written.size == (44, 32) and written.shown == (32, 32)
  np.testing.assert_array_equal(_pixels(written, 'LR'), case.lr[1:9])
  np.testing.assert_array_equal(_pixels(written, 'm'), case.hr[4:36])
  np.testing.assert_array_equal(_pixels(written, 'depth'), figures.colour_map(depth[4:36, :, 0]))
  np.testing.assert_array_equal(_pixels(written, 'true kernels'), figures.kernel_field(kernels[1:9], (32, 32))[0])


def test_figures_share_a_scale_and_name_the_models_only_where_they_differ(tmp_path):
  true = report_cases.kernels(8, 12)  # variance 1 to 5 px^2
  narrow = true[:, :4].repeat(3, 1)
  depth = np.full((32, 48, 1), 0.25, np.float32)
  found = {
    'bicubic': [],
    'a': [(DEPTH, depth), (KERNELS, true)],
    'b': [(DEPTH, depth.copy()), (KERNELS, narrow)],
  }
  case = _case(32, 48, true)
  written = views.write(tmp_path / 'x', case, {'a': case.hr, 'b': case.hr}, found)
  shown = [view for view in written.views if view.kind == 'figure']
  assert [view.label for view in shown] == ['depth', 'kernels, a', 'kernels, b', 'true kernels']
  assert shown[0].caption == 'bright is near' and {view.caption for view in shown[1:]} == {'variance 1.0-5.0 px²'}
  np.testing.assert_array_equal(_pixels(written, 'kernels, a'), _pixels(written, 'true kernels'))
  narrow_alone, _ = figures.kernel_field(narrow, (32, 48))
  assert np.abs(narrow_alone.astype(int) - _pixels(written, 'kernels, b')).max() > 50  # its own scale is another one


def test_damaged_files_are_one_clear_line(tmp_path):
  case = _case(32, 48)
  written = views.write(tmp_path / 'x', case, {'m': case.hr}, {})
  index = json.loads((written.folder / 'views.json').read_text())
  index['views'][0]['file'] = '../../secret'
  for content in (b'{', b'[]', b'{"views": []}', json.dumps(index).encode()):
    (written.folder / 'views.json').write_bytes(content)
    with pytest.raises(SSRError, match=r'views.json: cannot be read .* evaluate again'):
      views.read(written.folder)
  (tmp_path / 'file').touch()
  with pytest.raises(SSRError, match='file: cannot be made'):
    views.write(tmp_path / 'file', case, {'m': case.hr}, {})


def test_lossless_is_lossless():
  picture = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
  np.testing.assert_array_equal(
    np.asarray(Image.open(io.BytesIO(views.lossless(picture[::2, ::-1])))), picture[::2, ::-1]
  )

"""tools/crops.py: which window it shows, which images belong together, and what it says when they do not."""

import numpy as np
from PIL import Image
import pytest

from tools import crops

_MARGIN = 8


def test_the_window_is_the_one_with_the_most_edges():
  image = np.full((96, 128, 3), 100, np.uint8)
  image[50:78, 70:98] = np.random.default_rng(0).integers(0, 256, (28, 28, 3))
  assert crops.window(image, 32) == (48, 64)
  assert crops.window(image, 500) == (0, 0)


def test_rows_show_the_same_window_of_every_column():
  image = np.arange(20 * 20 * 3, dtype=np.uint16).reshape(20, 20, 3).astype(np.uint8)
  columns = {'a': image, 'b': 255 - image}
  sheet = np.asarray(crops.row('name', columns, (4, 6), 8, 3))
  panels = [sheet[-_MARGIN - 24 : -_MARGIN, x : x + 24] for x in (_MARGIN, 2 * _MARGIN + 96)]
  np.testing.assert_array_equal(panels[0][::3, ::3], image[4:12, 6:14])
  np.testing.assert_array_equal(panels[1][::3, ::3], 255 - image[4:12, 6:14])
  np.testing.assert_array_equal(panels[0][1::3, 2::3], image[4:12, 6:14])


@pytest.fixture
def folders(tmp_path):
  draw = np.random.default_rng(1)
  for folder, side in (('lr', 16), ('hr', 64), ('peer', 64)):
    (tmp_path / folder).mkdir()
    for name in ('one', 'two') if folder != 'peer' else ('two',):
      Image.fromarray(draw.integers(0, 256, (side, side, 3), np.uint8)).save(tmp_path / folder / f'{name}.png')
  return tmp_path


@pytest.mark.slow
def test_a_sheet_has_all_columns_and_an_empty_cell_where_a_peer_lacks_the_image(folders, tiny_model_dir, capsys):
  command = [str(folders / 'lr'), '--truth', str(folders / 'hr'), '--peer', f'other:{folders / "peer"}']
  command += ['--model', str(tiny_model_dir), '--size', '64', '--zoom', '2', '--output', str(folders / 'out')]
  assert crops.main(command) == 0
  path = folders / 'out' / 'crops-1.png'
  assert capsys.readouterr().out.split() == [str(path)]
  sheet = np.asarray(Image.open(path))
  height, width = sheet.shape[0] // 2, 128 + _MARGIN
  cell = lambda row, column: sheet[
    (row + 1) * height - _MARGIN - 128 : (row + 1) * height - _MARGIN, _MARGIN + column * width :
  ][:, :128]
  assert sheet.shape[1] == 5 * width + _MARGIN  # bicubic, restored, result, other, truth
  truth = [np.asarray(Image.open(folders / 'hr' / f'{name}.png')) for name in ('one', 'two')]
  other = np.asarray(Image.open(folders / 'peer' / 'two.png'))
  for row in range(2):
    np.testing.assert_array_equal(cell(row, 4)[::2, ::2], truth[row])
  assert (cell(0, 3) == 255).all()
  np.testing.assert_array_equal(cell(1, 3)[::2, ::2], other)

  assert crops.main([*command, '--shared']) == 0
  assert np.asarray(Image.open(path)).shape[0] == height


@pytest.mark.slow
def test_errors_name_what_is_wrong(folders, tiny_model_dir, capsys):
  base = ['--model', str(tiny_model_dir), '--output', str(folders / 'out')]
  for arguments, words in (
    ([str(folders / 'none')], 'not a folder'),
    ([str(folders / 'lr'), '--peer', 'nameless'], 'NAME:DIR'),
    ([str(folders / 'lr'), '--truth', str(folders / 'lr')], 'one.png: 16x16 pixels'),
  ):
    assert crops.main([*arguments, *base]) == 1
    assert words in capsys.readouterr().err
  assert not (folders / 'out').exists()

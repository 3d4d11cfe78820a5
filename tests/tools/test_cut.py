"""tools/cut.py: which photos the crops are of, that they are cut where training would, and that a run goes on."""

import numpy as np
from PIL import Image
import pytest

from tools import cut


@pytest.fixture
def photos(tmp_path):
  """Six photos, each with a red of its own; green is flat on the left and has detail on the right."""
  (tmp_path / 'photos').mkdir()
  rng = np.random.default_rng(0)
  for i in range(6):
    photo = np.full((40, 120, 3), 40 * i, np.uint8)
    photo[:, 60:, 1] = rng.integers(0, 256, (40, 60))
    Image.fromarray(photo).save(tmp_path / 'photos' / f'{i}.png')
  return tmp_path / 'photos'


def _cut(photos, output, *options):
  assert cut.main([f'folder:{photos}', '-o', str(output), '--size', '16', '--holdout', '3', *options]) == 0
  return {path.name: np.asarray(Image.open(path)) for path in sorted(output.iterdir())}


def test_every_third_crop_is_of_a_held_out_photo_and_no_other(photos, tmp_path):
  crops = _cut(photos, tmp_path / 'hr', '--count', '24')
  reds = np.array([crop[0, 0, 0] // 40 for crop in crops.values()])
  held = np.arange(24) % 3 == 2
  assert {crop.shape for crop in crops.values()} == {(16, 16, 3)}
  assert set(reds[held]) == {2, 5} and set(reds[~held]) == {0, 1, 3, 4}


def test_the_most_detailed_of_several_places_is_cut(photos, tmp_path):
  flat = [
    np.mean(
      [crop[..., 1].std() < 1 for crop in _cut(photos, tmp_path / places, '--count', '30', '--places', places).values()]
    )
    for places in ('1', '4')
  ]
  assert flat[1] < 0.1 < flat[0]


def test_a_run_goes_on_and_comes_to_the_same(photos, tmp_path, capsys):
  whole = _cut(photos, tmp_path / 'a', '--count', '8')
  again = _cut(photos, tmp_path / 'b', '--count', '5')
  (tmp_path / 'b' / '00002.png').unlink()
  again = _cut(photos, tmp_path / 'b', '--count', '8')
  assert '4 crops are new' in capsys.readouterr().out
  assert whole.keys() == again.keys() and all(np.array_equal(whole[name], again[name]) for name in whole)


def test_what_cannot_be_cut_is_one_line(photos, tmp_path, capsys):
  assert cut.main([f'folder:{photos}', '-o', str(tmp_path / 'c'), '--count', '1', '--holdout', '9']) == 1
  assert 'cut: --holdout 9: there are only 6 photos' in capsys.readouterr().err

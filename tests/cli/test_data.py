"""`ssr data`: exit codes, and one line for whatever is wrong."""

import numpy as np
from PIL import Image
import pytest

from ssr_jax import cli


@pytest.fixture
def photos(tmp_path):
  place = tmp_path / 'photos'
  place.mkdir()
  for i in range(4):
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 40, 3), np.uint8)).save(place / f'{i}.png')
  return place


def test_check_is_0_for_clean_images_and_1_with_a_line_for_each_problem(photos, capsys):
  assert cli.main(['data', 'check', f'folder:{photos}']) == 0
  assert '4 records, 4 readable, 0 problems; heights 32 to 32, widths 40 to 40' in capsys.readouterr().out
  data = (photos / '0.png').read_bytes()
  (photos / 'cut.png').write_bytes(data[:-900])
  (photos / 'twin.png').write_bytes(data)
  assert cli.main(['data', 'check', f'folder:{photos}', '--min-side', '33', '--workers', '2']) == 1
  out, err = capsys.readouterr()
  assert '6 records, 5 readable, 7 problems' in out
  lines = err.splitlines()
  assert len(lines) == 7 and all(line.startswith(f'ssr: {photos}') for line in lines)
  assert 'cut.png: cannot be read' in err and f'twin.png: the same pixels as {photos}/0.png' in err


def test_check_of_a_known_set_names_what_is_missing(photos, tmp_path, capsys):
  photos.rename(tmp_path / 'set5')
  assert cli.main(['data', 'check', 'set5', '--root', str(tmp_path)]) == 1
  out, err = capsys.readouterr()
  assert 'set5: 4 found, 5 expected' in err and '4 readable' in out
  Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / 'set5' / '4.png')
  assert cli.main(['data', 'check', 'set5', '--root', str(tmp_path)]) == 0
  assert cli.main(['data', 'check', 'flickr2k', '--root', str(tmp_path)]) == 1
  assert 'get it from https://' in capsys.readouterr().err


def test_list_shows_every_set_and_its_state(photos, tmp_path, capsys):
  photos.rename(tmp_path / 'Set5')
  assert cli.main(['data', 'list', '--root', str(tmp_path)]) == 0
  out = capsys.readouterr().out
  assert 'div2k-train            800  absent' in out and 'set5                     5  4, incomplete' in out
  assert 'licence: academic research only' in out


def test_pack_says_how_to_read_it_and_what_was_left_out(photos, tmp_path, capsys):
  arguments = ['data', 'pack', f'folder:{photos}', str(tmp_path / 'out'), '--shard-records', '3', '--quiet']
  assert cli.main(arguments) == 0
  out = capsys.readouterr().out
  assert '4 records' in out and '2 shards' in out
  assert f"read it as 'array_record:{tmp_path}/out/images.array_record-*'" in out
  assert cli.main(['data', 'check', f'array_record:{tmp_path}/out']) == 0
  assert cli.main(arguments) == 0 and '2 of them from an earlier run' in capsys.readouterr().out
  (photos / 'bad.png').write_bytes(b'no image')
  assert cli.main(['data', 'pack', f'folder:{photos}', str(tmp_path / 'tfds'), '--tfds', 'mine']) == 1
  out, err = capsys.readouterr()
  assert f'left out {photos}/bad.png: cannot be read' in err
  assert f"read it as 'tfds:mine:train' with TFDS_DATA_DIR={tmp_path}/tfds" in out


@pytest.mark.parametrize(
  'arguments,message',
  [
    (['check', '{photos}'], "to check a folder, write 'folder:"),
    (['check', 'imagenet'], 'known: div2k-train'),
    (['check', 'folder:/does/not/exist'], 'not a folder'),
    (['check', 'folder:{photos}', '--workers', '0'], '1 or more'),
    (['pack', 'folder:{photos}', '{photos}/0.png'], 'cannot be written'),
    (['pack', 'folder:{photos}', '{photos}/out', '--tfds', 'A B'], 'a-z'),
    (['pack', 'folder:{photos}', '{photos}/out', '--shard-records', '0'], '1 or more'),
  ],
)
def test_wrong_usage_is_one_line_and_2(photos, capsys, arguments, message):
  assert cli.main(['data', *(a.format(photos=photos) for a in arguments)]) == 2
  err = capsys.readouterr().err
  assert message in err and len(err.splitlines()) == 1

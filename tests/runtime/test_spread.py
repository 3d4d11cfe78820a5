"""Tiles and images on eight virtual devices: the results of one device to the bit, and all devices have their part."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from ssr_jax.runtime import spread

ROOT = pathlib.Path(__file__).resolve().parents[2]
EIGHT = [[i] for i in range(8)]


def _on_devices(*arguments):
  """What on_devices.py found, in a process that has eight devices."""
  command = [sys.executable, str(pathlib.Path(__file__).with_name('on_devices.py')), *map(str, arguments)]
  done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope='module')
def found(tiny_model_dir, tmp_path_factory):
  return _on_devices(tiny_model_dir, tmp_path_factory.mktemp('devices'))


@pytest.mark.slow
def test_load_takes_all_devices_or_as_many_as_are_named(found):
  assert found['loaded']['counts'] == {'None': 8, '1': 0, '3': 3, 'named': 0}
  more, none, half, other = found['loaded']['errors']
  assert more == 'devices 9: must be from 1 to 8, the devices that this process has'
  assert 'devices 0: must be from 1 to 8' in none and half == "devices '2': must be a whole number"
  assert other == 'devices is 2, but the model was loaded on 3; load it with that many'


@pytest.mark.slow
def test_an_image_in_tiles_is_that_of_one_device(found):
  """Also its bands, and with a look at all of it before; groups of tiles go on in the next row."""
  found = found['tiles']
  assert found['same'] and found['varied']
  passes = 3 + 2 + 2  # with keep_defocus, in bands, without
  assert found['groups'] == [EIGHT, EIGHT] * passes
  # The view, the kernels' and the last pass's outputs, with and without kernels: each compiled once.
  assert found['traces'] == {'restore': 4, 'prepare': 1, 'advance': 1}


@pytest.mark.slow
def test_a_batch_is_spread_and_its_last_group_padded(found):
  """Eleven images with seeds of their own: eight, and three with five that are dropped, by one program."""
  found = found['batch']
  assert found['same'] and found['varied']
  assert found['groups'] == [EIGHT, EIGHT[:3]] and found['traces'] == {'restore': 1}


@pytest.mark.slow
def test_images_of_a_size_class_run_together(found):
  """Whatever is asked for between them; what is wrong or larger or has given kernels disturbs none."""
  found = found['together']
  assert found['same'] and found['varied']
  assert sorted(map(len, found['groups'])) == [1, 1, 4, 4, 5]
  assert found['groups'][0] == EIGHT[:5]  # the four, and the last, whose scale is another


@pytest.mark.slow
def test_a_folder_of_mixed_sizes_has_the_files_of_one_device(found):
  found = found['files']
  assert found['same'] and found['codes'] == [1, 1, 1]
  assert found['says'].count('3b.png') == 3 and found['says'].count('9 done, 0 skipped, 1 failed') == 3
  # Four images of two classes; then a large one, twice; three; the transparency of one; ten frames.
  assert found['groups'] == [EIGHT[:n] for n in (3, 1, 8, 8, 3, 1, 8, 2)]
  assert found['fewer'] == [EIGHT[:n] for n in (2, 1, 1, *(3, 3, 2) * 2, 3, 1, 3, 3, 3, 1)]


@pytest.mark.slow
def test_too_little_memory_for_a_group_makes_tiles_smaller_once(found):
  found = found['memory']
  assert found['asked'] == [3] and found['same'] == [True] * 3 and found['tile'] == 128
  assert all(note == ['tiles of 128 pixels, for lack of memory; --tile chooses'] for note in found['notes'])


@pytest.mark.slow
def test_an_evaluation_has_the_rows_of_one_device(found):
  found = found['evaluated']
  assert found['same'] and found['positive'] and not found['none']
  assert (found['rows'], found['failures'], found['pictures']) == (8 * 7, 1, 3)
  one, many = found['says']
  assert many == f'{one}, on 8 devices'
  # The three to be shown, of two classes; one more; the large one in two tiles; the last three. For each seed the
  # result, estimates, and two images with what deviates from them.
  groups = [len(group) for group in found['groups']]
  assert all(group == EIGHT[: len(group)] for group in found['groups'])
  assert groups[:16] == [2, 1] * 8 and groups[-8:] == [3] * 8 and set(groups) == {1, 2, 3}


@pytest.mark.slow
def test_a_whole_model_with_diffusion_is_spread(tiny_model_dir):
  found = _on_devices(tiny_model_dir)
  assert found['same'] and found['varied']
  assert found['groups'] == [EIGHT[:3]] and found['traces'] == {'restore': 1}


def test_one_device_is_no_mesh():
  """This process has one, as most do: nothing is spread."""
  assert spread.local(None) == spread.local(1) == ()


def test_an_error_in_one_tile_is_that_images_alone():
  def wrong():
    raise ValueError('unreadable')

  runs = []
  waiting = spread.Waiting(lambda tiles, plan, kept: runs.append(tiles) or [{'of': tile} for tile in tiles], 4)
  tiles = {i: spread.Tile(i, None, None) for i in range(6)}
  found = [waiting.add(lambda i=i: tiles[i], 'a', 'plan', ()) for i in range(5)]
  found.insert(1, waiting.add(wrong, 'b', 'plan', ()))
  broken = waiting.add(wrong, 'a', 'plan', ())
  assert not runs and found[0]()['of'] is tiles[0] and found[0]()['of'] is tiles[0]
  with pytest.raises(ValueError, match='unreadable'):
    found[1]()
  assert [one()['of'] for one in found[2:]] == [tiles[i] for i in range(1, 5)]
  with pytest.raises(ValueError, match='unreadable'):
    broken()
  assert runs == [[tiles[0], tiles[1], tiles[2], tiles[3]], [tiles[4]]]


def test_an_error_of_the_program_is_that_of_all_that_ran_and_ctrl_c_ends_the_call():
  for error, kind in ((RuntimeError('full'), RuntimeError), (KeyboardInterrupt(), KeyboardInterrupt)):

    def run(tiles, plan, kept, error=error):
      raise error

    waiting = spread.Waiting(run, 2)
    first, second = (waiting.add(lambda: spread.Tile(0, None, None), 'a', 'plan', ()) for _ in range(2))
    for one in (first, second):
      with pytest.raises(kind):
        one()


def test_groups_take_no_more_than_they_give():
  taken = []
  coming = spread.groups((taken.append(i) or i for i in range(5)), 2)
  assert next(coming) == [0, 1] and taken == [0, 1]
  assert list(coming) == [[2, 3], [4]]

"""Records and loader: a record's bytes depend on (source, seed, index) alone, and bad records are few or an error."""

import collections
import hashlib
import io
import json
import multiprocessing

import grain
import numpy as np
from PIL import Image
import pytest

from ssr_jax.data import loader, records, sources
from ssr_jax.types import SSRError


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Six images of 40 x 50, made by arithmetic: their bytes are the same everywhere."""
  place = tmp_path_factory.mktemp('images')
  y, x = np.mgrid[:40, :50]
  for i in range(6):
    path = place / ('sub' if i % 2 else '.') / f'{i}.png'
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.stack([y * 3 + i, x * 5 - i, x * y + 7 * i], -1).astype(np.uint8)).save(path)
  return place


def _data(place, batch=4, seed=3, patch=16, spec='folder:{}', **options):
  source = sources.from_spec(spec.format(place))
  return loader.dataset(source, records.photo_record(patch), batch, seed, **options)


def _same(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name])


def _take(data, count, start=0, **options):
  iterator = loader.batches(data, start, **options)
  try:
    return [{name: np.array(value) for name, value in next(iterator).items()} for _ in range(count)]
  finally:
    iterator.close()


# ---- the same bytes --------------------------------------------------------------------------------------------------


def test_records_are_those_of_earlier_versions(folder):
  """Checkpoints resume by the number of their next batch: what it holds must not change. Taken from version 0.1.0."""
  digest = hashlib.sha256()
  data = _data(folder)
  for i in range(5):
    digest.update(data[i]['hr'].tobytes() + data[i]['seed'].tobytes())
  assert digest.hexdigest() == '65cc1116e2205be3682171169e60885697afe8def74a493078da07058fd40de9'


def test_a_batch_says_which_records_it_came_from(folder):
  data = _data(folder)
  for batch in (data[i] for i in range(3)):
    for index, patch in zip(batch['record'], batch['hr'], strict=True):
      photo = data.source[int(index)]['hr']
      windows = np.lib.stride_tricks.sliding_window_view(photo, patch.shape).reshape(-1, *patch.shape)
      turned = [np.rot90(p, -k) for p in (patch, patch[:, ::-1]) for k in range(4)]
      assert any((windows == t).all((1, 2, 3)).any() for t in turned)


def test_threads_and_the_place_of_the_start_do_not_matter(folder):
  data = _data(folder)
  first = _take(data, 6, threads=1)
  for i, batch in enumerate(first):
    _same(batch, data[i])
  for expected, got in zip(first[4:], _take(_data(folder), 2, start=4, threads=4), strict=True):
    _same(expected, got)
  assert not np.array_equal(first[0]['seed'], first[3]['seed'])


def _mixture_with_a_damaged_file(folder, place):
  for file in folder.rglob('*.png'):
    (place / file.name).write_bytes(file.read_bytes())
  (place / 'damaged.png').write_bytes(b'no image')
  return _data(None, spec=f'0.4*folder:{folder};0.6*folder:{place}', max_bad_records=3)


@pytest.mark.slow
def test_four_worker_processes_give_the_same_bytes_and_the_same_bad_records(folder, tmp_path):
  data = _mixture_with_a_damaged_file(folder, tmp_path)
  alone, four = loader.batches(data), loader.batches(data, workers=4)
  for _ in range(9):
    _same(next(alone), next(four))
    assert alone.get_state() == four.get_state()
  assert len(four.bad_records) == 1
  four.close()


@pytest.mark.slow
def test_a_worker_process_goes_on_after_a_restore_in_the_middle_of_an_epoch(folder, tmp_path, caplog):
  data = _mixture_with_a_damaged_file(folder, tmp_path)
  alone = loader.batches(data)
  expected = [next(alone) for _ in range(9)]
  iterator = loader.batches(data, workers=1)
  for batch in expected[:3]:
    _same(batch, next(iterator))
  state = json.loads(json.dumps(iterator.get_state()))
  _same(expected[3], next(iterator))
  iterator.set_state(state)
  for batch in expected[3:]:
    _same(batch, next(iterator))
  assert iterator.get_state() == alone.get_state()
  assert len(iterator.bad_records) == 1 and 'damaged.png' in iterator.bad_records[0]
  assert caplog.text.count('damaged.png') == 2  # each of the two iterators says it once
  iterator.close()
  with pytest.raises(ValueError, match='closed'):
    next(iterator)


def test_two_processes_read_the_batch_of_one(folder):
  """Each its half, in the order in which jax.make_array_from_process_local_data puts the halves together."""
  whole = _take(_data(folder, batch=6), 4)
  halves = [_take(_data(folder, batch=6, process_index=p, process_count=2), 4) for p in range(2)]
  for step, batch in enumerate(whole):
    for name in batch:
      np.testing.assert_array_equal(batch[name], np.concatenate([half[step][name] for half in halves]))
  with pytest.raises(SSRError, match='train.batch_size=6 is not a multiple of the 4 processes'):
    _data(folder, batch=6, process_count=4)


def test_state_serves_another_number_of_processes(folder):
  """A run on two hosts, restored on one."""
  iterator = loader.batches(_data(folder, process_index=1, process_count=2))
  for _ in range(5):
    next(iterator)
  other = loader.batches(_data(folder), threads=1)
  other.set_state(iterator.get_state())
  _same(next(other), _data(folder)[5])


def test_orbax_saves_and_restores_the_iterator(folder, tmp_path):
  import orbax.checkpoint as ocp

  iterator = loader.batches(_data(folder))
  for _ in range(3):
    next(iterator)
  with ocp.CheckpointManager(tmp_path / 'c') as manager:
    manager.save(3, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
    expected = next(iterator)
    manager.wait_until_finished()
    again = loader.batches(_data(folder))
    manager.restore(3, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(again)))
  _same(next(again), expected)


def test_every_record_comes_once_an_epoch_in_a_new_order(folder):
  source = sources.from_spec(f'folder:{folder}')
  seen = []
  data = loader.dataset(source, lambda record, rng: {'sum': record['hr'].astype(np.int64).sum()}, 3, 0)
  for i in range(8):
    seen += list(data[i]['sum'])
  epochs = [seen[k : k + 6] for k in range(0, 24, 6)]
  assert all(sorted(e) == sorted(epochs[0]) and len(set(e)) == 6 for e in epochs)
  assert len({tuple(e) for e in epochs}) > 1


# ---- mixing ----------------------------------------------------------------------------------------------------------


def test_weights_are_kept_exactly_and_each_part_runs_through_epochs_of_its_own(folder, tmp_path):
  sizes = (3, 5, 8)
  for k, size in enumerate(sizes):
    for i in range(size):
      path = tmp_path / str(k) / f'{i}.png'
      path.parent.mkdir(exist_ok=True)
      Image.fromarray(np.full((8, 8, 3), 10 * k + i, np.uint8)).save(path)
  spec = ';'.join(f'{w}*folder:{tmp_path / str(k)}' for k, w in enumerate((0.2, 0.5, 0.3)))
  data = loader.dataset(sources.from_spec(spec), lambda record, rng: {'value': record['hr'][0, 0, 0]}, 10, seed=0)
  values = np.concatenate([data[i]['value'] for i in range(40)])
  for n in range(1, 401):  # at every moment, not just in the mean
    shares = np.bincount(values[:n] // 10, minlength=3)
    np.testing.assert_allclose(shares, np.multiply((0.2, 0.5, 0.3), n), atol=1.5)
  assert list(np.bincount(values // 10)) == [80, 200, 120]
  for k, size in enumerate(sizes):
    of_part = values[values // 10 == k]
    for start in range(0, len(of_part) - size + 1, size):
      assert len(set(of_part[start : start + size])) == size  # an epoch of this part


def test_a_weighted_part_without_records_is_an_error(folder):
  whole = sources.from_spec(f'0.5*folder:{folder};0.5*folder:{folder / "sub"}')
  held = sources.Subset(whole, range(6))
  with pytest.raises(SSRError, match='data.holdout'):
    loader.dataset(held, records.photo_record(16), 2, 0)[0]


def test_scenes_draw_their_photos_by_weight(folder, monkeypatch):
  """600 draws at 0.9: the share of the light part lies within 5 sigma of 0.1."""
  drawn = []
  monkeypatch.setattr(
    records.scenes,
    'render_scene',
    lambda rng, textures, h, w: (
      drawn.extend(texture[0, 0, 2] // 7 for texture in textures) or (np.zeros((h, w, 3)), np.zeros((h, w)))
    ),
  )
  photos = sources.from_spec(f'0.1*folder:{folder / "sub"};0.9*folder:{folder}')  # sub holds 1, 3, 5
  photos = sources.Subset(photos, [0, 1, 2, 3, 4, 5])  # of the second part 0, 2, 4: its first by path
  data = loader.dataset(range(100), records.scene_record(photos, 16, 16), 100, 0)
  data[0]
  share = np.isin(drawn, [1, 3, 5]).mean()
  assert len(drawn) == 600 and abs(share - 0.1) < 5 * (0.1 * 0.9 / 600) ** 0.5


# ---- bad records -----------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(folder, tmp_path):
  """The six images, a cut JPEG and one that is too small."""
  for file in folder.rglob('*.png'):
    (tmp_path / file.name).write_bytes(file.read_bytes())
  buffer = io.BytesIO()
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, 'JPEG')
  (tmp_path / 'cut.jpg').write_bytes(buffer.getvalue()[:-800])
  Image.fromarray(np.zeros((8, 90, 3), np.uint8)).save(tmp_path / 'small.png')
  return tmp_path


def test_bad_records_are_replaced_and_counted_once(damaged, caplog):
  iterator = loader.batches(_data(damaged, max_bad_records=2))
  shown = [next(iterator) for _ in range(8)]  # four epochs
  assert all(batch['hr'].shape == (4, 16, 16, 3) for batch in shown)
  assert set(iterator.get_state()) == {'next_batch', 'bad_records'}
  lines = sorted(iterator.bad_records)
  assert len(lines) == 2 and 'cut.jpg: cannot be read' in lines[0] and 'small.png: a training image is 8x90' in lines[1]
  assert caplog.text.count('cut.jpg') == caplog.text.count('small.png') == 1
  seeds = np.concatenate([batch['seed'] for batch in shown])
  assert len(set(seeds)) == 32  # a replacement is a draw of its own


@pytest.mark.parametrize('limit', [0, 1])
def test_too_many_bad_records_are_an_error_that_names_them(damaged, limit):
  iterator = loader.batches(_data(damaged, max_bad_records=limit))
  with pytest.raises(SSRError) as caught:
    for _ in range(8):
      next(iterator)
  names = [name for name in ('cut.jpg', 'small.png') if name in str(caught.value)]
  assert len(names) == limit + 1 and '\n' not in str(caught.value)
  assert limit == 0 or 'data.max_bad_records=1' in str(caught.value)


def test_the_count_goes_on_after_a_restore(damaged):
  iterator = loader.batches(_data(damaged, max_bad_records=1))
  state = {'next_batch': 0, 'bad_records': ['elsewhere.png: damaged']}
  iterator.set_state(state)
  with pytest.raises(SSRError, match='elsewhere.png: damaged; '):
    for _ in range(8):
      next(iterator)


def test_an_error_in_a_worker_is_the_same_error(damaged):
  iterator = loader.batches(_data(damaged, max_bad_records=0), workers=1)
  with pytest.raises(SSRError, match='cut.jpg|small.png'):
    for _ in range(8):
      next(iterator)
  iterator.close()


def test_a_killed_worker_is_one_line(folder):
  iterator = loader.batches(_data(folder), workers=1)
  next(iterator)
  for child in multiprocessing.active_children():
    child.kill()
  with pytest.raises(SSRError, match='lower data.workers'):
    for _ in range(20):  # what it had read ahead comes first
      next(iterator)
  iterator.close()


def test_nothing_usable_ends(tmp_path):
  for k in range(3):
    (tmp_path / f'{k}.png').write_bytes(b'no image')
  with pytest.raises(SSRError, match='no record can be used: .*2.png'):
    _data(tmp_path, max_bad_records=10)[0]


def test_scenes_survive_a_bad_photo(damaged):
  photos = sources.from_spec(f'folder:{damaged}')
  data = loader.dataset(range(16), records.scene_record(photos, 16, 16), 2, 0, max_bad_records=5)
  iterator = loader.batches(data)
  shapes = collections.Counter(next(iterator)['depth'].shape for _ in range(4))
  assert shapes == {(2, 16, 16): 4} and any('cut.jpg' in line for line in iterator.bad_records)


def test_scenes_come_in_the_share_asked_for_and_only_they_have_depth(folder):
  source = sources.from_spec(f'folder:{folder}')
  scene = lambda unused, rng: {
    'hr': np.full((16, 16, 3), 7, np.uint8),
    'depth': np.ones((16, 16), np.float32),
    'seed': np.uint32(0),
  }
  data = loader.dataset(source, records.partly(0.3, scene, 16), 100, seed=1)
  batches = [data[i] for i in range(6)]
  known = np.concatenate([batch['has_depth'] for batch in batches])
  depth = np.concatenate([batch['depth'] for batch in batches])
  assert abs(known.mean() - 0.3) < 5 * (0.3 * 0.7 / 600) ** 0.5
  assert (depth[known] == 1).all() and (depth[~known] == 0).all()
  assert (np.concatenate([batch['hr'] for batch in batches])[known] == 7).all()

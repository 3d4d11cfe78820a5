"""One run, one workdir; fields that cannot be used; what a run is not continued with; runs that end in the middle."""

import datetime
import errno
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys

from PIL import Image
import pytest
from skimage import data

from configs import common, tiny
from ssr_jax import systems
from ssr_jax.data import sources
from ssr_jax.training import fields, lock, logging, resume, trainer
from ssr_jax.types import SSRError
from tests.systems.toy import config as toy_config
from tests.systems.toy import network

_HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], 'w')
fcntl.flock(file, fcntl.LOCK_EX)
file.write('process 4711 on elsewhere')
file.flush()
print('held', flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def toy(monkeypatch):
  """The smallest system that trains."""
  monkeypatch.setitem(systems.SYSTEMS, 'toy', 'tests.systems.toy')


@pytest.fixture
def photos(tmp_path):
  (tmp_path / 'photos').mkdir()
  for name in ('astronaut', 'coffee', 'chelsea', 'rocket'):
    Image.fromarray(getattr(data, name)()[:80, :90]).save(tmp_path / 'photos' / f'{name}.png')
  return tmp_path / 'photos'


def _config(photos, **given):
  given = {name.replace('__', '.'): value for name, value in given.items()}
  return common.apply(toy_config.get_config('residual'), {'data.train': f'folder:{photos}', 'data.holdout': 2} | given)


# -- One workdir -------------------------------------------------------------------------------------------------------


def test_a_second_run_names_the_first_and_is_not_blocked_by_its_death(tmp_path):
  """The holder locks with its own call of the kernel, and is killed with SIGKILL."""
  place = tmp_path / 'run'
  place.mkdir()
  holder = subprocess.Popen([sys.executable, '-c', _HOLDER, str(place / 'lock')], stdout=subprocess.PIPE, text=True)
  assert holder.stdout.readline() == 'held\n'
  with pytest.raises(SSRError, match=r'--workdir=.*/run: process 4711 on elsewhere trains there'), lock.held(place):
    pytest.fail('two runs in a workdir')
  holder.kill()
  holder.communicate()
  with lock.held(place):
    holder_words = (place / 'lock').read_text()
    assert holder_words.startswith(f'process {os.getpid()} on ')
    since = datetime.datetime.fromisoformat(holder_words.split(' since ')[1])
    assert 0 <= (datetime.datetime.now(datetime.UTC) - since).total_seconds() < 60
    with pytest.raises(SSRError, match=f'process {os.getpid()} on .* since .* trains there'), lock.held(place):
      pytest.fail('two runs in a workdir')
  with lock.held(place):  # it ends with the block
    pass


def _flock_that_fails(monkeypatch, number):
  def flock(*unused):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(fcntl, 'flock', flock)


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_is_told_and_the_run_goes_on(number, tmp_path, monkeypatch, capsys):
  _flock_that_fails(monkeypatch, number)
  place = tmp_path / 'run'
  said = f'--workdir={place}: cannot be locked ({os.strerror(number)}): nothing keeps a second run out of there'
  with lock.held(place):
    assert capsys.readouterr().err == said + '\n'
  holder = (place / 'lock').read_text()
  assert holder.startswith(f'process {os.getpid()} on ')
  with lock.held(place):
    assert capsys.readouterr().err == f'{said}; see that {holder} has ended\n'


def test_a_lock_that_fails_otherwise_is_refused_with_the_reason(tmp_path, monkeypatch):
  _flock_that_fails(monkeypatch, errno.EIO)
  with (
    pytest.raises(SSRError, match=r'run: its lock cannot be taken \(Input/output error\)'),
    lock.held(tmp_path / 'run'),
  ):
    pytest.fail('not locked')


def test_train_takes_the_lock_before_it_reads_anything(tmp_path, photos):
  with lock.held(tmp_path / 'run'), pytest.raises(SSRError, match='trains there; wait for it, or name another one'):
    trainer.train(_config(tmp_path / 'no photos'), str(tmp_path / 'run'))


def test_a_workdir_that_cannot_be_written_is_one_line(tmp_path, photos, monkeypatch):
  (tmp_path / 'file').write_text('x')
  with pytest.raises(SSRError, match='--workdir=.*file: cannot be written .File exists.; name another one'):
    trainer.train(_config(photos), str(tmp_path / 'file'))
  with pytest.raises(SSRError, match='--workdir=.*file/below: cannot be written'):
    trainer.train(_config(photos), str(tmp_path / 'file' / 'below'))

  def read_only(*unused, **also_unused):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))

  monkeypatch.setattr(lock.os, 'open', read_only)
  with pytest.raises(SSRError, match='cannot be written .Read-only file system.'):
    trainer.train(_config(photos), str(tmp_path / 'run'))


def test_a_full_disk_is_one_line_wherever_it_shows(tmp_path):
  with pytest.raises(SSRError, match='No space left on device: scalars.jsonl; make room'), lock.held(tmp_path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'scalars.jsonl')
  with pytest.raises(FileNotFoundError), lock.held(tmp_path):  # other errors are what they are
    (tmp_path / 'nothing').read_bytes()


@pytest.mark.parametrize('name', [*lock.FILES, *lock.FOLDERS, 'lock'])
def test_what_is_no_file_of_a_run_is_not_waited_for_or_written_to(name, tmp_path):
  """A pipe, and a folder for a file or a file for a folder; `FILES` and `FOLDERS` are all that a run writes, below."""
  other = (lambda path: path.write_text('mine')) if name in lock.FOLDERS else pathlib.Path.mkdir
  for make in (os.mkfifo, other):
    place = tmp_path / make.__name__
    place.mkdir()
    make(place / name)
    with pytest.raises(SSRError, match=rf'({name}: not a|cannot be written).*name another') as caught, lock.held(place):
      pytest.fail('it is used')
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize('line', [b'{}', b'[1]', b'{"step": "x"}', b'\xff\xfe', b'[' * 10**5, b'{"step": 1', b'', b'7'])
def test_a_damaged_line_of_the_scalars_is_dropped(line, tmp_path):
  whole = [b'{"step": 1, "psnr": NaN}', b'{"step": 2, "psnr": 30.5}']
  (tmp_path / 'scalars.jsonl').write_bytes(b'\n'.join([whole[0], line, whole[1], b'{"step": 3}', b'{"st']))
  logging.Scalars(tmp_path, 2).close()
  assert (tmp_path / 'scalars.jsonl').read_bytes().split(b'\n') == [*whole, b'']
  assert not list(tmp_path.glob('.*'))


def test_scalars_are_whole_at_every_moment(tmp_path, monkeypatch):
  """A full disk while they are written anew."""
  (tmp_path / 'scalars.jsonl').write_text('{"step": 1}\n{"step": 9}\n')

  def full(*unused):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(SSRError, match='scalars.jsonl: cannot be written .No space left'):
    logging.Scalars(tmp_path, 1)
  assert (tmp_path / 'scalars.jsonl').read_text() == '{"step": 1}\n{"step": 9}\n'


# -- Fields ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  'field,value',
  [
    ('train.batch_size', 0),
    ('train.batch_size', -4),
    ('train.accumulate', 0),
    ('train.log_every', 0),
    ('train.checkpoint_every', 0),
    ('train.validate_every', -1),
    ('train.figures_every', 0),
    ('train.validation_batches', 0),
    ('train.keep', 0),
    ('train.seed', -1),
    ('train.seed', 2**31),
    ('train.steps', -1),
    ('train.clip', 0.0),
    ('train.ema', 1.5),
    ('train.learning_rate', float('nan')),
    ('train.learning_rate', -1e-3),
    ('profile', (1,)),
    ('profile', (1, 0)),
    ('data.holdout', -1),
    ('data.patch', 0),
    ('data.shrink', (0.5, 0.2)),
    ('data.shrink', (0.5,)),
    ('data.scenes', 1.5),
    ('data.threads', 0),
    ('mesh.fsdp', 0),
    ('distributed.coordinator', 'somewhere'),
    ('distributed.processes', -1),
    ('loss.kernel', float('nan')),
    ('loss.constraints', (0.1, float('inf'), 0.1)),
    ('loss.detail', -1.0),
  ],
)
def test_a_field_that_cannot_be_used_is_named_in_one_line(field, value, tmp_path):
  config = common.apply(tiny.get_config('kernel'), {field: value})
  with pytest.raises(SSRError, match=rf'^config\.{field} is .*: must be ') as caught:
    trainer.train(config, str(tmp_path / 'run'))
  assert len(str(caught.value).splitlines()) == 1 and not (tmp_path / 'run').exists()


def test_the_configs_that_there_are_pass():
  from configs import compact, sd15, sd21

  for module in (tiny, compact, sd15, sd21):
    for stage in systems.get('ssr').stages:
      fields.check(module.get_config(stage))


def test_a_mesh_without_devices_and_flags_without_a_coordinator_are_one_line(tmp_path, photos):
  with pytest.raises(SSRError, match=r"config.mesh is .*'fsdp': 5.*does not divide \d devices; use -1 once"):
    trainer.train(_config(photos, mesh__fsdp=5), str(tmp_path / 'run'))
  with pytest.raises(SSRError, match='config.distributed.index is set, but config.distributed.coordinator'):
    trainer.train(_config(photos, distributed__index=1), str(tmp_path / 'run'))


# -- Going on ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  'field,value',
  [
    ('data.holdout', 7),
    ('data.patch', 32),
    ('data.shrink', (0.5, 1.0)),
    ('data.places', 3),
    ('data.scenes', 0.5),
    ('recipe.field', 'smooth'),
    ('recipe.mode', 'isp'),
    ('train.seed', 1),
    ('train.batch_size', 8),
    ('train.frozen', ('dkenet/a',)),
    ('train.validation_batches', 3),
    ('loss.kernel', 1.0),
    ('svkr.gamma', 0.5),
    ('schedule.prediction', 'v'),
    ('model.dkenet.features', 6),
  ],
)
def test_a_run_is_not_continued_as_another(field, value):
  config = tiny.get_config('kernel')
  before = _json(config)
  assert resume.changes('DIR', before, before) == []
  with pytest.raises(SSRError, match=rf'DIR: .*{field}=.*\(was .*\).*config.init_from=DIR and another --workdir'):
    resume.changes('DIR', before, _json(common.apply(config, {field: value})))


def test_what_may_change_is_said_and_what_changes_nothing_is_not():
  config = tiny.get_config('kernel')
  before = _json(config)
  said = {'train.steps': 9, 'train.learning_rate': 1e-5, 'train.dtype': 'bfloat16', 'data.train': 'folder:moved'}
  free = {'train.log_every': 7, 'data.workers': 2, 'mesh.fsdp': 2, 'eval.seed': 3, 'train.keep': 5, 'debug': True}
  changed = resume.changes('DIR', before, _json(common.apply(config, said | free)))
  assert changed == [
    'data.train=folder:moved (was folder:data/train)',
    'train.dtype=bfloat16 (was float32)',
    f'train.learning_rate=1e-05 (was {before["train"]["learning_rate"]})',
    'train.steps=9 (was 2)',
  ]


def test_a_field_or_section_that_came_is_said_and_one_that_went_is_refused():
  now = _json(tiny.get_config('kernel'))
  came = _json(tiny.get_config('kernel'))
  del came['data']['places'], came['eval'], came['mesh']['fsdp'], came['model']['nbsr']
  came['svkr'] = {}  # an empty section has no fields
  fields_ = [f'{section}.{name}' for section in ('model.nbsr', 'svkr') for name in _at(now, section)]
  assert resume.changes('DIR', came, now) == [
    f'{name}={_at(now, name)} (its checkpoint has no such field)' for name in sorted(['data.places', *fields_])
  ]
  for path in ('data.places', 'recipe.mode', 'recipe', 'model.dkenet', 'model.dkenet.features', 'svkr', 'loss'):
    *parents, last = path.split('.')
    went = _json(tiny.get_config('kernel'))
    del _at(went, '.'.join(parents))[last]
    with pytest.raises(SSRError, match=rf'another config: (no {path}.* \(was .*\)(, )?)+; go on with the old value'):
      resume.changes('DIR', now, went)
  went = _json(tiny.get_config('kernel'))
  del went['eval'], went['mesh'], went['debug'], went['train']['warmup']
  assert resume.changes('DIR', now, went) == [f'no train.warmup (was {now["train"]["warmup"]})']


def _at(tree, path):
  for name in path.split('.') if path else ():
    tree = tree[name]
  return tree


@pytest.mark.slow
def test_what_a_field_that_came_means_is_compared_with_the_modules_default(photos, tmp_path, monkeypatch, capsys):
  class Residual(network.Residual):
    slope: float = 0.0  # no shape depends on it

  monkeypatch.setattr(network, 'Residual', Residual)
  config = _config(photos, train__steps=1, train__batch_size=2)
  assert trainer.train(config, str(tmp_path / 'run')) == 0
  config = _config(photos, train__steps=2, train__batch_size=2)
  config.model.residual.slope = 0.5
  with pytest.raises(SSRError, match=r'run: config.model.residual.slope is 0.5, the weights were trained with 0.0'):
    trainer.train(config, str(tmp_path / 'run'))
  config.model.residual.slope = 0.0
  capsys.readouterr()
  assert trainer.train(config, str(tmp_path / 'run')) == 0
  said = 'goes on with model.residual.slope=0.0 (its checkpoint has no such field), train.steps=2 (was 1)'
  assert said in capsys.readouterr().out


def test_other_photos_and_other_frozen_weights_are_refused_wherever_they_lie(photos, tmp_path):
  mark = lambda: resume.fingerprint(sources.from_spec(f'folder:{photos}', ('hr',)))
  before = {'photos': mark(), 'frozen': {'depth': 'a'}}
  resume.check_content('DIR', {}, before)  # an old checkpoint does not say
  photos = photos.rename(tmp_path / 'moved')
  resume.check_content('DIR', before, before | {'photos': mark()})
  with pytest.raises(SSRError, match='DIR: the weights of parts_from are not those'):
    resume.check_content('DIR', before, before | {'frozen': {'depth': 'b'}})
  with pytest.raises(SSRError, match='DIR: the weights of loss.lpips are not those'):
    resume.check_content('DIR', before | {'learned': {'lpips': 'a'}}, before | {'learned': {'lpips': 'b'}})
  (photos / 'coffee.png').rename(photos / 'a.png')  # the order changes, and so what is held out
  with pytest.raises(SSRError, match='DIR: the photos of data.train are not those'):
    resume.check_content('DIR', before, before | {'photos': mark()})


def _json(config):
  return json.loads(config.to_json_best_effort())


@pytest.mark.slow
def test_ctrl_c_during_a_save_leaves_whole_checkpoints_and_the_run_goes_on(photos, tmp_path, monkeypatch, capsys):
  """Ctrl-C right after a save began; then it is refused with other photos held out, and goes on where it is longer."""
  place = tmp_path / 'run'
  save = trainer.Run.save

  def interrupted(self, *arguments):
    save(self, *arguments)
    os.kill(os.getpid(), signal.SIGINT)

  fields_ = dict(train__steps=3, train__checkpoint_every=2, train__batch_size=2)
  with monkeypatch.context() as patch:
    patch.setattr(trainer.Run, 'save', interrupted)
    with pytest.raises(KeyboardInterrupt):
      trainer.train(_config(photos, **fields_), str(place))
  assert [p.name for p in (place / 'checkpoints').iterdir()] == ['2']
  with pytest.raises(SSRError, match=r'data.holdout=3 \(was 2\)'):
    trainer.train(_config(photos, **fields_, data__holdout=3), str(place))
  (place / 'before.json').write_text('{"psnr": ')  # a damaged one does not stop the run
  capsys.readouterr()
  assert trainer.train(_config(photos, **fields_ | {'train__steps': 4}), str(place)) == 0
  out, err = capsys.readouterr()
  assert 'goes on with train.steps=4 (was 3)' in out and f'{place}/before.json: damaged; not compared with' in err
  assert json.loads((place / 'summary.json').read_text())['before'] is None
  assert {path.name for path in place.iterdir()} == {'lock', *lock.FILES, *lock.FOLDERS}
  assert '"step 2: train.steps=4 (was 3)"' in (place / 'model' / 'model.json').read_text()

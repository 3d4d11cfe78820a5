"""A run that was stopped goes on where it was, whatever stopped it; and never with other settings."""

import json
import math
import pathlib
import signal
import subprocess
import sys

from PIL import Image
import pytest
from skimage import data

from configs import compact
from ssr_jax.cli import evaluate as command
from ssr_jax.evaluation import runner
from ssr_jax.evaluation.ledger import FILE, Ledger
from ssr_jax.evaluation.protocol import Settings
from ssr_jax.types import SSRError

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def pairs(tmp_path):
  """A dataset of four pairs, so that nothing is degraded."""
  hr, lr = tmp_path / 'hr', tmp_path / 'lr'
  hr.mkdir()
  lr.mkdir()
  for i, name in enumerate('abcd'):
    photo = data.astronaut()[40 * i : 40 * i + 48, 150:214]
    Image.fromarray(photo).save(hr / f'{name}.png')
    Image.fromarray(photo[1::4, 1::4]).save(lr / f'{name}.png')
  return f'paired:{hr},{lr}'


def _config(pairs, **fields):
  config = compact.get_config()
  config.eval.update(dict(dataset=pairs, models=('bicubic',), metrics=('psnr', 'ssim'), pictures=3) | fields)
  return config


def _evaluate(pairs, workdir, **fields):
  return runner.evaluate(Settings.from_config(_config(pairs, **fields).eval), workdir)


def _files(workdir):
  """What was written, without the seconds."""
  found = {}
  for path in sorted(workdir.rglob('*')):
    if path.suffix in ('.png', '.md', '.csv'):
      text = path.read_bytes()
      if path.suffix == '.csv':
        text = [line.rpartition(b',')[0] for line in text.splitlines()]
      if path.suffix == '.md':
        text = [[cell for i, cell in enumerate(line.split(b'|')) if i != 5] for line in text.splitlines()]
      found[str(path.relative_to(workdir))] = text
  return found


KILLED = """
import os, signal, sys
from configs import compact
from ssr_jax.cli import evaluate as command
from ssr_jax.evaluation import runner
from ssr_jax.evaluation.protocol import Settings

calls, score = [], runner.score
def deadly(*arguments):
  calls.append(1)
  if len(calls) == 3:
    os.kill(os.getpid(), signal.SIGKILL)
  return score(*arguments)
runner.score = deadly
config = compact.get_config()
config.eval.update(dataset=sys.argv[1], models=('bicubic',), metrics=('psnr', 'ssim'), pictures=3)
runner.evaluate(Settings.from_config(config.eval), sys.argv[2])
"""


def test_killed_in_the_middle_it_writes_the_same_files(pairs, tmp_path, monkeypatch):
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  _evaluate(pairs, whole)
  died = subprocess.run([sys.executable, '-c', KILLED, pairs, str(parts)], cwd=ROOT, capture_output=True, text=True)
  assert died.returncode == -signal.SIGKILL, died.stderr
  lines = (parts / FILE).read_bytes().splitlines()
  assert len(lines) == 1 + 2 and not (parts / 'metrics.csv').exists()
  with open(parts / FILE, 'ab') as file:
    file.write((whole / FILE).read_bytes().splitlines()[3][:30])  # as a kill within a write leaves it

  scored, score = [], runner.score
  monkeypatch.setattr(runner, 'score', lambda s, case, *more: scored.append(case.image) or score(s, case, *more))
  _evaluate(pairs, parts)
  assert scored == ['c.png', 'd.png']
  assert _files(parts) == _files(whole) and len(_files(whole)) == 3 + 2
  assert [json.loads(line).get('case') for line in (parts / FILE).read_text().splitlines()[1:]] == [
    [i, 'paired'] for i in range(4)
  ]
  before = {path: path.read_bytes() for path in parts.rglob('*') if path.is_file()}
  _evaluate(pairs, parts)  # nothing is left to do: the files stay, to the second
  assert len(scored) == 2 and before == {path: path.read_bytes() for path in parts.rglob('*') if path.is_file()}


def test_parts_on_several_hosts_make_the_files_of_one_run(pairs, tmp_path, monkeypatch):
  """Whoever is last writes them; each image is scored once, and a part that was stopped goes on."""
  whole, shared = tmp_path / 'whole', tmp_path / 'shared'
  _evaluate(pairs, whole)
  scored, score = [], runner.score
  monkeypatch.setattr(runner, 'score', lambda s, case, *more: scored.append(case.image) or score(s, case, *more))
  first = _evaluate(pairs, shared, part='0/3')
  assert scored == ['a.png', 'd.png'] and first.lacking == 2
  assert _evaluate(pairs, shared, part='2/3').lacking == 1 and not (shared / 'table.md').exists()
  assert _evaluate(pairs, shared, part='0/3').lacking == 1 and scored == ['a.png', 'd.png', 'c.png']
  with open(shared / 'rows-2-of-3.jsonl', 'ab') as file:
    file.write(b'{"case": [1')  # being written
  last = _evaluate(pairs, shared, part='1/3')
  assert last.lacking == 0 and sorted(scored) == ['a.png', 'b.png', 'c.png', 'd.png']
  names = {name for name in _files(whole) if not name.startswith('pictures/')}
  assert names == {'metrics.csv', 'table.md'}
  assert {name: _files(shared)[name] for name in names} == {name: _files(whole)[name] for name in names}
  assert (shared / 'index.html').exists() and len(list((shared / 'pictures').glob('*.png'))) == 3


def test_what_no_part_has_done_is_done_by_a_run_of_all(pairs, tmp_path):
  broken = pathlib.Path(pairs.partition(':')[2].split(',')[0]) / 'b.png'
  content = broken.read_bytes()
  broken.write_bytes(content[:-200])
  assert _evaluate(pairs, tmp_path / 'run', part='0/2').lacking == 2
  failed = _evaluate(pairs, tmp_path / 'run', part='1/2')
  assert failed.lacking == 0 and len(failed.failures) == 1 and len(failed.rows) == 3
  broken.write_bytes(content)
  assert _evaluate(pairs, tmp_path / 'run', part='0/2').lacking == 1
  report = _evaluate(pairs, tmp_path / 'run')
  assert report.failures == [] and [row['image'] for row in report.rows] == ['a.png', 'b.png', 'c.png', 'd.png']
  with pytest.raises(SSRError, match=r'rows-0-of-2.jsonl: holds rows of other settings \(eval.metrics\)'):
    _evaluate(pairs, tmp_path / 'run', metrics=('psnr',), part='1/2')


def test_the_command_says_what_is_left_to_others(pairs, tmp_path, capsys):
  assert command.main(_config(pairs, part='0/3'), str(tmp_path / 'run')) == 0
  assert capsys.readouterr().out.startswith('eval.part=0/3: done; 2 images are left to other parts')
  assert command.main(_config(pairs), str(tmp_path / 'run')) == 0
  assert 'table.md' in capsys.readouterr().out and (tmp_path / 'run' / 'table.md').exists()


@pytest.mark.parametrize('part', ['1', '2/2', '-1/2', '1/', 'a/b', '0/0'])
def test_a_wrong_part_is_one_clear_line(pairs, tmp_path, part):
  with pytest.raises(SSRError, match=r'eval\.part: .*must be I/N with I from 0 to N - 1'):
    _evaluate(pairs, tmp_path / 'run', part=part)
  with pytest.raises(SSRError, match=r'eval\.part: needs a workdir'):
    _evaluate(pairs, None, part='0/2')


def test_more_images_go_on_and_fewer_are_a_part(pairs, tmp_path, monkeypatch):
  _evaluate(pairs, tmp_path / 'run', limit=2)
  scored, score = [], runner.score
  monkeypatch.setattr(runner, 'score', lambda s, case, *more: scored.append(case.image) or score(s, case, *more))
  assert len(_evaluate(pairs, tmp_path / 'run', limit=0).rows) == 4 and scored == ['c.png', 'd.png']
  assert [row['image'] for row in _evaluate(pairs, tmp_path / 'run', limit=1).rows] == ['a.png'] and len(scored) == 2


def test_a_failure_is_tried_again(pairs, tmp_path):
  broken = pathlib.Path(pairs.partition(':')[2].split(',')[0]) / 'b.png'
  content = broken.read_bytes()
  broken.write_bytes(content[:-200])
  report = _evaluate(pairs, tmp_path / 'run')
  assert len(report.failures) == 1 and [row['image'] for row in report.rows] == ['a.png', 'c.png', 'd.png']
  broken.write_bytes(content)
  report = _evaluate(pairs, tmp_path / 'run')
  assert report.failures == [] and [row['image'] for row in report.rows] == ['a.png', 'b.png', 'c.png', 'd.png']
  assert 'failed' not in (tmp_path / 'run' / 'table.md').read_text()


@pytest.mark.parametrize(
  'fields, what',
  [
    ({'metrics': ('psnr',)}, 'eval.metrics'),
    ({'seed': 1}, 'eval.seed, eval.seeds'),
    ({'pictures': 1}, 'eval.pictures'),
    ({'models': ('bicubic', 'restored')}, 'eval.models, the models'),
  ],
)
def test_other_settings_are_one_clear_line(pairs, tmp_path, fields, what):
  _evaluate(pairs, tmp_path / 'run', limit=1)
  before = (tmp_path / 'run' / 'table.md').read_bytes(), (tmp_path / 'run' / FILE).read_bytes()
  with pytest.raises(SSRError, match=rf'rows.jsonl: holds rows of other settings \({what}\); give another --workdir'):
    _evaluate(pairs, tmp_path / 'run', **fields)
  assert before == ((tmp_path / 'run' / 'table.md').read_bytes(), (tmp_path / 'run' / FILE).read_bytes())


def test_other_photos_are_other_settings(pairs, tmp_path):
  _evaluate(pairs, tmp_path / 'run', limit=1)
  for folder in pairs.partition(':')[2].split(','):
    (pathlib.Path(folder) / 'd.png').unlink()
  with pytest.raises(SSRError, match=r'other settings \(the photos\)'):
    _evaluate(pairs, tmp_path / 'run', limit=1)


def test_values_that_are_not_finite_come_back(tmp_path):
  row = {'image': 'inf', 'recipe': 'r', 'model': 'm', 'seed': None, 'case': 0, 'psnr': math.inf, 'niqe': math.nan}
  with Ledger(tmp_path, {'a': 'b'}) as ledger:
    ledger.add((0, 'r'), [{**row, 'ssim': 0.5, 'low': -math.inf}])
  for line in (tmp_path / FILE).read_text().splitlines():
    json.loads(line, parse_constant=lambda name: pytest.fail(f'{name} is not JSON'))
  with Ledger(tmp_path, {'a': 'b'}) as ledger:
    ((found,),) = ledger.rows.values()
  assert found.pop('psnr') == math.inf and found.pop('low') == -math.inf and math.isnan(found.pop('niqe'))
  assert found == {'image': 'inf', 'recipe': 'r', 'model': 'm', 'seed': None, 'case': 0, 'ssim': 0.5}


def test_a_damaged_file_and_a_second_run_are_one_clear_line(tmp_path):
  with (
    Ledger(tmp_path, {}) as ledger,
    pytest.raises(SSRError, match='another run writes to it; wait for it, or give another --workdir'),
  ):
    Ledger(tmp_path, {})
  with Ledger(tmp_path, {}) as ledger:
    ledger.add((0, 'r'), [])
  (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes().replace(b'"case"', b'"cas'))
  with pytest.raises(SSRError, match='line 2 is damaged; remove the file to start anew'):
    Ledger(tmp_path, {})
  for line in (b'{"settings": [1]}', b'{"settings": null}', b'{}', b'[]', b'[' * 10**5, b'\xff'):
    (tmp_path / FILE).write_bytes(line + b'\n')
    with pytest.raises(SSRError, match='line 1 is damaged; remove the file to start anew'):
      Ledger(tmp_path, {})

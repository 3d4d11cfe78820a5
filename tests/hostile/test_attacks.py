"""The attacks of tools/fuzz.py, a few cases of each, and that they notice what they look for."""

import os
import sys
import time
import warnings

import numpy as np
import pytest

from tools import attacks  # not its modules, which the process of `count` would import too


def _misbehave(how):
  if how == 'prints':
    os.write(1, b'from a library')
  elif how == 'warns':
    warnings.warn('from a library', stacklevel=1)
  elif how == 'raises':
    raise KeyError('x')
  elif how == 'ends':
    os._exit(3)
  elif how == 'sleeps':
    time.sleep(600)
  elif how == 'fills':
    bytearray(b'x') * 2**28
  return ('unnamed' if how == 'names nothing' else 'read'), ''


@pytest.mark.slow
def test_whatever_must_not_happen_is_noticed_and_the_next_case_runs(capfd):
  hows = ['', 'prints', 'warns', 'raises', 'ends', 'fills', 'names nothing', '']
  found = attacks.count(_misbehave, [(how,) for how in hows], ('read',), 120, 0.25)  # a busy machine fills slowly
  assert found == {'read': 2, 'noisy': 2, 'internal error': 1, 'crash': 1, 'hang': 0, 'memory': 1, 'unnamed': 1}
  found = attacks.count(_misbehave, [('sleeps',), ('',)], ('read',), 5, 0.25)
  assert found['hang'] == found['read'] == 1
  said = capfd.readouterr().err.splitlines()
  assert [line.split(': ')[1] for line in said if line.startswith('case ')] == [
    'noisy', 'noisy', 'internal error', 'crash', 'memory', 'unnamed', 'hang'
  ]  # fmt: skip
  assert 'KeyError' in '\n'.join(said) and 'exit code 3' in '\n'.join(said)


def test_damaged_images_are_read_or_refused_in_one_line():
  from tools.attacks import images

  for case in images.damaged(120, np.random.default_rng(2)):
    assert images.attempt(*case)[0] in ('read', 'refused'), case[0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='its pickles name posix')
def test_damaged_models_are_accepted_or_refused_in_one_line(tmp_path, monkeypatch):
  from tools.attacks import models

  monkeypatch.chdir(tmp_path)
  model = models.write_model(tmp_path / 'model')
  cases = models.damaged(15, model, np.random.default_rng(2))
  outcomes = [models.attempt(name, files, False) for name, files, _ in cases]
  assert {outcome for outcome, _ in outcomes} <= {'accepted', 'refused'}, outcomes
  whole = {path.name: path.read_bytes() for path in model.iterdir()}
  assert models.attempt('model.json', whole, False) == ('accepted', '')


def test_each_attack_counts_all_its_cases(monkeypatch):
  from tools.attacks import images, models

  for attack in (images, models):
    asked = []
    monkeypatch.setattr(attacks, 'count', lambda attempt, cases, *more, asked=asked: asked.extend(cases) or {})
    attack.run(7, np.random.default_rng(0))
    again = list(asked)
    del asked[:]
    attack.run(7, np.random.default_rng(0))
    assert len(again) == 7 and [case[0] for case in again] == [case[0] for case in asked]
    assert all(a[1] == b[1] for a, b in zip(again, asked, strict=True))  # the same bytes for the same seed

"""tools/benchmark.py: the table it prints and what it complains of."""

import pytest

from ssr_jax.training import timing
from tools import benchmark


def test_prints_a_row_per_case_measured_in_its_own_process(capsys):
  assert benchmark.main(['--cases=operator', '--side=16', '--repeat=1']) == 0
  heads, _, row, *_ = capsys.readouterr().out.splitlines()
  assert heads.split()[:2] == ['what', 'size'] and heads.endswith('traces')
  assert row.startswith('blur_downsample, a kernel per pixel  64x64 -> 16x16')
  peak, traces = row.split()[-2:]
  assert 50 < int(peak) < 3000 and traces == '1'


def test_the_devices_own_memory_is_told_where_it_has_some(capsys, monkeypatch):
  class Device:
    def __init__(self, peak):
      self.peak = peak

    def memory_stats(self):  # a CPU's is None
      return self.peak and {'bytes_in_use': 1, 'peak_bytes_in_use': self.peak}

  for peaks, expected in (([None], None), ([5_000_000, 7_000_000], 7_000_000)):
    monkeypatch.setattr(timing.jax, 'local_devices', lambda peaks=peaks: [Device(peak) for peak in peaks])
    assert timing.peak_device_memory() == expected
  row = {'what': 'sample', 'size': '', 'first': 1, 'later': 0.5, 'peak': 100, 'traces': 1}
  for more, shown in (({}, False), ({'device': 3400.4}, True)):
    monkeypatch.setattr(benchmark, '_run', lambda *_, more=more: [{**row, **more}])
    assert benchmark.main(['--cases=sample']) == 0
    heads, _, line, *_ = capsys.readouterr().out.splitlines()
    assert heads.endswith('device MB') == shown == line.endswith('  3400')


@pytest.mark.slow
def test_the_number_of_steps_reaches_the_sampler(tiny_model_dir, capsys):
  arguments = ['--cases=sample', f'--model={tiny_model_dir}', '--side=16', '--repeat=1']
  assert benchmark.main([*arguments, '--steps=3']) == 0
  assert ' '.join(capsys.readouterr().out.splitlines()[2].split()).startswith('tiny sample, 3 steps 16x16 -> 64x64')
  assert benchmark.main([*arguments, '--steps=900']) == 1
  assert 'error: sample: steps 900: more than' in capsys.readouterr().err


def test_a_case_that_cannot_run_is_one_line(capsys, monkeypatch):
  monkeypatch.setattr(
    benchmark.subprocess,
    'run',
    lambda *_, **__: benchmark.subprocess.CompletedProcess([], 1, stdout='', stderr='Traceback\nunknown model'),
  )
  assert benchmark.main(['--cases=sample']) == 1
  assert 'error: sample: unknown model' in capsys.readouterr().err


def test_complaints_name_what_is_over_its_limit():
  good = {'what': 'compact sample', 'size': '128x128 -> 512x512', 'first': 30, 'later': 5, 'peak': 2000, 'traces': 2}
  same = {**good, 'what': 'compact sample, same bucket', 'size': '120x112 -> 480x448', 'traces': 0}
  assert benchmark.complaints([good, same]) == []
  lines = benchmark.complaints([{**good, 'later': 9, 'peak': 4000}, {**same, 'traces': 2}])
  assert ['9.0 s' in lines[0], '4000 MB' in lines[1], 'compiled 2 programs again' in lines[2]] == [True] * 3


def test_complaints_about_degradation():
  row = {'size': '', 'first': 1, 'later': 0.01, 'peak': 100, 'traces': 1}
  degraded = {**row, 'what': 'degrade invariant/noise_jpeg', 'rate': 500.0}
  variant, invariant = (
    {**row, 'what': what, 'later': seconds}
    for what, seconds in ((benchmark._VARIANT, 0.029), (benchmark._INVARIANT, 0.01))
  )
  assert benchmark.complaints([degraded, variant, invariant]) == []
  lines = benchmark.complaints([{**degraded, 'rate': 99.0}, {**variant, 'later': 0.031}, invariant])
  assert ['99 a second' in lines[0], '3.1 times' in lines[1]] == [True] * 2


@pytest.mark.slow
def test_the_train_case_times_the_step_of_a_stage(capsys):
  small = ['--set=train.batch_size=1', '--set=data.patch=32']
  arguments = ['--cases=train', '--configs=tiny', '--stages=nbsr', '--repeat=1', *small]
  assert benchmark.main(arguments) == 0
  row = capsys.readouterr().out.splitlines()[2]
  assert row.startswith('train tiny:nbsr  1 of 32x32') and 'nan' not in row
  assert benchmark.main([*arguments, '--set=train.batchsize=1']) == 1
  assert 'error: train: --set train.batchsize=1: ' in capsys.readouterr().err


@pytest.mark.parametrize(
  'argv', [['--cases=nothing'], ['--side=4'], ['--repeat=0'], ['--steps=0'], ['--stages=none'], ['--configs=huge']]
)
def test_wrong_usage_exits_with_2(argv, capsys):
  with pytest.raises(SystemExit) as exit_:
    benchmark.main(argv)
  assert exit_.value.code == 2 and 'error:' in capsys.readouterr().err

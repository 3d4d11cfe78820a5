"""tools/improve.py: which weights it keeps."""

import importlib.util
import json
import pathlib

import pytest

spec = importlib.util.spec_from_file_location('improve', pathlib.Path(__file__).resolve().parents[1] / 'tools' / 'improve.py')
improve = importlib.util.module_from_spec(spec)
spec.loader.exec_module(improve)


@pytest.mark.parametrize('higher,former,expected', [(True, 24.9, True), (True, 25.1, False), (False, 25.1, True), (False, 24.9, False)])
def test_keeps_the_better_in_the_metrics_own_direction(higher, former, expected):
  summary = {'metric': 'm', 'higher_is_better': higher, 'validation': {'m': 25.0}}
  assert improve.verdict(summary, {'m': former})[0] is expected


def test_equal_or_unknown_does_not_replace():
  summary = {'metric': 'psnr', 'higher_is_better': True, 'validation': {'psnr': 25.0}}
  assert not improve.verdict(summary, {'psnr': 25.0})[0]
  assert not improve.verdict(summary, {'noise': 0.1})[0]
  assert improve.verdict(summary, None)[0]


def test_rate_is_taken_after_the_first_compilation(tmp_path):
  rows = [{'step': 0, 'time': 0.0, 'validation/psnr': 1}, {'step': 10, 'time': 100.0, 'loss': 1}, {'step': 30, 'time': 110.0, 'loss': 1}]
  (tmp_path / 'scalars.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  assert improve.rate(tmp_path) == pytest.approx(2.0)

"""Which weights the metrics of an evaluation read, and that the protocol names them."""

import dataclasses

import pytest

from configs import compact
from ssr_jax.evaluation import protocol
from ssr_jax.metrics import niqe
from ssr_jax.types import SSRError
from ssr_jax.weights import published
from tests.metrics import pristine


def _settings(file=''):
  return protocol.Settings('folder:x', ('bicubic',), ('psnr', 'niqe'), {'niqe': file}, ('smooth/no_noise',))


@pytest.mark.parametrize('config', [False, True])
@pytest.mark.parametrize('imported', [False, True])
def test_the_configs_model_goes_before_the_imported_before_the_packages(tmp_path, monkeypatch, config, imported):
  files = {}
  for name in ('config', 'imported'):
    files[name] = tmp_path / f'{name}.npz'
    model = niqe.load_pristine(pristine.fit(tmp_path / 'fitted.npz'))
    niqe.save_pristine(files[name], model._replace(name=name))
  asked = []
  monkeypatch.setattr(
    published, 'of_metric', lambda name: asked.append(name) or (files['imported'] if imported else None)
  )
  settings = _settings(str(files['config']) if config else '')
  scorers, missing = settings.load_metrics()
  expected = 'config' if config else 'imported' if imported else 'ssr_jax free photos'
  assert scorers['niqe'].pristine.name == expected and list(scorers) == ['psnr', 'niqe'] and not missing
  assert set(asked) <= {'niqe'}
  assert protocol.describe(settings, 1, True, 'none')['measured'].endswith(f'; NIQE ({expected})')


def test_a_crop_is_read_checked_and_part_of_the_protocol_and_the_rows():
  assert 'no crop' in protocol.describe(_settings(), 1, True, 'none')['measured']
  config = compact.get_config()
  assert protocol.Settings.from_config(config.eval).crop == 0
  config.eval.crop = 4
  settings = protocol.Settings.from_config(config.eval)
  measured = protocol.describe(settings, 1, True, 'none')['measured']
  assert 'crop of 4 pixels on every side in comparisons with HR' in measured and 'no crop' not in measured
  texts = [protocol.identity(dataclasses.replace(settings, crop=n), [], {}, {}) for n in (0, 4)]
  assert [name for name in texts[0] if texts[0][name] != texts[1][name]] == ['eval.crop']
  config.eval.crop = -1
  with pytest.raises(SSRError, match='eval.crop=-1: must be a number of pixels, or 0 for none'):
    protocol.Settings.from_config(config.eval)


def test_a_metric_without_weights_is_left_out_with_a_line(tmp_path, monkeypatch):
  monkeypatch.setenv('SSR_WEIGHTS', str(tmp_path))
  settings = dataclasses.replace(_settings(), metrics=('lpips', 'psnr'))
  scorers, missing = settings.load_metrics()
  assert list(scorers) == ['psnr'] and list(missing) == ['lpips'] and missing['lpips'].cell == 'no weights'
  assert 'ssr weights import lpips-alex FILE' in str(missing['lpips'])
  with pytest.raises(SSRError, match="metric 'lpips' has no weights"):
    dataclasses.replace(settings, metrics=('lpips',)).load_metrics()

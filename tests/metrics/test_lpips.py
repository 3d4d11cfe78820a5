"""LPIPS as a metric: its weights' way from other people's files, its options, and what it refuses."""

import hashlib
import json
import re

import jax
import numpy as np
from PIL import Image
import pytest
import safetensors.numpy

from ssr_jax import cli, metrics
from ssr_jax.metrics import lpips
from ssr_jax.nn import lpips as network
from ssr_jax.types import SSRError
from ssr_jax.weights import published
from tests.metrics import random_lpips


@pytest.fixture(scope='module')
def images():
  rng = np.random.default_rng(0)
  reference = rng.integers(0, 256, (48, 56, 3), np.uint8)
  noisy = np.clip(reference + rng.normal(0, 30, reference.shape), 0, 255).astype(np.uint8)
  return noisy, reference


def test_the_metric_is_the_network_of_images_from_zero_to_one(images, tmp_path, monkeypatch, capsys):
  path = random_lpips.install(tmp_path / 'home', monkeypatch)
  assert f"written to {path}; the metric 'lpips' reads it by default" in capsys.readouterr().out
  assert published.of_metric('lpips') == path and published.of_metric('lpips-vgg') is None
  metric = metrics.load(['lpips'], {'lpips': path})['lpips']
  image, reference = (x[None].astype(np.float32) / 255 for x in images)
  apply = jax.jit(network.LPIPS('alex').apply)
  expected = float(apply(metric.loaded.variables, image, reference)[0])
  scored = lambda **more: metrics.score({'lpips': metric}, image=images[0], reference=images[1], **more)['lpips']
  assert expected > 0.01 and scored() == pytest.approx(expected, rel=1e-4)
  assert metric({'image': image[0], 'reference': images[1]}) == pytest.approx(expected, rel=1e-4)  # float is the same
  cropped = apply(metric.loaded.variables, image[:, 5:-5, 5:-5], reference[:, 5:-5, 5:-5])
  assert scored(crop=5) == pytest.approx(float(cropped[0]), rel=1e-4) != pytest.approx(expected, rel=1e-2)
  assert scored(space='rgb') == scored() and not metric.higher_is_better
  with pytest.raises(ValueError, match='differ in size'):
    metric({'image': images[0][1:], 'reference': images[1]})
  with pytest.raises(ValueError, match='needs 31x31 pixels'):
    metric({'image': images[0][:20], 'reference': images[1][:20]})


def test_by_the_command_line_under_both_names(images, tmp_path, monkeypatch, capsys):
  random_lpips.install(tmp_path / 'home', monkeypatch)
  for folder, image in zip(('sr', 'hr'), images, strict=True):
    (tmp_path / folder).mkdir()
    Image.fromarray(image).save(tmp_path / folder / 'a.png')
  capsys.readouterr()
  folders = [str(tmp_path / 'hr'), str(tmp_path / 'sr')]
  assert cli.main(['metrics', *folders, '--metrics', 'lpips-alex,psnr,lpips', '--json', '-']) == 0
  report = json.loads(capsys.readouterr().out)
  metric = metrics.load(['lpips'], {'lpips': published.of_metric('lpips')})['lpips']
  assert list(report['protocol']['metrics']) == ['lpips', 'psnr']
  assert report['images'][0]['lpips'] == pytest.approx(metric({'image': images[0], 'reference': images[1]}), rel=1e-5)
  # Other weights than the published ones have a name in every table.
  assert report['protocol']['metrics']['lpips'] == f'LPIPS (Alex) (weights {metric.loaded.digest[:8]})'


def _whole(folder):
  """One file as the packages lpips and pyiqa save their whole network: the classifier in slices, the heads twice."""
  slices = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
  tensors = {'scaling_layer.shift': np.zeros((1, 3, 1, 1), np.float32)}
  for name, value in random_lpips.state().items():
    if name.startswith('features.'):
      number, kind = name.split('.')[1:]
      tensors[f'net.slice{slices[int(number)]}.{number}.{kind}'] = value
    else:
      tensors[name] = tensors[f'lins.{name[3]}.model.1.weight'] = value
  safetensors.numpy.save_file(tensors, folder / 'whole.safetensors')
  return [folder / 'whole.safetensors']


def test_all_layouts_give_the_same_weights(tmp_path, monkeypatch):
  installed = random_lpips.install(tmp_path / 'home', monkeypatch)
  first = installed.read_bytes()
  classifier, heads = random_lpips.write(tmp_path / 'files')
  folder = tmp_path / 'published'
  folder.mkdir()
  for path, file in zip((classifier, heads), published.PUBLISHED['lpips-alex'].files, strict=True):
    (folder / file.name).with_suffix('.safetensors').write_bytes(path.read_bytes())
  for sources in ([heads, classifier], _whole(tmp_path)):
    installed.unlink()
    assert cli.main(['weights', 'import', 'lpips-alex', *map(str, sources)]) == 0
    assert installed.read_bytes() == first
  variables = lpips.load_weights(installed, 'alex').variables['params']
  state = random_lpips.state()
  np.testing.assert_array_equal(variables['conv_3']['kernel'][1, 4, 7, 9], state['features.3.weight'][9, 7, 1, 4])
  np.testing.assert_array_equal(variables['head_2']['kernel'][:, 0], state['lin2.model.1.weight'][0, :, 0, 0])


def test_pytorchs_files_are_read_and_the_published_ones_get_no_other_name(tmp_path, monkeypatch, capsys):
  torch = pytest.importorskip('torch')
  tensors = {name: torch.from_numpy(value) for name, value in random_lpips.state().items()}
  heads = {name: tensors.pop(name) for name in list(tensors) if name.startswith('lin')}
  sources = tmp_path / 'a.pth', tmp_path / 'b.pth'
  for path, content in zip(sources, (tensors, heads), strict=True):
    torch.save(content, path)
  monkeypatch.setenv('SSR_WEIGHTS', str(tmp_path / 'home'))
  assert cli.main(['weights', 'import', 'lpips-alex', *map(str, sources)]) == 0
  loaded = lpips.load_weights(published.of_metric('lpips'), 'alex')
  np.testing.assert_array_equal(
    loaded.variables['params']['head_0']['kernel'][:, 0], random_lpips.state()['lin0.model.1.weight'][0, :, 0, 0]
  )


@pytest.mark.parametrize('right', [True, False])
def test_files_are_the_published_ones_by_their_sha256(tmp_path, monkeypatch, right):
  paths = random_lpips.write(tmp_path)
  digests = [hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in paths]
  files = [published.File(f'net-{digest if right else digest[::-1]}.pth') for digest in digests]
  entry = published.dataclasses.replace(published.PUBLISHED['lpips-alex'], files=tuple(files))
  monkeypatch.setitem(published.PUBLISHED, 'lpips-alex', entry)
  path = random_lpips.install(tmp_path / 'home', monkeypatch)
  name = lpips.load_weights(path, 'alex').name
  assert name == '' if right else re.fullmatch('weights [0-9a-f]{8}', name)
  assert lpips.LPIPS.load(path).heading() == ('LPIPS (Alex)' if right else f'LPIPS (Alex) ({name})')


def test_what_cannot_be_imported_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('SSR_WEIGHTS', str(tmp_path / 'home'))
  classifier, heads = map(str, random_lpips.write(tmp_path))
  changed = dict(random_lpips.state())
  changed['features.0.weight'] = changed['features.0.weight'][:, :, 1:]
  odd = dict(random_lpips.state(), extra=np.ones(3, np.float32))
  broken = dict(random_lpips.state())
  broken['lin1.model.1.weight'] = np.full_like(broken['lin1.model.1.weight'], np.nan)
  for name, tensors in (('changed', changed), ('odd', odd), ('broken', broken)):
    safetensors.numpy.save_file(
      {k: np.ascontiguousarray(v) for k, v in tensors.items()}, tmp_path / f'{name}.safetensors'
    )
  file = lambda name: str(tmp_path / f'{name}.safetensors')
  both = 'alexnet-owt-7be5be79.pth and LPIPS_v0.1_alex-df73285e.pth'
  for arguments, words in (
    (
      ['lpips-alex', classifier],
      f'without the heads (lin0.model.1 ...); give both files, {both}',
    ),
    (['lpips-alex', heads], f'heads.safetensors: without the classifier (features.0 ...); give both files, {both}'),
    (['lpips-alex', classifier, classifier], 'has features.0.bias, as'),
    (['lpips-alex', classifier, heads, heads], 'one file too many'),
    (['lpips-vgg', classifier, heads], 'not the weights of this network'),
    (['lpips-alex', file('changed')], 'shape of features.0.weight'),
    (['lpips-alex', file('odd')], 'no place for extra'),
    (['lpips-alex', file('broken')], 'head_1/kernel has values that are not finite'),
    (['lpips-alex', file('absent')], 'no such file'),
    (['lpips-alex'], f'get {both} from'),
    (['lpips-alex', classifier, heads, '--as', 'mine'], 'leave the options out'),
    (['niqe', classifier, heads], 'niqe is one file'),
  ):
    capsys.readouterr()
    assert cli.main(['weights', 'import', *arguments]) == 2, arguments
    err = capsys.readouterr().err
    assert words in err and err.count('\n') == 1, (arguments, err)
  assert published.of_metric('lpips') is None and published.of_metric('lpips-vgg') is None
  assert not [path for path in (tmp_path / 'home').rglob('*') if path.is_file()]


def test_files_that_changed_or_are_of_another_backbone_are_found_out(tmp_path, monkeypatch, capsys):
  path = random_lpips.install(tmp_path / 'home', monkeypatch)
  assert cli.main(['weights', 'verify', 'lpips-alex']) == 0
  content = path.read_bytes()
  with pytest.raises(SSRError, match='no weights of LPIPS on vgg; import it again with `ssr weights import lpips-vgg`'):
    lpips.load_weights(path, 'vgg')
  path.write_bytes(content[:-4] + b'\0\0\0\0')
  with pytest.raises(SSRError, match='changed since it was imported'):
    metrics.load(['lpips'], {'lpips': path})
  capsys.readouterr()
  assert cli.main(['weights', 'verify', 'lpips-alex']) == 1 and 'changed since' in capsys.readouterr().err
  for damaged in (content[:100], b'', safetensors.numpy.save({'a': np.ones(2)})):
    path.write_bytes(damaged)
    with pytest.raises(SSRError, match='no weights of LPIPS'):
      metrics.load(['lpips'], {'lpips': path})


def test_without_weights_the_metric_says_how_to_get_them():
  for name, checkpoint in (('lpips', 'lpips-alex'), ('lpips-vgg', 'lpips-vgg')):
    with pytest.raises(SSRError, match=f"metric '{name}' has no weights; import .*`ssr weights import {checkpoint} "):
      metrics.load([name])

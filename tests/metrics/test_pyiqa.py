"""The extra's metrics, by the command line, against pyiqa called directly with the same random weights; ours in JAX.

The published weights cannot be had here. `pyiqa.create_metric` gives, at each call, the same random ones.
"""

import importlib
import importlib.util
import json
import types

import numpy as np
from PIL import Image
import pytest

from ssr_jax import cli
from ssr_jax.metrics import iqa

torch = pytest.importorskip('torch', reason='pyiqa runs in torch: pip install -e .[iqa]')

IMAGES = 3


@pytest.fixture(scope='module')
def pyiqa():
  """pyiqa whose metrics have random weights, drawn from one seed, and fewer layers where that changes nothing."""
  if not importlib.util.find_spec('pyiqa'):
    pytest.skip('needs pyiqa: pip install -e .[iqa]')
  try:
    importlib.import_module('torchvision')
  except RuntimeError:  # built for another torch, it lacks operators that nothing here calls
    library = torch.library.Library('torchvision', 'DEF')
    for name in ('nms', 'qnms'):
      library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
  with pytest.MonkeyPatch.context() as patch:
    yield _random(patch)


def _random(patch):
  import pyiqa
  from pyiqa.archs import clip_model
  import timm
  import torchvision

  for name in ('lpips_arch', 'dists_arch', 'musiq_arch', 'maniqa_arch', 'inception'):
    module = importlib.import_module(f'pyiqa.archs.{name}')
    patch.setattr(module, 'load_pretrained_network', lambda *arguments, **options: None)
  layers = torchvision.models.vgg
  vgg = lambda **_: types.SimpleNamespace(features=layers.make_layers(layers.cfgs['D']))
  alexnet = torchvision.models.alexnet
  patch.setattr(torchvision.models, 'vgg16', lambda *_, **__: vgg())
  patch.setattr(torchvision.models, 'alexnet', lambda *_, **__: alexnet(weights=None))
  make = timm.create_model
  patch.setattr(timm, 'create_model', lambda name, pretrained: make(name, pretrained=False, depth=10))

  def clip(backbone, device):
    assert backbone == 'RN50'
    return clip_model.CLIP(1024, 224, (1, 1, 1, 1), 64, None, 77, 49408, 64, 1, 1).float().eval()

  patch.setattr(importlib.import_module('pyiqa.archs.clipiqa_arch'), 'load', clip)
  create = pyiqa.create_metric

  class TwoOfInception(torch.nn.Module):
    """Two mixtures of the 2048 features: pyiqa's root of a matrix of 2048 x 2048 takes minutes."""

    def __init__(self, inception):
      super().__init__()
      self.inception, self.mixtures = inception, torch.nn.Linear(2048, 2, bias=False)

    def forward(self, *arguments):
      return [self.mixtures(self.inception(*arguments)[0].flatten(1))]

  def seeded(call):
    options = {'maniqa-pipal': {'test_sample': 2}}.get(call, {})
    with torch.random.fork_rng():
      torch.manual_seed(0)
      metric = create(call, device='cpu', **options)
      if call == 'fid':
        metric.net.model = TwoOfInception(metric.net.model)
    if 'lpips' in call:  # the published heads are not negative; distances of the order of one
      for head in metric.net.lins:
        head.model[-1].weight.data.abs_().mul_(30)
    return metric

  patch.setattr(pyiqa, 'create_metric', seeded)
  return pyiqa


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Photos with noise and blur in growing amounts; the last is of another size."""
  from skimage import data

  folder = tmp_path_factory.mktemp('images')
  rng = np.random.default_rng(0)
  for index in range(IMAGES):
    photo = data.astronaut()[40 * index : 40 * index + 72, 100 : 164 if index < IMAGES - 1 else 180]
    noisy = np.clip(photo + rng.normal(0, 8 * (index + 1), photo.shape), 0, 255).astype(np.uint8)
    for name, image in (('hr', photo), ('sr', noisy)):
      (folder / name).mkdir(exist_ok=True)
      Image.fromarray(image).save(folder / name / f'{index}.png')
  return folder / 'hr', folder / 'sr'


def _scored(folders, names, capsys):
  capsys.readouterr()
  assert cli.main(['metrics', *map(str, folders), '--metrics', ','.join(names), '--json', '-']) == 0
  report = json.loads(capsys.readouterr().out)
  return {name: [row[name] for row in report['images']] for name in names} | {'mean': report['mean']}


# MANIQA's vision transformer takes minutes on a busy machine.
NAMES = [metric.name for metric in iqa.ALL if not metric.of_sets]


@pytest.mark.parametrize('name', [pytest.param(n, marks=pytest.mark.slow if n == 'maniqa' else ()) for n in NAMES])
def test_the_command_gives_what_pyiqa_gives_called_directly(folders, pyiqa, capsys, name):
  found = _scored(folders, [name], capsys)[name]
  metric = pyiqa.create_metric(next(m.call for m in iqa.ALL if m.name == name))
  paths = [(str(folders[1] / f'{i}.png'), str(folders[0] / f'{i}.png')) for i in range(IMAGES)]
  whole = metric.metric_mode == 'FR'
  expected = [float(metric(*(pair if whole else pair[:1]))) for pair in paths]
  assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
  assert np.std(expected) > 1e-6 * abs(np.mean(expected)), 'the images have no different values'
  assert metric.lower_better is not next(m.higher_is_better for m in iqa.ALL if m.name == name)
  assert _scored(folders, [name], capsys)[name] == found  # crops too are the same in every run


def test_fid_is_that_of_pyiqa_for_two_folders(folders, pyiqa, capsys):
  found = _scored(folders, ['fid', 'psnr'], capsys)['mean']['fid']
  metric = pyiqa.create_metric('fid')
  expected = metric(str(folders[1]), str(folders[0]), num_workers=0, verbose=False)
  assert found == pytest.approx(float(expected), rel=1e-3) and found > 0


@pytest.mark.parametrize('ours, checkpoint', [('lpips', 'lpips-alex'), ('lpips-vgg', 'lpips-vgg')])
def test_ours_in_jax_is_pyiqas(folders, pyiqa, tmp_path, monkeypatch, capsys, ours, checkpoint):
  """From pyiqa's whole state dict, and from the files of classifier and heads that pyiqa keeps in its cache."""
  monkeypatch.setenv('SSR_WEIGHTS', str(tmp_path / 'home'))
  net = pyiqa.create_metric(ours).net
  state = net.state_dict()
  torch.save(state, tmp_path / 'whole.pth')
  heads = {name: value for name, value in state.items() if name.startswith('lin') and not name.startswith('lins')}
  torch.save(heads, tmp_path / 'heads.pth')
  slices = {f'features.{name.split(".", 2)[2]}': value for name, value in state.items() if name.startswith('net.')}
  torch.save(slices, tmp_path / 'classifier.pth')
  values = []
  for files in (['whole.pth'], ['classifier.pth', 'heads.pth']):
    assert cli.main(['weights', 'import', checkpoint, *(str(tmp_path / file) for file in files)]) == 0
    found = _scored(folders, [ours, f'pyiqa-{ours}'], capsys)
    assert np.abs(np.subtract(found[ours], found[f'pyiqa-{ours}'])).max() <= 1e-4
    assert found[ours] == pytest.approx(found[f'pyiqa-{ours}'], rel=1e-3) and min(found[ours]) > 1e-3
    values.append(found[ours])
  assert values[0] == values[1]

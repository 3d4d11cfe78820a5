"""LPIPS with random weights: the files that people have of the published ones, made without torch."""

import functools

import numpy as np
import safetensors.numpy

from ssr_jax import cli
from ssr_jax.metrics import lpips
from ssr_jax.weights.importers import lpips_table


@functools.cache
def state(backbone: str = 'alex') -> dict[str, np.ndarray]:
  """A state dict by the names of torchvision and of the heads' file; distances of noise are of the order of one."""
  rng = np.random.default_rng(7)
  ours = {}
  for name, shape in lpips.shapes(backbone).items():
    drawn = rng.standard_normal(shape.shape).astype(np.float32)
    if 'head' in name:
      ours[name] = np.abs(drawn)  # the published ones are not negative
    else:
      ours[name] = 0.1 * drawn if name.endswith('bias') else drawn * np.sqrt(2 / np.prod(shape.shape[:-1]))
  return {k: np.asarray(v, np.float32) for k, v in lpips_table().to_theirs(ours).items()}


def write(folder, backbone: str = 'alex'):
  """Writes (classifier, heads) as safetensors; the classifier has a last layer too, as the published one."""
  folder.mkdir(parents=True, exist_ok=True)
  tensors = state(backbone)
  heads = {name: value for name, value in tensors.items() if name.startswith('lin')}
  features = {name: value for name, value in tensors.items() if name not in heads}
  paths = folder / 'classifier.safetensors', folder / 'heads.safetensors'
  safetensors.numpy.save_file({**features, 'classifier.6.weight': np.ones((10, 8), np.float32)}, paths[0])
  safetensors.numpy.save_file(heads, paths[1])
  return paths


def install(home, monkeypatch, backbone: str = 'alex'):
  """Imports such weights by the command line into a store of the test's own."""
  monkeypatch.setenv('SSR_WEIGHTS', str(home))
  assert cli.main(['weights', 'import', f'lpips-{backbone}', *map(str, write(home / 'sources', backbone))]) == 0
  return home / 'downloads' / f'lpips-{backbone}' / f'lpips-{backbone}.safetensors'

"""Learned metrics of pyiqa (Chen & Mo), the field's protocol for them: an extra, `pip install 'ssr-jax[iqa]'`.

pyiqa runs in torch and downloads weights when a metric is made. Nothing here imports it before that. A metric without
weights raises `Missing`, so that the others can go on.
"""

from collections.abc import Mapping, Sequence
import contextlib
import io as iolib
import logging
import math
import os
import re
import threading
from typing import Any, ClassVar, Self
import warnings

import numpy as np

from ssr_jax.metrics import pixels
from ssr_jax.metrics.base import Inputs, Metric, Missing, SetMetric
from ssr_jax.types import SSRError, one_line

SEED = 123
"""Of the random numbers of a metric that draws crops; pyiqa's own default. The same image has the same value."""

# Torch uses all cores for one call, and its random state is the process's.
_TURN = threading.Lock()


class Learned(Metric):
  """A metric of pyiqa; see `create`.

  Attributes:
    call: what pyiqa calls it.
    elsewhere: weights that are downloaded without a word, and where they are looked for; '' where there are none.
      {torch} stands for torch's folder of downloads, {hub} for that of huggingface_hub.
    net: pyiqa's metric.
  """

  weights = 'weights, which pyiqa downloads'
  digits = 4
  batched = 8
  call: ClassVar[str]
  elsewhere: ClassVar[str] = ''

  def __init__(self, net: Any):
    self.net = net

  @classmethod
  def load(cls, weights: str | os.PathLike | None = None) -> Self:
    """Makes the metric; see `create`."""
    if weights:
      raise SSRError(f"metric '{cls.name}' takes its weights from pyiqa; leave out {os.fspath(weights)}")
    return cls(create(cls.name, cls.call, cls.elsewhere))

  def __call__(self, inputs: Inputs) -> float:
    """The value of one image."""
    return self.batch([inputs])[0]

  def batch(self, inputs: Sequence[Inputs]) -> list[float]:
    """The values of several images; those of one size are computed together."""
    compares = 'reference' in self.needs
    arrays = [[_planes(one[which], (compares and one.get('crop')) or 0) for which in self.needs] for one in inputs]
    for one in arrays:
      pixels.check_pair(one[0], one[-1])
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, (image, *_) in enumerate(arrays):
      groups.setdefault(image.shape, []).append(index)
    values = [math.nan] * len(arrays)
    for group in groups.values():
      for start in range(0, len(group), self.batched):
        some = group[start : start + self.batched]
        stacks = [np.stack(planes) for planes in zip(*(arrays[index] for index in some), strict=True)]
        for index, value in zip(some, run(self.net, *stacks).reshape(len(some)), strict=True):
          values[index] = float(value)
    return values

  def heading(self, space: str = 'y') -> str:
    """See `Metric.heading`; values can depend on the version of pyiqa."""
    return f'{super().heading(space)} (pyiqa {version()})'


class DISTS(Learned):
  """DISTS (Ding et al. 2020): structure and texture in the features of VGG-16."""

  name, label, call = 'dists', 'DISTS', 'dists'
  higher_is_better = False
  needs = ('image', 'reference')


class MUSIQ(Learned):
  """MUSIQ (Ke et al. 2021), trained on KonIQ-10k."""

  name, label, call = 'musiq', 'MUSIQ', 'musiq'
  higher_is_better = True
  needs = ('image',)
  digits = 2


class CLIPIQA(Learned):
  """CLIP-IQA (Wang et al. 2023) on the ResNet-50 of CLIP."""

  name, label, call = 'clipiqa', 'CLIP-IQA', 'clipiqa'
  higher_is_better = True
  needs = ('image',)
  elsewhere = 'RN50.pt of CLIP; pyiqa looks for it in {torch}/clip'


class MANIQA(Learned):
  """MANIQA (Yang et al. 2022), trained on PIPAL: the mean over crops, which are the same in every run."""

  name, label, call = 'maniqa', 'MANIQA', 'maniqa-pipal'
  higher_is_better = True
  needs = ('image',)
  batched = 1  # 20 crops each
  elsewhere = "timm's vit_base_patch8_224; timm looks for it in the cache of huggingface_hub, {hub}"


class PyiqaLPIPS(Learned):
  """LPIPS on AlexNet by pyiqa; `lpips` is the same in JAX."""

  name, label, call = 'pyiqa-lpips', 'LPIPS (Alex)', 'lpips'
  higher_is_better = False
  needs = ('image', 'reference')


class PyiqaLPIPSVGG(PyiqaLPIPS):
  """LPIPS on VGG-16 by pyiqa; `lpips-vgg` is the same in JAX."""

  name, label, call = 'pyiqa-lpips-vgg', 'LPIPS (VGG)', 'lpips-vgg'


class FID(SetMetric, Learned):
  """Frechet inception distance (Heusel et al. 2017) of the images of a set and their originals, 'clean' resizing.

  The features are those of pyiqa's network; the distance of few images is exact and fast, see `frechet_distance`.
  """

  name, label, call = 'fid', 'FID', 'fid'
  higher_is_better = False
  needs = ('image', 'reference')
  digits = 2

  def __call__(self, inputs: Inputs) -> float:
    """NaN: one image has no FID."""
    return math.nan

  def batch(self, inputs: Sequence[Inputs]) -> list[float]:
    """NaN for each image."""
    return [math.nan] * len(inputs)

  def features(self, inputs: Inputs) -> dict[str, np.ndarray]:
    """Inception's features of 'image' and 'reference', float32 [n] each."""
    net = self.net.net
    sized = np.stack([_clean(inputs[which], net.test_img_size) for which in self.needs])
    # Neither resized nor scaled by the network: its inputs are from -1 to 1.
    ours, theirs = run(net.model, (sized - 128) / 128, options=(False, False))
    return {'image': ours.reshape(-1), 'reference': theirs.reshape(-1)}

  def distance(self, features: Sequence[Mapping[str, np.ndarray]]) -> float:
    """The distance of a set; NaN for fewer than two images."""
    if len(features) < 2:
      return math.nan
    return frechet_distance(*(np.stack([one[which] for one in features]) for which in self.needs))


ALL = (DISTS, MUSIQ, CLIPIQA, MANIQA, PyiqaLPIPS, PyiqaLPIPSVGG, FID)


def version() -> str:
  """The version of pyiqa."""
  import importlib.metadata

  return importlib.metadata.version('pyiqa')


def create(name: str, call: str, elsewhere: str = '') -> Any:
  """Makes a metric of pyiqa, on a GPU where torch has one.

  Args:
    name: what we call it, for messages.
    call: what pyiqa calls it.
    elsewhere: see `Learned`.

  Raises:
    Missing: pyiqa is not installed or cannot be imported, or weights are neither on this machine nor can be downloaded;
      one line that says which, and where pyiqa looks for them.
  """
  said = iolib.StringIO()
  try:
    with _quiet(said):
      import pyiqa  # pyright: ignore[reportMissingImports]  # an extra
  except ModuleNotFoundError as error:
    line = f"{name}: needs the package {error.name}, which is not installed: pip install 'ssr-jax[iqa]'"
    raise Missing(line, 'not installed') from error
  except Exception as error:  # torch and torchvision of versions that do not fit together raise anything
    raise Missing(f'{name}: pyiqa cannot be imported: {one_line(str(error))}', 'not installed') from error
  try:
    with _quiet(said):
      return pyiqa.create_metric(call)
  except Exception as error:
    raise Missing(f'{name}: no weights: {_what_is_missing(said.getvalue(), elsewhere, error)}') from error


def _what_is_missing(said: str, elsewhere: str, error: Exception) -> str:
  """What pyiqa could not get, from what it printed before it tried."""
  tried = re.findall(r'Downloading: "([^"]+)" to (\S+)', said)
  reason = one_line(str(error)) or type(error).__name__
  if tried and isinstance(error, OSError):
    url, path = tried[-1]
    return f'{url} cannot be downloaded ({reason}); pyiqa looks for it at {path}'
  if elsewhere and isinstance(error, OSError):
    return f'{elsewhere.format(torch=_folder("torch"), hub=_folder("hub"))}; it cannot be downloaded ({reason})'
  return f'they cannot be loaded ({type(error).__name__}: {reason})'


def _folder(whose: str) -> str:
  """Where torch or huggingface_hub keeps downloads."""
  try:
    if whose == 'torch':
      import torch  # pyright: ignore[reportMissingImports]  # comes with pyiqa

      return torch.hub.get_dir()
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE
  except ImportError:
    return '$TORCH_HOME/hub' if whose == 'torch' else '$HF_HOME/hub'


@contextlib.contextmanager
def _quiet(said: iolib.StringIO):
  """Keeps back what pyiqa and torch print, log and warn of."""
  before = logging.root.manager.disable
  with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    warnings.simplefilter('ignore')
    logging.disable(logging.INFO)
    try:
      yield
    finally:
      logging.disable(before)


def run(net: Any, *arrays: np.ndarray, options: tuple[Any, ...] = ()) -> np.ndarray:
  """Calls a network of torch with fixed random numbers; the state of NumPy's and torch's generators stays.

  Args:
    net: takes as many tensors as there are arrays.
    *arrays: float [b, c, H, W].
    options: more arguments of the network.

  Returns:
    Its output, or the first of several: [b] or [b, ...].
  """
  import torch  # pyright: ignore[reportMissingImports]  # comes with pyiqa

  with _TURN, torch.no_grad(), torch.random.fork_rng(), _numpy_seeded(), warnings.catch_warnings():
    warnings.simplefilter('ignore')
    torch.manual_seed(SEED)
    device = next(net.parameters()).device
    out = net(*(torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(device) for x in arrays), *options)
    out = out[0] if isinstance(out, (list, tuple)) else out
    return out.detach().cpu().numpy()


@contextlib.contextmanager
def _numpy_seeded():
  before = np.random.get_state()
  np.random.seed(SEED)
  try:
    yield
  finally:
    np.random.set_state(before)


def _planes(image: Any, crop: int) -> np.ndarray:
  """An image without `crop` pixels on every side, as [3, H, W] in [0, 1]."""
  return np.moveaxis(pixels.rgb_255(image, crop) / 255, -1, 0)


def _clean(image: Any, size: tuple[int, int]) -> np.ndarray:
  """The image [3, h, w] on the 255 scale, resized as clean-fid does (Parmar et al. 2022): Pillow's bicubic."""
  from PIL import Image

  planes = np.moveaxis(pixels.rgb_255(image), -1, 0).astype(np.float32)
  resized = [Image.fromarray(plane, mode='F').resize(size, Image.Resampling.BICUBIC) for plane in planes]
  return np.stack([np.asarray(plane).clip(0, 255) for plane in resized])


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
  """Distance of Gaussians fitted to two sets of features [n, d], Eq. 6 of Heusel et al. 2017.

  With centred features A, B over sqrt(n - 1) the covariances are A'A and B'B, and the trace of the square root of their
  product is the sum of the singular values of AB': exact also where a covariance of fewer images than features is
  singular, and a matrix of n x n in place of d x d.
  """
  means, factors, total = [], [], 0.0
  for features in (first, second):
    features = np.asarray(features, np.float64)
    means.append(features.mean(0))
    centred = (features - means[-1]) / np.sqrt(len(features) - 1)
    total += float((centred**2).sum())
    factors.append(np.linalg.qr(centred, 'r') if len(centred) > centred.shape[1] else centred)
  common = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
  return float(((means[0] - means[1]) ** 2).sum() + total - 2 * common)

"""Sets of LR images on disk for benchmarks: images, kernels, depth, and a manifest to make them again from.

    lr/NAME.png       the LR image
    kernels/NAME.npz  its kernels in compact form, see `read_kernels`
    depth/NAME.png    relative inverse depth at LR size, 16 bit, where the recipe uses one
    hr/NAME.png       the HR image, cropped to whole LR pixels, if asked for
    manifest.json     recipe, seed, versions, and for each image the drawn parameters and the sha256 of its files

An image's draws depend on the seed and its own file name, and not on other images or their order.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import time
from typing import Any

import jax
import numpy as np
from PIL import Image

from ssr_jax import xla
from ssr_jax.degrade import fields, isp, realesrgan, recipes
from ssr_jax.degrade.degrade import Degraded, degrade
from ssr_jax.image import io as image_io
from ssr_jax.image import kernels as kernel_lib
from ssr_jax.image import opening, resize
from ssr_jax.types import SSRError

FORMAT = 1
MANIFEST = 'manifest.json'
# The draws of each kind of field, besides the field itself.
_DRAWN = {
  'smooth': ('period',),
  'motion': ('period', 'strength'),
  'depth': ('focus', 'widest'),
  'depth_motion': ('period', 'strength', 'focus', 'widest', 'share'),
}
_NAMED = {'kind': realesrgan.KINDS, 'direction': realesrgan.DIRECTIONS, 'method': resize.RESAMPLING}


class LRSet:
  """A folder of LR images made by one recipe and seed.

  Attributes:
    directory: of the set.
    recipe: the degradation.
    seed: of all draws.
    manifest: the content of manifest.json, which `save` writes.
  """

  def __init__(self, directory: str | os.PathLike, recipe: recipes.Recipe, seed: int, versions: Mapping[str, str]):
    """Opens a set or starts one.

    Args:
      directory: made if it does not exist.
      recipe: must be the same as that of an existing set.
      seed: likewise.
      versions: of the programs that make the images, for the manifest.

    Raises:
      SSRError: a folder that holds another set, or cannot be made.
    """
    self.directory, self.recipe, self.seed, self._versions = pathlib.Path(directory), recipe, seed, dict(versions)
    self._saved, self._seconds = 0.0, 0.0  # when the manifest was last written, and how long that took
    self.manifest = {
      'format': FORMAT,
      'recipe': describe(recipe),
      'seed': seed,
      'versions': self._versions,
      'images': {},
    }
    if (self.directory / MANIFEST).exists():
      there = read_manifest(self.directory / MANIFEST)
      for what in ('recipe', 'seed'):
        if there[what] != self.manifest[what]:
          old, new = (one[what]['name'] if what == 'recipe' else one[what] for one in (there, self.manifest))
          other = f'of {what} {old}, not {new}' if old != new else f'of {what} {old} with other parameters'
          raise SSRError(f'-o {self.directory}: holds a set {other}; choose another folder')
      self.manifest = there
    try:
      for name in ('lr', 'kernels'):
        (self.directory / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise SSRError(f'-o {self.directory}: cannot be made ({error.strerror}); choose another place') from error

  def has(self, source: pathlib.Path) -> bool:
    """Whether the set has the image that this file, with its present content, would give."""
    entry = self.manifest['images'].get(source.name)
    if entry is None or not source.is_file() or entry['source']['sha256'] != _sha256(source.read_bytes()):
      return False
    return all((self.directory / entry[part]['file']).is_file() for part in ('lr', 'kernels', 'depth') if part in entry)

  def add(
    self, source: pathlib.Path, depth: np.ndarray | None = None, depth_from: str | None = None, write_hr: bool = False
  ) -> dict[str, Any]:
    """Degrades one file and writes its files into the set; an image of the same name is replaced.

    Args:
      source: the HR image.
      depth: relative inverse depth, [H, W] of the file's size or [h, w] of the LR image's; needed by some recipes.
      depth_from: where the depth comes from, for the manifest.
      write_hr: also write the HR image, cropped as it was degraded.

    Returns:
      the manifest's entry.

    Raises:
      SSRError: a file that cannot be read, is too small, or whose output has the name of another's.
    """
    stem, scale = source.stem, self.recipe.scale
    for other in self.manifest['images']:
      if other != source.name and pathlib.Path(other).stem == stem:
        raise SSRError(f'{source}: its output would replace that of {other}; rename one')
    for name in (f'lr/{stem}.png', f'hr/{stem}.png', f'depth/{stem}.png'):
      if (self.directory / name).exists() and source.exists() and os.path.samefile(self.directory / name, source):
        raise SSRError(f'{source}: lies where the set has its own files; choose another -o')
    picture = image_io.read(source)
    hr = picture.rgb if picture.rgb.dtype == np.uint8 else np.rint(picture.rgb * 255).astype(np.uint8)
    height, width = hr.shape[:2]
    H, W = (side - side % scale for side in (height, width))
    if not H or not W:
      raise SSRError(f'{source}: {width}x{height} pixels is less than one LR pixel; leave it out')
    hr = hr[:H, :W]
    if depth is not None:
      depth = _quantised(_at_lr_size(depth, (height, width), (H, W), scale, source))

    made = jax.device_get(_degrade(recipes.image_key(self.seed, source.name), hr[None], self.recipe, depth))
    lr = np.rint(made.lr[0] * 255).astype(np.uint8)
    entry = {
      'source': {'file': source.name, 'sha256': _sha256(source.read_bytes()), 'size': [width, height]},
      'hr_size': [W, H],
      'notes': list(picture.notes),
      'draws': _readable(made, self.recipe),
    }
    if (height, width) != (H, W):
      entry['notes'].append(f'cropped from {width}x{height} to {W}x{H}, top left kept')
    if self._versions != self.manifest['versions']:  # the set was started with other versions
      entry['versions'] = self._versions
    if depth is not None:
      (self.directory / 'depth').mkdir(exist_ok=True)
      levels = np.rint(depth[0] * 65535).astype(np.uint16)
      entry['depth'] = {**self._write(f'depth/{stem}.png', _png(levels)), 'from': depth_from or 'given'}
    if write_hr:
      (self.directory / 'hr').mkdir(exist_ok=True)
      entry['hr'] = self._write(f'hr/{stem}.png', _png(hr))
    entry['kernels'] = self._write(f'kernels/{stem}.npz', _kernel_file(made, self.recipe))
    # The pixels have their own sha256: another version of zlib may compress the same pixels to other bytes.
    entry['lr'] = {**self._write(f'lr/{stem}.png', _png(lr)), 'pixels_sha256': _sha256(lr.tobytes())}
    self.manifest['images'][source.name] = entry
    return entry

  def save(self) -> None:
    """Writes the manifest, images in the order of their names."""
    begin = time.monotonic()
    self.manifest['images'] = dict(sorted(self.manifest['images'].items()))
    image_io.write_bytes(self.directory / MANIFEST, (json.dumps(self.manifest, indent=1) + '\n').encode())
    self._saved, self._seconds = time.monotonic(), time.monotonic() - begin

  def checkpoint(self) -> None:
    """`save`, so that a killed run goes on here; left out where it would take more than a tenth of the time."""
    if time.monotonic() - self._saved >= 9 * self._seconds:
      self.save()

  def _write(self, name: str, data: bytes) -> dict[str, str]:
    image_io.write_bytes(self.directory / name, data)
    return {'file': name, 'sha256': _sha256(data)}


def read_manifest(path: str | os.PathLike) -> dict[str, Any]:
  """Reads a manifest. SSRError: not a manifest, or one of another format."""
  data = opening.read_bytes(path)
  try:
    manifest = json.loads(data)
    known = manifest['format']
    # A KeyError if one is absent.
    _ = manifest['recipe']['name'], manifest['seed'], dict(manifest['versions'])
    for name, entry in manifest['images'].items():
      parts = [entry[part]['file'] for part in ('lr', 'kernels', 'depth', 'hr') if part in entry or part == 'lr']
      if not all(isinstance(text, str) for text in (entry['source']['sha256'], *parts)):
        raise TypeError(name)
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise SSRError(f'{path}: not the manifest of an LR set; give the manifest.json that `ssr degrade` wrote') from error
  if known != FORMAT:
    raise SSRError(f'{path}: format {known}, but this version reads {FORMAT}; use the version that wrote it')
  return manifest


def recipe_of(manifest: Mapping[str, Any], path: str | os.PathLike) -> recipes.Recipe:
  """The recipe of a manifest; SSRError if this version gives the recipe other parameters."""
  stored: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in manifest['recipe'].items()}
  recipe = recipes.Recipe(**{f.name: stored[f.name] for f in dataclasses.fields(recipes.Recipe) if f.name in stored})
  if describe(recipe) != manifest['recipe']:
    then = ', '.join(f'{name} {version}' for name, version in manifest['versions'].items())
    raise SSRError(
      f'{path}: recipe {recipe.name} has other parameters in this version; use the versions that made the set: {then}'
    )
  return recipe


def describe(recipe: recipes.Recipe) -> dict[str, Any]:
  """A recipe with all its parameters, in the types of JSON."""
  parameters = {'name': recipe.name, **dataclasses.asdict(recipe)}
  if recipe.chain:
    parameters = {name: parameters[name] for name in ('name', 'field', 'scale')}
    parameters['chain'] = dataclasses.asdict(recipe.chain)
  elif recipe.blur:
    parameters = {name: value for name, value in parameters.items() if name not in ('eigenvalues', 'period')}
    parameters['blur'] = dataclasses.asdict(recipe.blur)
  elif recipe.mixture:
    del parameters['mode']
    chains = {name: realesrgan.CHAINS[name] for name in recipe.mixture if name in realesrgan.CHAINS}
    parameters['mixture'] = recipe.mixture
    parameters['chains'] = {name: dataclasses.asdict(chain) for name, chain in chains.items()}
  if recipe.mixture or (recipe.mode == 'isp' and not recipe.chain):
    parameters['isp'] = dataclasses.asdict(isp.CAMERA)
  return json.loads(json.dumps(parameters))


def read_kernels(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Kernels of a set's image.

  Args:
    path: of a file in kernels/.

  Returns:
    of Eq. 1 and of mixtures, {'kernels': [h, w, k*k]}; of recipes with one kernel, {'kernel': [k*k]}; of the
    second-order chain, the kernels of its three filters, 'first', 'second' and 'final', [k*k] each.
  """
  with np.load(path) as file:
    stored = {name: file[name] for name in file.files}
  if 'lambda1' not in stored:
    return stored
  lambda1, lambda2, theta = (np.broadcast_to(stored[name], stored['size']) for name in ('lambda1', 'lambda2', 'theta'))
  kernels = kernel_lib.gaussian_kernels(lambda1, lambda2, theta, scale=int(stored['scale']))
  return {'kernels': np.asarray(kernels)}


def read_depth(path: str | os.PathLike) -> np.ndarray:
  """The depth [h, w] that a set's image was made with."""
  with opening.opened(path) as image:
    return np.asarray(image).astype(np.float32) / 65535


def _degrade(key: jax.Array, hr: np.ndarray, recipe: recipes.Recipe, depth: np.ndarray | None) -> Degraded:
  """Degrades and drops what a set does not keep: kernels at each pixel are a hundred times as large as the LR image."""
  made = _run(key, hr.astype(np.float32) / 255, recipe, depth)
  kept = made.kernels[:, 0, 0] if recipe.blur else None
  return made.replace(kernels=kept, lr_clean=None, target=None)


_run = xla.jit(degrade, static_argnums=2)


def _readable(made: Degraded, recipe: recipes.Recipe) -> dict[str, Any]:
  """An image's draws with names instead of indices, and only those that had an effect."""
  draws = {name: value[0].item() for name, value in sorted(made.draws.items())}
  found = {}
  if recipe.mixture:
    found['part'] = tuple(recipe.mixture)[draws['part']]
    recipe = recipes.Recipe.parse(found['part'])
  if recipe.chain:
    for name, value in draws.items():
      of, _, what = name.partition('_')
      if of in ('first', 'second', 'final') or name == 'jpeg_last':
        found[name] = _NAMED[what][value] if what in _NAMED else value
    return found
  kind = None if recipe.blur else fields.KINDS[draws['kind']]
  if kind is None:
    found |= {name: draws[name] for name in ('sigma1', 'sigma2', 'angle')}
  else:
    found |= {'kind': kind, **{name: draws[name] for name in _DRAWN.get(kind, ())}}
  if kind == 'invariant':
    found |= {
      name: value[0, 0, 0].item() for name, value in zip(('lambda1', 'lambda2', 'theta'), made.field, strict=True)
    }
  if recipe.mode == 'isp':
    found |= {name: value for name, value in draws.items() if name.startswith('isp_')}
  return found | {'noise_sigma': made.noise_sigma[0].item(), 'jpeg_quality': made.jpeg_quality[0].item()}


def _kernel_file(made: Degraded, recipe: recipes.Recipe) -> bytes:
  """Three numbers per LR pixel instead of 441 taps; of a chain the taps of its three kernels, of `uniform` of one."""
  if recipe.blur:
    assert made.kernels is not None
    arrays = {'kernel': np.asarray(made.kernels[0])}
  elif recipe.chain:
    arrays = {name: np.asarray(taps[0]) for name, taps in _chain_kernels(made.draws).items()}
  else:
    arrays = {n: np.asarray(value[0]) for n, value in zip(('lambda1', 'lambda2', 'theta'), made.field, strict=True)}
    size = arrays['lambda1'].shape
    arrays = {name: value[:1, :1] if (value == value[0, 0]).all() else value for name, value in arrays.items()}
    arrays |= {'size': np.array(size), 'scale': np.array(recipe.scale)}
  return _npz(arrays)


_chain_kernels = jax.jit(realesrgan.kernels)


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
  """`np.savez_compressed` without the time of day, which would make the bytes differ from run to run."""
  import zipfile

  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, array in arrays.items():
      content = io.BytesIO()
      np.save(content, array)
      archive.writestr(zipfile.ZipInfo(f'{name}.npy'), content.getvalue(), zipfile.ZIP_DEFLATED)
  return buffer.getvalue()


def _at_lr_size(
  depth: np.ndarray, given: tuple[int, int], cropped: tuple[int, int], scale: int, source: pathlib.Path
) -> np.ndarray:
  """Depth [H, W] of the whole file or [h, w] of the LR image -> [1, h, w]."""
  size = cropped[0] // scale, cropped[1] // scale
  if depth.shape == given:
    depth = np.asarray(resize.resize(depth[: cropped[0], : cropped[1], None].astype(np.float32), size, 'area'))[..., 0]
  if depth.shape != size:
    raise SSRError(
      f'{source}: its depth is {depth.shape[1]}x{depth.shape[0]}, the size of neither the photo nor the LR image'
    )
  return depth[None]


def _quantised(depth: np.ndarray) -> np.ndarray:
  """Rounded as the 16-bit file holds it, so that the written depth is the depth that was used."""
  return np.rint(np.clip(depth, 0, 1) * 65535).astype(np.uint16).astype(np.float32) / 65535


def _png(pixels: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'PNG')
  return buffer.getvalue()


def _sha256(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()

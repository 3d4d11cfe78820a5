"""The LR images that an evaluation super-resolves, with their HR images and kernels."""

from collections.abc import Container, Iterator, Sequence
import dataclasses
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from ssr_jax import degrade, xla
from ssr_jax.data import sources
from ssr_jax.evaluation.protocol import SCALE
from ssr_jax.image import resize
from ssr_jax.types import SSRError, one_line

PAIRED = 'paired'
"""What stands for the recipe where LR images come from the dataset."""


@dataclasses.dataclass(frozen=True)
class Case:
  """One LR image to super-resolve.

  Attributes:
    image: file name of the HR photo, printable.
    recipe: name of the recipe; 'paired' where the LR image comes from the dataset.
    hr: [H, W, 3] uint8; None where there is none.
    lr: [h, w, 3] uint8.
    lr_clean: [h, w, 3] float32 in [0, 1], before noise, JPEG and rounding; None where it is not known.
    kernels: [h, w, k*k] float32, the true kernels; None where they are not known.
    depth: [H, W, 1] float32 in [0, 1], true relative inverse depth; None where it is not known.
    index: of the photo in the dataset.
    uncropped: (height, width) of the photo before its sides were made multiples of the scale.
    reduction: what follows the blur where one kernel blurs the whole image, one of `blur.REDUCTIONS`; None elsewhere.
  """

  image: str
  recipe: str
  hr: np.ndarray | None
  lr: np.ndarray
  lr_clean: np.ndarray | None = None
  kernels: np.ndarray | None = None
  depth: np.ndarray | None = None
  index: int = 0
  uncropped: tuple[int, int] = (0, 0)
  reduction: str | None = None

  @property
  def size(self) -> tuple[int, int]:
    """(H, W) of the result."""
    h, w, _ = self.lr.shape
    return SCALE * h, SCALE * w


@dataclasses.dataclass(frozen=True)
class Dataset:
  """HR photos with their LR images, or with the recipes that make LR images.

  Attributes:
    photos: records with 'hr', and with 'lr' and 'depth' where the source has them.
    recipes: the degradations; empty where the source has LR images.
    seed: of the degradations.
    indices: of the photos that are used.
    lr_only: whether the photos are LR images without HR ones.
  """

  photos: sources.Source
  recipes: Sequence[degrade.Recipe]
  seed: int
  indices: Sequence[int]
  lr_only: bool = False

  @classmethod
  def parse(cls, spec: str, recipes: Sequence[str], seed: int, limit: int) -> 'Dataset':
    """Opens a dataset.

    Args:
      spec: a source, such as 'folder:HR_DIR' or 'set:bsd100'; 'folder:HR_DIR,LR_DIR' means 'paired:HR_DIR,LR_DIR'.
        'lr:' before a source says that its photos are LR images, of which no HR image exists.
      recipes: names, such as 'smooth/no_noise'; ignored where the source has LR images.
      seed: of the degradations.
      limit: how many photos; 0 takes all.

    Raises:
      SSRError: limit is negative, the source cannot be read, there is no recipe, or a recipe is unknown or needs depth
        that photos lack.
    """
    if limit < 0:
      raise SSRError(f'eval.limit={limit}: must be a number of photos, or 0 for all')
    lr_only = spec.startswith('lr:')
    spec = spec.removeprefix('lr:')
    if spec.startswith('folder:') and ',' in spec:
      spec = spec.replace('folder:', 'paired:', 1).replace(',folder:', ',', 1)
    photos = sources.from_spec(spec, ('hr',), optional=() if lr_only else ('lr', 'depth'))
    used = range(min(limit or len(photos), len(photos)))
    if lr_only or 'lr' in photos.keys:
      return cls(photos, (), seed, used, lr_only)
    parsed = list(dict.fromkeys(degrade.Recipe.parse(name, scale=SCALE) for name in recipes))
    if not parsed:
      raise SSRError("eval.recipes is empty; give some such as ('smooth/no_noise',)")
    for recipe in parsed:
      if recipe.needs_depth and 'depth' not in photos.keys:
        raise SSRError(
          f"eval.recipes: field '{recipe.field}' needs a depth map, which photos lack; choose another "
          "field, an eval.dataset 'rgbd:DIR', or make the LR images with `ssr degrade`"
        )
    return cls(photos, parsed, seed, used)

  def __len__(self) -> int:
    return len(self.indices) * len(self.recipe_names)

  @property
  def recipe_names(self) -> tuple[str, ...]:
    """Of the cases that each photo makes."""
    return tuple(recipe.name for recipe in self.recipes) or (PAIRED,)

  def share(self, part: tuple[int, int]) -> 'Dataset':
    """Every n-th of the used photos, from the i-th on; part is (i, n)."""
    index, count = part
    return dataclasses.replace(self, indices=self.indices[index::count])

  def case_keys(self) -> Iterator[tuple[int, str]]:
    """(index of the photo, recipe) of all cases, photo by photo."""
    return ((i, recipe) for i in self.indices for recipe in self.recipe_names)

  def originals(self) -> list[str]:
    """File names of all photos, also of those that are not used."""
    return [self.photos.name(i) for i in range(len(self.photos))]

  def true_outputs(self) -> dict[str, bool]:
    """{kind of output: whether cases have its truth}."""
    return {'kernels': bool(self.recipes), 'depth': 'depth' in self.photos.keys}

  def cases(self, failures: list[str], done: Container[tuple[int, str]] = ()) -> Iterator[Case]:
    """The cases, photo by photo.

    Args:
      failures: gets a line for each photo that cannot be used; the iteration goes on with the next photo.
      done: keys of those to leave out.
    """
    for i in self.indices:
      if all((i, recipe) in done for recipe in self.recipe_names):
        continue
      file = pathlib.Path(self.photos.name(i)).name
      name = one_line(file)
      try:
        record = self.photos[i]
        if self.lr_only:
          yield Case(name, PAIRED, None, record['hr'], index=i)
          continue
        hr, depth = _cropped(name, record['hr']), record.get('depth')
        H, W, _ = hr.shape
        about: dict[str, Any] = {'index': i, 'uncropped': record['hr'].shape[:2]}
        if depth is not None:
          about['depth'] = np.asarray(depth[:H, :W, None], np.float32)
        if 'lr' in record:
          lr = record['lr']
          if (SCALE * lr.shape[0], SCALE * lr.shape[1]) != hr.shape[:2]:
            raise SSRError(
              f'{self.photos.name(i, "lr")}: {lr.shape[1]}x{lr.shape[0]} pixels, but {SCALE} times that '
              f'must be the size of {name}, {hr.shape[1]}x{hr.shape[0]}'
            )
          yield Case(name, PAIRED, hr, lr, **about)
        for recipe in self.recipes:
          if (i, recipe.name) not in done:
            case = self._degraded(file, recipe, hr, depth if recipe.needs_depth else None)
            yield dataclasses.replace(case, **about)
      except SSRError as error:
        failures.append(str(error))

  def _degraded(self, name: str, recipe: degrade.Recipe, hr: np.ndarray, depth: np.ndarray | None) -> Case:
    key = degrade.image_key(self.seed, name)  # the same key as in `ssr degrade`, so the same LR image
    low_depth = None
    if depth is not None:
      H, W, _ = hr.shape
      low_depth = resize.resize(jnp.asarray(depth)[None, :H, :W, None], (H // SCALE, W // SCALE), 'area')
    made = _degrade(key, hr[None].astype(np.float32) / 255, recipe, low_depth)
    lr = np.rint(np.asarray(made.lr[0]) * 255).astype(np.uint8)
    clean, kernels = (None if truth is None else np.asarray(truth[0]) for truth in (made.lr_clean, made.kernels))
    reduction = recipe.blur.down if recipe.blur else None
    return Case(one_line(name), recipe.name, hr, lr, clean, kernels, reduction=reduction)


_degrade = xla.jit(degrade.degrade, static_argnums=2)


def _cropped(name: str, image: np.ndarray) -> np.ndarray:
  """The largest part of [H, W, 3] from the top left whose sides are multiples of the scale."""
  H, W = (size - size % SCALE for size in image.shape[:2])
  if not H or not W:
    raise SSRError(f'{name}: {image.shape[1]}x{image.shape[0]} pixels is less than one LR pixel; leave it out')
  return image[:H, :W]

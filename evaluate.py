"""Evaluates a model against bicubic on a folder of photos.

  python evaluate.py --config=configs/compact.py --config.eval.dataset=folder:HR_DIR[,LR_DIR] --workdir=DIR

The dataset is any source of ssr_jax/data/sources.py, such as set:bsd100 or rgbd:DIR. With HR alone, each photo is
degraded by the recipes of `config.eval.recipes`, always in the same way: the draw depends on the file's name and
`config.eval.seed` only. With LR (`folder:HR_DIR,LR_DIR` is `paired:HR_DIR,LR_DIR`), that is taken as it is.

Writes under DIR: metrics.csv (one row per image, recipe and model), metrics.json (means and protocol), table.md, and
pictures/ with LR | bicubic | restored | result | HR. Exit code 0 all done, 1 some images failed (each named, the rest
done), 2 wrong usage.

Protocol: HR cropped at the bottom and right to a multiple of the scale; LR and every output rounded to 8 bit; PSNR and
SSIM on MATLAB's Y without crop; LR-PSNR and kernel PSNR where the true kernels are known; seconds per image of a call
that compiled nothing.

Fields of config.eval: dataset; metrics; models, out of bicubic, restored (SVKR's image) and result (after diffusion);
model, a name or a directory; recipes such as 'smooth/no_noise'; seed; niqe_params, the pristine model of NIQE, without
which NIQE is left out; limit, 0 for all images; pictures, how many; sampling, arguments of SSR.sample.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import pathlib
import sys
import time
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import tqdm

from configs import common
from ssr_jax import degrade, metrics, pipeline, xla
from ssr_jax.data import sources
from ssr_jax.evaluation.report import figures, tables
from ssr_jax.image import io, resize
from ssr_jax.types import SSRError

MODELS = ('bicubic', 'restored', 'result')
SCALE = 4
_SAMPLING = ('steps', 'sampler', 'start', 'colour_fix', 'strength', 'tile', 'seed')


def main(config: ConfigDict, workdir: str) -> int:
  """Evaluates, prints the table and says where the files are; returns the exit code."""
  xla.enable_compilation_cache()
  report = evaluate(config, workdir)
  print(report.table())
  print(f'written: {workdir}/table.md, metrics.csv, metrics.json, pictures/')
  for failure in report.failures:
    print(f'error: {failure}', file=sys.stderr)
  return 1 if report.failures else 0


@dataclasses.dataclass(frozen=True)
class Case:
  """One LR image to super-resolve.

  Attributes:
    image: file name of the HR photo.
    recipe: its name, or 'paired'.
    hr: [H, W, 3] uint8.
    lr: [h, w, 3] uint8.
    lr_clean: [h, w, 3] float32 before noise, JPEG and rounding; None where it is not known.
    kernels: [h, w, k*k] float32; None where they are not known.
  """

  image: str
  recipe: str
  hr: np.ndarray
  lr: np.ndarray
  lr_clean: np.ndarray | None = None
  kernels: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Output:
  """What a model made of a case: image [H, W, 3] uint8, estimated kernels [h, w, k*k] or None, seconds it took."""

  image: np.ndarray
  kernels: np.ndarray | None
  seconds: float


@dataclasses.dataclass
class Report:
  """What an evaluation found.

  Attributes:
    names: metrics, in order.
    protocol: what was done, for table.md and metrics.json.
    rows: one per image, recipe and model, with the metrics and 'seconds'.
    failures: one line per image that could not be evaluated.
  """

  names: Sequence[str]
  protocol: dict[str, Any]
  rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  failures: list[str] = dataclasses.field(default_factory=list)

  def means(self) -> list[dict[str, Any]]:
    """One row per recipe and model: 'recipe', 'model', 'images', mean metrics, mean 'seconds'."""
    rows = tables.means(self.rows, ('recipe', 'model'), (*self.names, 'seconds'))
    recipes = list(dict.fromkeys(row['recipe'] for row in rows))
    return sorted(rows, key=lambda row: recipes.index(row['recipe']))

  def table(self) -> str:
    """The means as a Markdown table, with the protocol above it."""
    protocol = '\n'.join(f'- {key}: {value}' for key, value in self.protocol.items())
    return f'{protocol}\n\n{tables.markdown(self.means(), self.names)}'

  def write(self, workdir: pathlib.Path) -> None:
    """Writes table.md, metrics.csv and metrics.json, each whole or not at all."""
    columns = ('image', 'recipe', 'model', *self.names, 'seconds')
    content = {'protocol': self.protocol, 'means': self.means(), 'failures': self.failures}
    for name, text in (
      ('metrics.csv', tables.to_csv(self.rows, columns)),
      ('metrics.json', tables.to_json(content)),
      ('table.md', self.table()),
    ):
      io.write_bytes(workdir / name, text.encode())


def evaluate(config: ConfigDict, workdir: str | None = None, ssr: pipeline.SSR | None = None) -> Report:
  """Evaluates as `config.eval` says.

  Args:
    config: with the fields of `configs.common.base`'s `eval`.
    workdir: where files are written; None writes none.
    ssr: a loaded model, instead of `config.eval.model`.

  Returns:
    A `Report`.

  Raises:
    SSRError: a wrong field, nothing to read, or not one image that could be evaluated.
  """
  eval_ = config.eval
  models = _choice('eval.models', _words(eval_.models), MODELS)
  names = list(metrics.get(_words(eval_.metrics)))
  sampling = {'seed': eval_.seed, **{key: value for key, value in eval_.sampling.items() if value is not None}}
  _choice('eval.sampling', list(sampling), _SAMPLING)
  pristine = None
  if 'niqe' in names and not eval_.niqe_params:
    names.remove('niqe')
    print('niqe is left out: eval.niqe_params names no pristine model', file=sys.stderr)
  elif 'niqe' in names:
    pristine = metrics.niqe.load_pristine(eval_.niqe_params)
  dataset = Dataset.parse(eval_.dataset, eval_.recipes, eval_.seed, eval_.limit)
  if ssr is None and set(models) - {'bicubic'}:
    ssr = pipeline.load(eval_.model, dtype=eval_.dtype)
  lacking = {} if ssr is None else _lacking(ssr, sampling)
  for model in models:
    if lacking.get(model):
      able = tuple(m for m in MODELS if not lacking[m])
      parts = ', '.join(lacking[model])
      raise SSRError(
        f"eval.models: '{model}' needs the part {parts}, which model '{ssr.config['name']}' lacks; "
        f'give eval.models={able}'
      )
  if workdir is not None:
    workdir = pathlib.Path(workdir)
    try:
      (workdir / 'pictures').mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise SSRError(f'{workdir}: cannot be made ({error.strerror}); choose another --workdir') from error

  report = Report(
    names,
    protocol={
      'dataset': f'{eval_.dataset}, {len(dataset.photos)} images',
      'model': 'none' if ssr is None else f'{ssr.config["name"]}, {ssr.dtype}, sampling {_sampling(ssr, sampling)}',
      'measured': 'PSNR and SSIM on Y (MATLAB BT.601, 16-235), no crop, 8-bit images, mean over images; '
      'NIQE on full-range luma, whole 96x96 blocks',
      'degradation': f'seed {eval_.seed} and file name' if dataset.recipes else 'none: LR images as given',
      'seconds': f'per image, calls that compiled nothing; {jax.default_backend()}, jax {jax.__version__}',
    },
  )
  wants_kernels = bool({'lr_psnr', 'kernel_psnr'} & set(names))
  drawn = 0
  for case in tqdm.tqdm(dataset.cases(report.failures), 'evaluate', len(dataset), unit='image', disable=None):
    try:
      outputs = {model: run(model, ssr, case.lr, sampling, wants_kernels) for model in models}
      for model, output in outputs.items():
        values = metrics.score(
          names,
          image=output.image,
          reference=case.hr,
          kernels=output.kernels,
          true_kernels=case.kernels,
          lr_clean=case.lr_clean,
          pristine=pristine,
        )
        row = {'image': case.image, 'recipe': case.recipe, 'model': model, **values, 'seconds': output.seconds}
        report.rows.append(row)
    except ValueError as error:  # SSRError, and what a metric says of an image too small for it
      report.failures.append(f'{case.image} ({case.recipe}): {error}')
      continue
    if workdir is not None and drawn < eval_.pictures * max(1, len(dataset.recipes)):
      drawn += 1
      name = f'{pathlib.Path(case.image).stem}_{case.recipe.replace("/", "_")}.png'
      io.write(workdir / 'pictures' / name, io.Picture(np.asarray(picture(case, outputs))))
  if not report.rows:
    raise SSRError(f'eval.dataset: not one image could be evaluated; the first: {report.failures[0]}')
  if report.failures:
    report.protocol['failed'] = f'{len(report.failures)} of {len(dataset)}'
  if workdir is not None:
    report.write(workdir)
  return report


def validate(ssr: pipeline.SSR, dataset: str, **fields: Any) -> list[dict[str, Any]]:
  """Mean metrics of a loaded model, without files: for programs that choose between weights.

  Args:
    ssr: the model.
    dataset: as `config.eval.dataset`.
    **fields: other fields of `config.eval`, such as models=('restored',), metrics=('psnr',), limit=20.

  Returns:
    one row per recipe and model: 'recipe', 'model', 'images', the metrics, 'seconds'.
  """
  config = common.base('')
  config.eval.update(dataset=dataset, **fields)
  return evaluate(config, ssr=ssr).means()


# -- Data --------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Dataset:
  """HR photos with their LR partners, or with recipes that make them.

  Attributes:
    photos: records with 'hr', and with 'lr' and 'depth' where the source has them.
    recipes: what makes LR; empty where the source has LR.
    seed: of the recipes' draws.
  """

  photos: sources.Source
  recipes: Sequence[degrade.Recipe]
  seed: int

  @classmethod
  def parse(cls, spec: str, recipes: Sequence[Any], seed: int, limit: int) -> 'Dataset':
    """A source such as 'folder:HR_DIR' or 'set:bsd100'; 'folder:HR_DIR,LR_DIR' is 'paired:HR_DIR,LR_DIR'.

    Args:
      spec: the source.
      recipes: as 'field/mode' or (field, mode).
      seed: of their draws.
      limit: how many photos; 0 takes all.

    Raises:
      SSRError: naming the field that is wrong.
    """
    if spec.startswith('folder:') and ',' in spec:
      spec = spec.replace('folder:', 'paired:', 1).replace(',folder:', ',', 1)
    photos = sources.from_spec(spec, ('hr',), optional=('lr', 'depth'))
    if limit:
      photos = sources.Subset(photos, range(min(limit, len(photos))))
    if 'lr' in photos.keys:
      return cls(photos, (), seed)
    names = [name if isinstance(name, str) else '/'.join(name) for name in recipes]
    recipes = [degrade.Recipe.parse(name, scale=SCALE) for name in _words(names)]
    if not recipes:
      raise SSRError("eval.recipes is empty; give some such as ('smooth/no_noise',)")
    for recipe in recipes:
      if recipe.needs_depth and 'depth' not in photos.keys:
        raise SSRError(
          f"eval.recipes: field '{recipe.field}' needs a depth map, which photos lack; choose another "
          "field, an eval.dataset 'rgbd:DIR', or make the LR images with `ssr degrade`"
        )
    return cls(photos, recipes, seed)

  def __len__(self) -> int:
    return len(self.photos) * max(1, len(self.recipes))

  def cases(self, failures: list[str]) -> Iterator[Case]:
    """All cases, image by image; a record that cannot be used adds a line to `failures` instead."""
    for i in range(len(self.photos)):
      name = pathlib.Path(self.photos.name(i)).name
      try:
        record = self.photos[i]
        hr = _cropped(name, record['hr'])
        if 'lr' in record:
          lr = record['lr']
          if (SCALE * lr.shape[0], SCALE * lr.shape[1]) != hr.shape[:2]:
            raise SSRError(
              f'{self.photos.name(i, "lr")}: {lr.shape[1]}x{lr.shape[0]} pixels, but {SCALE} times that '
              f'must be the size of {name}, {hr.shape[1]}x{hr.shape[0]}'
            )
          yield Case(name, 'paired', hr, lr)
        for recipe in self.recipes:
          yield self._degraded(name, recipe, hr, record.get('depth') if recipe.needs_depth else None)
      except SSRError as error:
        failures.append(str(error))

  def _degraded(self, name: str, recipe: degrade.Recipe, hr: np.ndarray, depth: np.ndarray | None) -> Case:
    key = degrade.image_key(self.seed, name)  # the LR images that `ssr degrade` makes
    if depth is not None:
      H, W, _ = hr.shape
      depth = resize.resize(depth[None, :H, :W, None], (H // SCALE, W // SCALE), 'area')
    made = _degrade(key, hr[None].astype(np.float32) / 255, recipe, depth)
    lr = np.rint(np.asarray(made.lr[0]) * 255).astype(np.uint8)
    clean, kernels = (None if truth is None else np.asarray(truth[0]) for truth in (made.lr_clean, made.kernels))
    return Case(name, recipe.name, hr, lr, clean, kernels)


_degrade = xla.jit(degrade.degrade, static_argnums=2)


def _cropped(name: str, image: np.ndarray) -> np.ndarray:
  H, W = (size - size % SCALE for size in image.shape[:2])
  if not H or not W:
    raise SSRError(f'{name}: {image.shape[1]}x{image.shape[0]} pixels is less than one LR pixel; leave it out')
  return image[:H, :W]


# -- Models ------------------------------------------------------------------------------------------------------------


def run(
  model: str, ssr: pipeline.SSR | None, lr: np.ndarray, sampling: dict[str, Any], keep_kernels: bool = True
) -> Output:
  """Super-resolves one LR image [h, w, 3] uint8 by one of `MODELS`.

  A call that compiled something is made once more, so that the time is that of every later image.
  """
  if model == 'bicubic':
    begin = time.perf_counter()
    h, w, _ = lr.shape
    image = np.asarray(Image.fromarray(lr).resize((SCALE * w, SCALE * h), Image.Resampling.BICUBIC))
    return Output(image, None, time.perf_counter() - begin)
  if model == 'restored':
    sampling = {**sampling, 'steps': 0}
  while True:
    compiled = ssr.traces.total()
    begin = time.perf_counter()
    result = ssr.sample(lr, scale=SCALE, keep_kernels=keep_kernels, **sampling)
    seconds = time.perf_counter() - begin
    if ssr.traces.total() == compiled:
      break
  return Output(result.restored if model == 'restored' else result.image, result.kernels, seconds)


def picture(case: Case, outputs: dict[str, Output]) -> Image.Image:
  """LR (nearest) | each model's output | HR, labelled with PSNR."""
  nearest = case.lr.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
  panels, labels = [nearest], [f'LR, {case.recipe}']
  for model, output in outputs.items():
    panels.append(output.image)
    labels.append(f'{model} {metrics.psnr.psnr(output.image, case.hr):.2f} dB')
  return figures.side_by_side([*panels, case.hr], [*labels, 'HR'])


def _lacking(ssr: pipeline.SSR, sampling: dict[str, Any]) -> dict[str, list[str]]:
  """{one of MODELS: the parts for it that the model directory does not have}."""
  asked = {key: sampling.get(key) for key in ('steps', 'sampler', 'start')}
  needs = {'bicubic': (), 'restored': ssr.parts(steps=0), 'result': ssr.parts(**asked)}
  return {model: [part for part in parts if part not in ssr.modules] for model, parts in needs.items()}


def _sampling(ssr: pipeline.SSR, sampling: dict[str, Any]) -> str:
  if not ssr.generates:
    return 'none'
  options, finishing = ssr.check(scale=ssr.config['scale'], **{k: v for k, v in sampling.items() if k != 'seed'})
  used = {**options, **finishing, 'seed': sampling['seed']}
  return ', '.join(f'{key} {value}' for key, value in used.items())


# -- Config ------------------------------------------------------------------------------------------------------------


def _words(value: str | Sequence[str]) -> list[str]:
  """('a', 'b'), 'a,b' and ('a,b',) alike as ['a', 'b']."""
  items = [value] if isinstance(value, str) else value
  return [word.strip() for item in items for word in item.split(',') if word.strip()]


def _choice(field: str, values: Sequence[str], known: Sequence[str]) -> list[str]:
  if not values:
    raise SSRError(f'{field} is empty; known: {", ".join(known)}')
  for value in values:
    if value not in known:
      raise SSRError(f'{field}: unknown {value!r}; known: {", ".join(known)}')
  return list(values)


if __name__ == '__main__':
  common.run(main, __doc__)

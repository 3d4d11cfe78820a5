"""What an evaluation does: the checked fields of `config.eval`, and the protocol that a report states."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import hashlib
import importlib.metadata
import pathlib
from typing import Any

import jax

from ssr_jax import metrics as metrics_lib
from ssr_jax.types import SSRError
from ssr_jax.weights import published

SCALE = 4
"""HR size divided by LR size."""

_MEASURED = (
  'PSNR and SSIM on Y (MATLAB BT.601, 16-235), {crop}, 8-bit images, mean over images; '
  'NIQE on full-range luma, whole 96x96 blocks'
)
# Fields of `config.eval` that name the weights of a metric.
_WEIGHTS = {'niqe': 'niqe_params'}


@dataclasses.dataclass(frozen=True)
class Settings:
  """The fields of `config.eval`.

  Attributes:
    dataset: source of the photos; see `cases.Dataset.parse`.
    models: which images to score, in the language of `columns`.
    metrics: names of metrics.
    weights: {metric: file} for the metrics that have weights; '' where the config names none.
    recipes: names of the degradations, such as 'smooth/no_noise'.
    model: name or directory of the model.
    dtype: what its networks compute in, by name.
    devices: how many of this process's devices images are spread over; None takes all.
    sampling: options of sampling that the config sets.
    seed: of the degradations.
    seeds: of sampling; a model that samples is scored with each.
    outputs: other tools' images to score, 'NAME:DIR[;NAME2:DIR2]'.
    compare: pairs of columns for a paired test, 'A,B[;C,D]'.
    limit: how many photos; 0 takes all.
    pictures: how many images of each recipe get pictures.
    page: whether to write index.html.
    crop: pixels left out on every side by metrics that compare an image with HR.
    part: (i, n): of the photos every n-th is done, from the i-th on; None for all.
  """

  dataset: str
  models: tuple[str, ...]
  metrics: tuple[str, ...]
  weights: Mapping[str, str]
  recipes: tuple[str, ...]
  model: str = 'compact'
  dtype: str = 'float32'
  devices: int | None = None
  sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  seed: int = 0
  seeds: tuple[int, ...] = (0,)
  outputs: str = ''
  compare: str = ''
  limit: int = 0
  pictures: int = 0
  page: bool = False
  crop: int = 0
  part: tuple[int, int] | None = None

  @classmethod
  def from_config(cls, fields: Any) -> 'Settings':
    """Reads `config.eval`.

    Args:
      fields: `config.eval`, with the fields that `configs.common.base` gives it. Lists of words may be ('a', 'b'),
        'a,b' or ('a,b',); a recipe may also be (field, mode).

    Raises:
      SSRError: an unknown metric, a negative number of pictures or pixels, seeds that are no numbers, or a part that is
        none.
    """
    if fields.crop < 0:
      raise SSRError(f'eval.crop={fields.crop}: must be a number of pixels, or 0 for none')
    if fields.pictures < 0:
      raise SSRError(f'eval.pictures={fields.pictures}: must be a number of images, or 0 for none')
    recipes = [recipe if isinstance(recipe, str) else '/'.join(recipe) for recipe in _as_list(fields.recipes)]
    return cls(
      dataset=fields.dataset,
      models=words(fields.models),
      metrics=tuple(metrics_lib.get(words(fields.metrics))),
      weights={name: fields[field] for name, field in _WEIGHTS.items()},
      recipes=words(recipes),
      model=fields.model,
      dtype=fields.dtype,
      devices=fields.devices,
      sampling={key: value for key, value in fields.sampling.items() if value is not None},
      seed=fields.seed,
      seeds=_seeds(fields.seeds) or (fields.seed,),
      outputs=fields.outputs,
      compare=fields.compare,
      limit=fields.limit,
      pictures=fields.pictures,
      page=fields.pictures > 0 if fields.page is None else fields.page,
      crop=fields.crop,
      part=_part(fields.part),
    )

  def load_metrics(self) -> tuple[dict[str, metrics_lib.Metric], dict[str, metrics_lib.Missing]]:
    """Loads the metrics.

    Returns:
      The metrics, without those that have no weights; and what is missing of the latter. Weights are those that the
      config names, else those that `ssr weights import` wrote, else the package's own.

    Raises:
      SSRError: weights that cannot be read, or not one metric that has what it needs.
    """
    missing: dict[str, metrics_lib.Missing] = {}
    found = metrics_lib.load(self.metrics, self._files(), missing)
    if missing and not found:
      raise next(iter(missing.values()))
    return found, missing

  def _files(self) -> dict[str, Any]:
    """The weights of each metric that has some: those that the config names, else those that were imported."""
    weighted = [name for name in self.metrics if metrics_lib.METRICS[name].weights]
    return {name: self.weights.get(name) or published.of_metric(name) for name in weighted}


def describe(
  settings: Settings,
  images: int,
  degraded: bool,
  model: str,
  scorers: Mapping[str, metrics_lib.Metric] | None = None,
) -> dict[str, str]:
  """The protocol: how the numbers of a report were made.

  Args:
    settings: of the evaluation.
    images: number of photos.
    degraded: whether the LR images were made by recipes.
    model: the model and how it sampled; see `models.describe`.
    scorers: the loaded metrics; those with weights are named. None names those that the package has weights for.

  Returns:
    {topic: text}.
  """
  found = {
    'dataset': f'{settings.dataset}, {images} images',
    'model': model,
    'measured': _measured(settings, scorers),
    'degradation': f'seed {settings.seed} and file name' if degraded else 'none: LR images as given',
    'seconds': f'per image, calls that compiled nothing; {jax.default_backend()}, jax {jax.__version__}',
  }
  if len(settings.seeds) > 1:
    found['seeds'] = f'mean over the seeds {", ".join(map(str, settings.seeds))} of sampling'
  if settings.outputs:
    found['images of others'] = settings.outputs
  return found


def identity(
  settings: Settings, originals: Sequence[str], restorers: Mapping[str, Any], others: Mapping[str, Any]
) -> dict[str, str]:
  """What rows depend on: two runs that are equal in this have the same rows, but for their seconds.

  `limit` and `part` do not belong to it: rows of some images are those of all. Nor do `devices`, which change no row.

  Args:
    settings: of the evaluation.
    originals: file names of all photos.
    restorers: {name: loaded model}.
    others: {name: `models.Folder`}.

  Returns:
    {what: text}, with digests for what is long.
  """
  own = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
  left_out = ('limit', 'weights', 'compare', 'page', 'devices', 'part')
  texts = {f'eval.{name}': repr(value) for name, value in own.items() if name not in left_out}
  # model.json has the sha256 of each part.
  texts['the models'] = _digest(f'{name} {restorer.config}' for name, restorer in restorers.items())
  texts['the photos'] = _digest(originals)
  weights = dict(settings.weights) | {name: path for name, path in settings._files().items() if path}
  texts['weights of metrics'] = _digest(f'{k} {v and _digest_of(v)}' for k, v in sorted(weights.items()))
  for name, folder in others.items():
    files = (f'{i} {path} {path.stat().st_size}' for i, path in sorted(folder.images.items()))
    texts[f'the images of {name}'] = _digest(files)
  texts['the version'] = f'ssr-jax {_version()}, jax {jax.__version__}, {jax.default_backend()}'
  return texts


def _version() -> str:
  try:
    return importlib.metadata.version('ssr-jax')
  except importlib.metadata.PackageNotFoundError:  # run from a source tree
    return 'not installed'


def _digest(texts: Iterable[str]) -> str:
  return hashlib.sha256('\0'.join(texts).encode(errors='surrogateescape')).hexdigest()


def _digest_of(file: str) -> str:
  return hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest()


def _measured(settings: Settings, scorers: Mapping[str, metrics_lib.Metric] | None) -> str:
  """What all metrics have in common, and the weights of those that have some, by heading."""
  if scorers is None:
    named = [name for name in settings.metrics if metrics_lib.METRICS[name].bundled]
    scorers = metrics_lib.load(named, settings._files())
  crop = f'crop of {settings.crop} pixels on every side in comparisons with HR' if settings.crop else 'no crop'
  return '; '.join([_MEASURED.format(crop=crop), *(metric.heading() for metric in scorers.values() if metric.weights)])


def words(value: str | Sequence[str]) -> tuple[str, ...]:
  """The words of ('a', 'b'), 'a,b' or ('a,b',), as ('a', 'b')."""
  return tuple(word.strip() for item in _as_list(value) for word in item.split(',') if word.strip())


def _seeds(value: int | str | Sequence[int | str]) -> tuple[int, ...]:
  """The seeds of 3, (0, 1), '0,1' or ('0,1',)."""
  items = [value] if isinstance(value, int | str) else list(value)
  found = [text for item in items for text in str(item).split(',') if text.strip()]
  if not all(text.strip().lstrip('-').isdecimal() for text in found):
    raise SSRError(f'eval.seeds: {value!r} must be whole numbers, such as 0,1,2')
  numbers = tuple(int(text) for text in found)
  if len(set(numbers)) < len(numbers):
    raise SSRError(f'eval.seeds: {value!r} has a seed twice')
  return numbers


def _part(text: str) -> tuple[int, int] | None:
  """'1/4' as (1, 4), '' as None."""
  if not text:
    return None
  index, _, count = text.partition('/')
  if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
    raise SSRError(f'eval.part: {text!r} must be I/N with I from 0 to N - 1, such as 0/4, one for each of N processes')
  return int(index), int(count)


def check_choice(field: str, values: Sequence[str], known: Sequence[str]) -> None:
  """Checks the words of a config field.

  Raises:
    SSRError: there are no words, or one is not among `known`; the message names the field and lists the known words.
  """
  if not values:
    raise SSRError(f'{field} is empty; known: {", ".join(known)}')
  for value in values:
    if value not in known:
      raise SSRError(f'{field}: unknown {value!r}; known: {", ".join(known)}')


def _as_list(value: Any) -> list[Any]:
  return [value] if isinstance(value, str) else list(value)

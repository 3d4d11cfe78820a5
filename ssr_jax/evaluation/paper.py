"""Tables 1-4 and Figs. 8 and 9 of the SSR paper, on those of their sets that are there, ours beside the paper's rows.

The paper does not give its channels, crops, degradations, training data or steps: a row of ours and one of the paper's
are made by different protocols, and each table says ours. docs/paper.md goes through the paper's claims.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import pathlib

from ssr_jax import metrics
from ssr_jax.data import catalog
from ssr_jax.evaluation import models, runner
from ssr_jax.evaluation.protocol import Settings
from ssr_jax.evaluation.report import tables
from ssr_jax.types import SSRError

METRICS = ('psnr', 'ssim', 'lpips', 'musiq', 'clipiqa', 'niqe')
"""The paper's metrics, in the order of its tables."""

NIQE = 'niqe/niqe_pris_params.npz'
"""Where below the root the published pristine model is looked for."""

Values = tuple[float | str | None, ...]


@dataclasses.dataclass(frozen=True)
class Set:
  """A test set of the paper.

  Attributes:
    title: what the paper calls it.
    name: in the catalogue; '' for one that cannot be had, `note` then says why.
    recipes: how its HR photos are degraded; () where it has LR images.
    note: what is ours about it.
    lr_only: whether it has no HR images.
  """

  title: str
  name: str = ''
  recipes: tuple[str, ...] = ()
  note: str = ''
  lr_only: bool = False


_CHAIN = 'the paper does not say how it degrades; ours is the published light second-order chain'
DIV2K = Set('DIV2K valid', 'div2k-val', ('realesrgan-light',), _CHAIN)
BSDS100 = Set('BSDS100', 'bsd100', ('realesrgan-light',), _CHAIN)
URBAN100 = Set('Urban100', 'urban100', ('realesrgan-light',), _CHAIN)
DREALSR = Set('DRealSR', 'drealsr-crops', note="centre crops of 128x128; the paper's crops are not given")
DPED = Set(
  'DPED-iphone', 'dped-iphone-crops', note='no HR exists: the paper does not say what its PSNR is against', lr_only=True
)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A table or figure of the paper.

  Attributes:
    title: its caption, short.
    sets: the paper's first, then stand-ins that are used only to see the effect.
    columns: {row of the table: column of ours}; ('', column) pairs have no row in the paper.
    published: {(title of the set, row): values of `METRICS`}; None where the paper has none.
    note: what the comparison is, in words.
    by_recipe: {recipe: row} where rows are degradations, not columns.
    compare: columns for paired tests.
    pictures: per set.
    metrics: what the values of a published row are, in their order.
    model: that is scored, unless another one is named.
    others: {another model of the columns: how it is made}; rows of models that are not there are left out with a line.
    crop: pixels left out on every side by metrics that compare with HR.
    pooled: whether a row is the mean over the recipes of a set.
  """

  title: str
  sets: tuple[Set, ...]
  columns: Mapping[str, str]
  published: Mapping[tuple[str, str], Values]
  note: str = ''
  by_recipe: Mapping[str, str] = dataclasses.field(default_factory=dict)
  compare: str = ''
  pictures: int = 2
  metrics: tuple[str, ...] = METRICS
  model: str = 'compact'
  others: Mapping[str, str] = dataclasses.field(default_factory=dict)
  crop: int = 0
  pooled: bool = False


# None: a number that the text of the paper at hand does not have in a legible form.
_TABLE_1: dict[tuple[str, str], Values] = {
  ('DIV2K valid', 'DAN'): (22.17, 0.72, 0.42, 56.98, 0.39, 6.13),
  ('DIV2K valid', 'DCLS'): (22.41, 0.74, 0.41, 54.12, 0.39, 6.26),
  ('DIV2K valid', 'DASR'): (21.45, 0.67, 0.52, 54.25, 0.45, 6.77),
  ('DIV2K valid', 'MANet'): (18.95, 0.60, 0.44, 49.32, 0.38, 7.30),
  ('DIV2K valid', 'SwinIR'): (22.08, 0.73, 0.32, 68.75, 0.57, 3.96),
  ('DIV2K valid', 'HAT'): (22.01, 0.72, 0.41, 53.80, 0.33, 6.31),
  ('DIV2K valid', 'RealESRGAN'): (22.23, 0.73, 0.32, 69.41, 0.57, 4.44),
  ('DIV2K valid', 'DDNM'): (None, 0.72, 0.37, 64.22, 0.62, 3.99),
  ('DIV2K valid', 'ResShift'): (22.38, 0.72, 0.31, 70.58, 0.67, 5.16),
  ('DIV2K valid', 'SSR'): (22.77, 0.75, 0.30, 71.44, 0.69, 3.82),
  ('BSDS100', 'DAN'): (27.95, 0.87, 0.30, 47.46, 0.43, 7.03),
  ('BSDS100', 'DCLS'): (28.03, 0.89, 0.27, 45.07, 0.45, 7.19),
  ('BSDS100', 'DASR'): (28.79, 0.89, 0.28, 46.12, 0.49, 7.43),
  ('BSDS100', 'MANet'): (22.79, 0.77, 0.31, 41.10, 0.40, 8.05),
  ('BSDS100', 'SwinIR'): (26.08, 0.84, 0.31, 63.99, 0.56, 4.54),
  ('BSDS100', 'HAT'): (28.04, 0.87, 0.29, 43.82, 0.37, 7.17),
  ('BSDS100', 'RealESRGAN'): (26.62, 0.85, 0.29, 62.85, 0.52, 4.70),
  ('BSDS100', 'DDNM'): (29.48, 0.87, 0.34, 27.12, 0.32, 8.45),
  ('BSDS100', 'ResShift'): (26.40, 0.81, 0.38, 65.35, 0.69, 5.90),
  ('BSDS100', 'SSR'): (27.13, 0.90, 0.25, 68.86, 0.72, 3.78),
  ('Urban100', 'DAN'): (20.26, 0.69, 0.40, 56.80, 0.41, 6.15),
  ('Urban100', 'DCLS'): (21.18, 0.72, 0.37, 55.07, 0.40, 6.28),
  ('Urban100', 'DASR'): (21.36, 0.73, 0.38, 55.17, 0.43, 6.72),
  ('Urban100', 'MANet'): (17.05, 0.54, 0.40, 52.56, 0.38, 6.79),
  ('Urban100', 'SwinIR'): (20.37, 0.71, 0.29, 71.76, 0.65, 4.28),
  ('Urban100', 'HAT'): (19.56, 0.67, 0.39, 56.12, 0.38, 6.33),
  ('Urban100', 'RealESRGAN'): (20.61, 0.72, 0.29, 71.92, 0.61, 4.10),
  ('Urban100', 'DDNM'): (20.01, 0.73, 0.29, 51.65, 0.24, 5.94),
  ('Urban100', 'ResShift'): (21.71, 0.74, 0.27, 71.70, 0.68, 5.50),
  ('Urban100', 'SSR'): (21.23, 0.71, 0.27, 72.74, 0.70, 4.68),
  ('DRealSR', 'DAN'): (31.00, 0.92, 0.39, 25.24, 0.38, 9.06),
  ('DRealSR', 'DCLS'): (30.97, 0.92, 0.41, 24.71, 0.41, 10.26),
  ('DRealSR', 'DASR'): (20.98, 0.92, 0.41, 27.07, 0.40, 8.88),
  ('DRealSR', 'MANet'): (27.42, 0.90, 0.41, 24.67, 0.39, 9.58),
  ('DRealSR', 'SwinIR'): (28.45, 0.89, 0.36, 51.95, 0.40, 5.31),
  ('DRealSR', 'HAT'): (30.96, 0.93, 0.41, 23.66, 0.41, 10.37),
  ('DRealSR', 'RealESRGAN'): (29.94, 0.92, 0.35, 47.78, 0.38, 5.20),
  ('DRealSR', 'DDNM'): (25.01, 0.73, 0.49, 41.65, 0.44, 5.95),
  ('DRealSR', 'ResShift'): (25.77, 0.71, 0.57, 43.23, 0.57, 9.09),
  ('DRealSR', 'SSR'): (28.33, 0.85, 0.30, 63.58, 0.64, 5.01),
}

EXPERIMENTS = {
  'table1': Experiment(
    'Table 1: synthetic and real sets, x4',
    (DIV2K, BSDS100, URBAN100, DREALSR),
    {'bicubic': 'bicubic', 'before diffusion': 'restored', 'SSR': 'result'},
    _TABLE_1,
    compare='result,bicubic;result,restored',
  ),
  'table2': Experiment(
    'Table 2: kernel, depth and SVKR',
    (DIV2K, dataclasses.replace(BSDS100, title='BSDS100 (not in the paper)')),
    {
      'kernel': 'result+depth=none+iterations=1',
      'depth': 'result+kernels=none+iterations=1',
      'kernel + depth': 'result+iterations=1',
      'kernel + depth + SVKR': 'result',
    },
    {
      ('DIV2K valid', 'kernel'): (21.26, 0.69, 0.32, None, None, None),
      ('DIV2K valid', 'depth'): (21.77, 0.70, 0.30, None, None, None),
      ('DIV2K valid', 'kernel + depth'): (21.98, 0.71, 0.30, None, None, None),
      ('DIV2K valid', 'kernel + depth + SVKR'): (22.77, 0.75, 0.30, None, None, None),
    },
    'Ours takes a modality away from one trained model when it samples (its value then says nothing of the image); the '
    'paper does not say whether it trains a model for each row. Without SVKR means one round, which leaves the first '
    'depth and kernels (Algorithm 1).',
    compare='result,result+iterations=1;result+iterations=1,result+depth=none+iterations=1;'
    'result+iterations=1,result+kernels=none+iterations=1',
  ),
  'table3': Experiment(
    'Table 3: degradation modes',
    tuple(
      dataclasses.replace(one, recipes=('mixed/no_noise', 'mixed/no_jpeg', 'mixed/noise_jpeg'), note=note, title=title)
      for one, title, note in (
        (DIV2K, 'DIV2K valid', 'levels of noise and JPEG are ours'),
        (BSDS100, 'BSDS100 (not in the paper)', 'levels of noise and JPEG are ours'),
      )
    ),
    {'SSR': 'result', 'bicubic': 'bicubic'},
    {
      ('DIV2K valid', 'w/o noise'): (22.17, 0.72, 0.42, 56.98, 0.39, 6.13),
      ('DIV2K valid', 'w/o jpeg'): (22.41, 0.74, 0.41, 54.12, 0.39, 6.26),
      ('DIV2K valid', 'noise + jpeg'): (22.77, 0.75, 0.30, 71.44, 0.69, 3.82),
    },
    "The paper's first two rows repeat DAN's and DCLS's rows of its Table 1 digit for digit, so they are no results of "
    'SSR.',
    by_recipe={'mixed/no_noise': 'w/o noise', 'mixed/no_jpeg': 'w/o jpeg', 'mixed/noise_jpeg': 'noise + jpeg'},
  ),
  'table4': Experiment(
    'Table 4: photos of a phone, and time',
    (DPED, dataclasses.replace(DREALSR, title='DRealSR (not in the paper)')),
    {'bicubic': 'bicubic', 'SSR': 'result'},
    {
      ('DPED-iphone', 'RealESRGAN'): (25.24, 0.82, 0.33, 60.10, 0.41, 3.28),
      ('DPED-iphone', 'LDM'): (24.35, 0.77, 0.36, 52.77, 0.29, 3.57),
      ('DPED-iphone', 'SR3'): (9.39, 0.23, 0.65, 29.96, 0.31, 13.30),
      ('DPED-iphone', 'DDNM'): (19.34, 0.64, 0.56, 17.03, 0.17, 10.54),
      ('DPED-iphone', 'SSR'): (25.01, 0.86, 0.31, 62.58, 0.55, 3.07),
    },
    'The paper has 32 s an image in the table and 30 s in the text, for 768x768, on a GPU that it does not name.',
  ),
  'fig8': Experiment(
    'Fig. 8: deviated kernels',
    (dataclasses.replace(BSDS100, title='BSDS100 (not in the paper)', recipes=('smooth/no_noise',), note=''),),
    {
      'variance x 0.5': 'result+kernels=x0.5',
      'variance x 0.8': 'result+kernels=x0.8',
      'as estimated': 'result',
      'variance x 1.25': 'result+kernels=x1.25',
      'variance x 2': 'result+kernels=x2',
      'true kernels': 'result+kernels=true',
    },
    {},
    'The paper shows one image, says "a marked degradation" and gives neither the deviations nor means. Pictures have '
    'heat maps of the variance.',
    compare='result,result+kernels=x0.5;result,result+kernels=x2;result+kernels=true,result',
  ),
  'fig9': Experiment(
    'Fig. 9: deviated depth',
    (dataclasses.replace(BSDS100, title='BSDS100 (not in the paper)', recipes=('smooth/no_noise',), note=''),),
    {
      'depth x 0.5': 'result+depth=x0.5',
      'depth x 0.8': 'result+depth=x0.8',
      'as estimated': 'result',
      'depth x 1.25': 'result+depth=x1.25',
      'depth x 2': 'result+depth=x2',
    },
    {},
    'The paper shows one image, says that wrong depth "can significantly impair the performance" and gives neither the '
    'deviations nor means.',
    compare='result,result+depth=x0.5;result,result+depth=x2',
  ),
}


def run(
  name: str,
  output: pathlib.Path,
  *,
  root: str | None = None,
  model: str = '',
  limit: int = 0,
  seeds: Sequence[int] = (0,),
  experiments: Mapping[str, Experiment] | None = None,
) -> tuple[str, list[str]]:
  """Makes one table or figure.

  Each set is evaluated in a folder of its own below `output`, where a run that was stopped goes on.

  Args:
    name: of `experiments`.
    output: folder.
    root: of the sets; see `catalog.root_of`.
    model: name or directory; '' takes the experiment's.
    limit: images of each set; 0 takes all.
    seeds: of sampling.
    experiments: by name; default `EXPERIMENTS`.

  Returns:
    The report in Markdown, and a line for each image that failed.

  Raises:
    SSRError: an unknown name, no model, or a set or model that cannot be read.
  """
  known = EXPERIMENTS if experiments is None else experiments
  if name not in known:
    raise SSRError(f'no table or figure {name!r}; known: {", ".join(known)}')
  experiment = known[name]
  parts, failures = [f'# {experiment.title}\n'], []
  if experiment.note:
    parts.append(f'{experiment.note}\n')
  places = {one: catalog.find(catalog.get(one.name), root) if one.name else None for one in experiment.sets}
  if any(places.values()) and not model and not _known_model(experiment.model):
    raise SSRError(
      f"{name}: there is no model '{experiment.model}', of which no weights are shipped; give MODEL=DIR (--model DIR), "
      f'a model directory such as RUN/model'
    )
  columns, left_out = _columns(experiment)
  for one, place in places.items():
    parts.append(f'## {one.title}\n')
    if place is None:
      parts.append(f'{_missing(one, name, root)}\n')
      rows = _published_rows(experiment, one, set())
      parts += [_table(experiment.metrics, rows)] if rows else []
      continue
    settings = Settings(
      dataset=f'lr:{place}' if one.lr_only else place,
      models=columns,
      metrics=tuple(metric for metric in experiment.metrics if metric in metrics.METRICS),
      weights={'niqe': _niqe(root)},
      recipes=one.recipes,
      model=model or experiment.model,
      seeds=tuple(seeds),
      compare=experiment.compare,
      limit=limit,
      pictures=experiment.pictures,
      crop=experiment.crop,
    )
    folder = output / name / one.name
    report = runner.evaluate(settings, folder)
    failures += report.failures
    parts.append(_table(experiment.metrics, _rows(experiment, one, report)))
    ours = f'ours: {report.protocol["dataset"]}; {report.protocol["model"]}'
    parts += [f'- {text}' for text in (one.note, *left_out, ours) if text]
    parts.append(f'- {report.protocol["measured"]}; degradation: {report.protocol["degradation"]}')
    parts.append(f'- all numbers, paired tests and pictures: {folder}\n')
  return '\n'.join(parts), failures


Cells = tuple[str, str, Values, float | None]
"""Row, whose it is, values of the experiment's metrics, seconds an image."""


def _rows(experiment: Experiment, one: Set, report: runner.Report) -> list[Cells]:
  """Ours and the paper's, the paper's below ours where both have a row."""
  rows: list[Cells] = []
  means = report.means()
  if experiment.pooled:
    numbers = [name for name in (*report.names, 'seconds') if name not in report.missing]
    means = [{**row, **report.missing} for row in tables.means(means, ('model',), numbers)]
  for mean in means:
    label = next(label for label, column in experiment.columns.items() if column == mean['model'])
    if experiment.by_recipe:
      label = f'{experiment.by_recipe[mean["recipe"]]}{"" if label == "SSR" else f" ({label})"}'
    values = tuple(mean.get(metric) for metric in experiment.metrics)
    seconds = None if math.isnan(mean['seconds']) else mean['seconds']
    rows.append((label, 'ours', tuple(_known(value) for value in values), seconds))
    if (one.title, label) in experiment.published:
      rows.append((label, 'paper', experiment.published[one.title, label], None))
  return rows + _published_rows(experiment, one, {label for label, whose, *_ in rows if whose == 'paper'})


def _columns(experiment: Experiment) -> tuple[tuple[str, ...], list[str]]:
  """The columns of models that are there, and a line for each other model that is not."""
  absent = [other for other in experiment.others if not _known_model(other)]
  of = lambda other: [row for row, column in experiment.columns.items() if column.startswith(f'{other}:')]
  rows = {row for other in absent for row in of(other)}
  lines = [f"{', '.join(of(other))}: no model '{other}'; {experiment.others[other]}" for other in absent]
  return tuple(column for row, column in experiment.columns.items() if row not in rows), lines


def _known_model(name: str) -> bool:
  try:
    models.system_of(name)
  except SSRError:
    return False
  return True


def _known(value: float | str | None) -> float | str | None:
  return None if isinstance(value, float) and math.isnan(value) else value


def _published_rows(experiment: Experiment, one: Set, shown: set[str]) -> list[Cells]:
  published = experiment.published.items()
  return [(row, 'paper', values, None) for (title, row), values in published if title == one.title and row not in shown]


_LABELS = {
  'clipiqa': 'CLIP-IQA',
  'dists': 'DISTS',
  'fid': 'FID',
  'lpips': 'LPIPS',
  'maniqa': 'MANIQA',
  'musiq': 'MUSIQ',
}
"""Of metrics that a machine may lack."""
_DIGITS = {'ssim': 3, 'dists': 4, 'lpips': 4, 'lpips-vgg': 4, 'maniqa': 4, 'clipiqa': 4}
"""Of BlindDiff's and CasSR's tables; SSR's have two for all but SSIM."""


def _table(names: Sequence[str], rows: Sequence[Cells]) -> str:
  heads = ['', '', *(_LABELS.get(name) or metrics.METRICS[name].label for name in names), 's/image']
  lines = [heads, ['---', '---', *['---:'] * (len(heads) - 2)]]
  for label, whose, values, seconds in rows:
    digits = [3 if name == 'ssim' else _DIGITS.get(name, 2) if names != METRICS else 2 for name in names]
    cells = [tables.number(math.nan if value is None else value, n) for value, n in zip(values, digits, strict=True)]
    lines.append([label, whose, *cells, '' if seconds is None else f'{seconds:.2f}'])
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines) + '\n'


def _missing(one: Set, name: str, root: str | None) -> str:
  if not one.name:
    return f'Not run: {one.note}.'
  definition = catalog.get(one.name)
  places = ' or '.join(place.split(':', 1)[1] for place in definition.places)
  return (
    f"Not run: '{one.name}' ({definition.count} {definition.contents}) is not below {catalog.root_of(root)}. Get it "
    f'from {definition.url}, unpack it as {places}, check it with `ssr data check {one.name}`, and run '
    f'`make {name} DATA=ROOT` again.'
  )


def _niqe(root: str | None) -> str:
  path = catalog.root_of(root) / NIQE
  return str(path) if path.is_file() else ''

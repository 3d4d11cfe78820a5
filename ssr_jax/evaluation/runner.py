"""The evaluation loop: every model on every case, scored, averaged and written to files."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import math
import pathlib
import sys
from typing import Any, TypeVar

import numpy as np
import tqdm

from ssr_jax import metrics, runtime
from ssr_jax.evaluation import columns as columns_lib
from ssr_jax.evaluation import ledger as ledger_lib
from ssr_jax.evaluation import models as models_lib
from ssr_jax.evaluation import protocol as protocol_lib
from ssr_jax.evaluation import sets as sets_lib
from ssr_jax.evaluation import statistics
from ssr_jax.evaluation.cases import Case, Dataset
from ssr_jax.evaluation.models import Model, Output, Restorer
from ssr_jax.evaluation.pictures import picture
from ssr_jax.evaluation.protocol import SCALE, Settings
from ssr_jax.evaluation.report import latex, page, tables, views
from ssr_jax.image import io, opening
from ssr_jax.types import SSRError

AnyModel = TypeVar('AnyModel', bound=Model)


@dataclasses.dataclass
class Report:
  """The results of an evaluation.

  Attributes:
    names: metrics, in the order of the columns.
    protocol: how the numbers were made, for table.md and metrics.json.
    rows: one per image, recipe, model and seed: 'image', 'recipe', 'model', 'seed' (None for what samples nothing),
      'case' (index of the image), the metrics, 'seconds'.
    failures: one line for each image that could not be evaluated.
    seeds: how many seeds models were sampled with.
    compare: columns for paired tests.
    pictured: the cases that have pictures.
    page: whether `write` writes index.html.
    missing: {metric: what tables show in place of its values} of the metrics without weights.
    of_sets: {(recipe, model): {metric: value}} of the metrics of a whole set.
    lacking: how many cases other processes have still to do; the files are written when there are none.
  """

  names: Sequence[str]
  protocol: dict[str, str]
  rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  failures: list[str] = dataclasses.field(default_factory=list)
  seeds: int = 1
  compare: Sequence[tuple[str, str]] = ()
  pictured: list[views.Views] = dataclasses.field(default_factory=list)
  page: bool = False
  missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
  of_sets: Mapping[tuple[str, str], Mapping[str, float]] = dataclasses.field(default_factory=dict)
  lacking: int = 0

  def means(self) -> list[dict[str, Any]]:
    """One row per recipe and model: 'recipe', 'model', 'images', mean metrics, mean 'seconds'.

    With several seeds also 'deviation', {metric: standard deviation over seeds of the mean}. Metrics without weights
    have words in place of a mean.
    """
    names = (*self.names, 'seconds')
    rows = tables.means(self._per_image(), ('recipe', 'model'), names)
    if self.seeds > 1:
      deviations = statistics.deviations(self.rows, names)
      rows = [{**row, 'deviation': deviations[row['recipe'], row['model']]} for row in rows]
    rows = [{**row, **self.of_sets.get((row['recipe'], row['model']), {}), **self.missing} for row in rows]
    recipes = list(dict.fromkeys(row['recipe'] for row in rows))
    return sorted(rows, key=lambda row: recipes.index(row['recipe']))

  def comparisons(self) -> list[statistics.Comparison]:
    """The paired tests of the columns in `compare`."""
    rows = self._per_image()
    return [found for pair in self.compare for found in statistics.compare(rows, *pair, self.names)]

  def _per_image(self) -> list[dict[str, Any]]:
    return statistics.over_seeds(self.rows, (*self.names, 'seconds')) if self.seeds > 1 else self.rows

  def table(self) -> str:
    """In Markdown the protocol as a list, the means as a table, deviations over seeds and paired tests."""
    protocol = '\n'.join(f'- {key}: {tables.plain_markdown(value)}' for key, value in self.protocol.items())
    means = self.means()
    parts = [protocol + '\n', tables.markdown(means, self.names)]
    if spread := statistics.deviations_table(means, [name for name in self.names if name not in self.missing]):
      parts += ['Mean ± standard deviation over seeds of the mean over images:\n', spread]
    if tests := statistics.comparisons_table(self.comparisons()):
      parts += ['Paired tests: mean difference ± its standard error; p is two-sided:\n', tests]
    return '\n'.join(parts)

  def files(self) -> dict[str, str]:
    """{name: content} of the files that `write` writes."""
    seed = ('seed',) if self.seeds > 1 else ()
    columns = ('image', 'recipe', 'model', *seed, *self.names, 'seconds')
    means = self.means()
    content = {'protocol': self.protocol, 'means': means, 'failures': self.failures}
    if self.compare:
      content['comparisons'] = [dataclasses.asdict(found) for found in self.comparisons()]
    files = {
      'metrics.csv': tables.to_csv([{**row, **self.missing} for row in self.rows], columns),
      'metrics.json': tables.to_json(content),
      'table.tex': latex.table(means, self.names, self.protocol),
      'table.md': self.table(),
    }
    if self.page:
      title = f'Evaluation of {self.protocol["dataset"]}'
      files['index.html'] = page.page(title, self.protocol, self.rows, means, self.names, self.pictured, self.failures)
    return files

  def write(self, workdir: pathlib.Path) -> None:
    """Writes the tables and the page; a file is replaced only when its new content is complete."""
    for name, text in self.files().items():
      io.write_bytes(workdir / name, text.encode())


def evaluate(settings: Settings, workdir: str | pathlib.Path | None = None, restorer: Restorer | None = None) -> Report:
  """Evaluates as the settings say.

  A second run with the same workdir and settings does only the images that the first one has not done. Processes with
  `settings.part` share a workdir; the last one to end writes the files, or a run without part.

  Args:
    settings: of the evaluation; see `Settings.from_config`.
    workdir: folder for the files of `Report.files`, pictures/ and rows.jsonl; None writes no files.
    restorer: a loaded model, used in place of `settings.model`.

  Returns:
    The results.

  Raises:
    SSRError: a wrong field, a dataset or model that cannot be read, a workdir of other settings, a part without a
      workdir, or no image that could be evaluated.
  """
  if settings.part and workdir is None:
    raise SSRError('eval.part: needs a workdir, which all processes share')
  own = settings.model
  system_of = lambda model: restorer.system if restorer and model == own else models_lib.system_of(model)
  columns = columns_lib.parse(settings.models, own, system_of)
  outputs = columns_lib.parse_outputs(settings.outputs, settings.models)
  pairs = columns_lib.parse_pairs(settings.compare, (*settings.models, *outputs))
  used = dict.fromkeys(column.model for column in columns if column.model)
  if used:
    models_lib.check_sampling(settings.sampling, [system_of(model) for model in used])
  scorers, missing = settings.load_metrics()
  dataset = Dataset.parse(settings.dataset, settings.recipes, settings.seed, settings.limit)
  models_lib.check_truth(columns, system_of, dataset.true_outputs())
  others = {name: models_lib.Folder.open(name, folder, dataset.originals()) for name, folder in outputs.items()}
  dataset, left_out = _in_all(dataset, others)
  for note in (*missing.values(), *left_out):
    print(note, file=sys.stderr)
  restorers = {
    model: restorer if restorer and model == own else models_lib.load(model, settings.dtype, settings.devices)
    for model in used
  }
  shown = tuple(dict.fromkeys(name for column in columns for name in column.given))
  needs_kernels = bool(shown) or any('kernels' in metric.needs for metric in scorers.values())
  models = models_lib.select(columns, restorers, SCALE, settings.sampling, needs_kernels)
  models |= others

  model_text = (
    '; '.join(models_lib.describe(r, settings.sampling, settings.seeds) for r in restorers.values()) or 'none'
  )
  report = Report(
    settings.metrics,
    protocol_lib.describe(settings, len(dataset.indices), bool(dataset.recipes), model_text, scorers),
    seeds=len(settings.seeds),
    compare=pairs,
    page=settings.page,
    missing={name: error.cell for name, error in missing.items()},
  )
  if missing:
    report.protocol['not measured'] = '; '.join(map(str, missing.values()))
  if left_out:
    report.protocol['left out'] = '; '.join(left_out)
  folder = None if workdir is None else pathlib.Path(workdir)
  pictures = None if folder is None else _make_folder(folder / 'pictures')
  identity = {} if folder is None else protocol_lib.identity(settings, dataset.originals(), restorers, others)
  if folder is not None and missing:  # a later run that has the weights must not mix its rows with these
    identity['metrics without weights'] = ', '.join(missing)
  sets = sets_lib.Sets(folder, scorers)
  with ledger_lib.Ledger(folder, identity, settings.part) as ledger:
    _run(settings, dataset, models, scorers, ledger, sets, pictures, shown, report.failures)
    if settings.part:
      ledger.read_others()
      own = set(dataset.share(settings.part).case_keys())
      report.lacking = sum(key not in ledger.rows for key in dataset.case_keys() if key not in own)
    done = {key: rows for key in dataset.case_keys() if (rows := ledger.rows.get(key))}
    report.rows = [row for rows in done.values() for row in rows]
    for row in report.rows:
      row.update(dict.fromkeys(missing, math.nan))  # in place, since the page knows rows by their identity
    report.of_sets = sets.values(done)
    if pictures is not None and settings.page:
      names = _file_names(dataset)
      drawn = [key for key in names if key in ledger.rows and (pictures / f'{names[key]}.png').exists()]
      drawn = drawn[: _most_pictures(settings, dataset)]
      report.pictured = [views.read(pictures / names[key], ledger.rows[key]) for key in drawn]
  if report.lacking:
    return report
  if not report.rows:
    raise SSRError(f'eval.dataset: not one image could be evaluated; the first: {report.failures[0]}')
  if report.failures:
    report.protocol['failed'] = f'{len(report.failures)} of {len(dataset)}'
  if folder is not None:
    report.write(folder)
  return report


def _run(
  settings: Settings,
  dataset: Dataset,
  models: Mapping[str, Model],
  scorers: Mapping[str, metrics.Metric],
  ledger: ledger_lib.Ledger,
  sets: sets_lib.Sets,
  pictures: pathlib.Path | None,
  shown: Sequence[str],
  failures: list[str],
) -> None:
  """Scores the cases that the ledger lacks; those that fail are not kept, so that a next run tries them again."""
  names = _file_names(dataset)
  if settings.part:
    dataset = dataset.share(settings.part)
  done = {key for key in dataset.case_keys() if key in ledger.rows}
  drawn, most = len(done), -(-_most_pictures(settings, dataset) // (settings.part[1] if settings.part else 1))
  bar = tqdm.tqdm(
    dataset.cases(failures, done), 'evaluate', len(dataset), initial=len(done), unit='image', disable=None
  )
  showing = lambda: pictures is not None and drawn < most
  at_once = max((m.restorer.at_once for m in models.values() if isinstance(m, models_lib.Sampled)), default=1)
  # Images to be shown have kernels, so no group has both those and others.
  groups = _groups(bar, lambda: min(at_once, most - drawn) if showing() else at_once, settings.sampling.get('tile'))
  for case, ahead in _ahead(groups, models, settings.seeds, showing):
    try:
      first: dict[str, Output] = {}
      found: list[tuple[str, Output, int | None]] = []
      for name, model in models.items():
        model = _with_kernels(model) if showing() else model
        for seed in settings.seeds if model.seeded else (settings.seeds[0],):
          output = ahead.get((name, seed)) or model(case, seed)
          if isinstance(output, Exception):
            raise output
          first.setdefault(name, output)
          found.append((name, output, seed if model.seeded else None))
      inputs = [_inputs(case, output, settings.crop) for _, output, _ in found]
      values = metrics.score_all(scorers, inputs)  # of all columns together: learned metrics take batches
      rows = [score(one, case, *column) for one, column in zip(values, found, strict=True)]
      features = {
        (name, seed): metrics.features(scorers, one) for (name, _, seed), one in zip(found, inputs, strict=True)
      }
    except models_lib.FAILURES as error:
      failures.append(f'{case.image} ({case.recipe}): {opening.first_line(error)}')
      continue
    if pictures is not None and showing():
      name = names[case.index, case.recipe]
      io.write(pictures / f'{name}.png', io.Picture(np.asarray(picture(case, first, shown))))
      images = {column: output.image for column, output in first.items()}
      shown_too = {
        column: views.found(model.restorer.system.outputs, first[column].found)
        for column, model in models.items()
        if isinstance(model, models_lib.Sampled)
      }
      views.write(pictures / name, case, images, shown_too)
    drawn += 1
    sets.add((case.index, case.recipe), features)  # before the row, which says that all is there
    ledger.add((case.index, case.recipe), rows)


def _groups(cases: Iterable[Case], at_once: Callable[[], int], tile: int | None) -> Iterator[list[Case]]:
  """The cases in their order: as many as `at_once` says of small ones, which are a single tile; larger ones alone."""
  group: list[Case] = []
  for case in cases:
    small = max(case.lr.shape[:2]) <= (tile or runtime.TILE)
    if group and not small:
      yield group
      group = []
    group.append(case)
    if not small or len(group) >= at_once():
      yield group
      group = []
  if group:
    yield group


def _ahead(
  groups: Iterable[list[Case]], models: Mapping[str, Model], seeds: Sequence[int], showing: Callable[[], bool]
) -> Iterator[tuple[Case, dict[tuple[str, int], Output | Exception]]]:
  """Each case with what models on several devices made of it, or why they failed: {(column, seed): it}."""
  for cases in groups:
    made: list[dict[tuple[str, int], Output | Exception]] = [{} for _ in cases]
    for name, model in models.items():
      if len(cases) > 1 and isinstance(model, models_lib.Sampled) and model.restorer.at_once > 1:
        several = _with_kernels(model) if showing() else model
        for seed in seeds:
          for own, output in zip(made, several.together(cases, seed), strict=True):
            own[name, seed] = output
    yield from zip(cases, made, strict=True)


def _with_kernels(model: AnyModel) -> AnyModel:
  """To be shown."""
  return dataclasses.replace(model, keep_kernels=True) if isinstance(model, models_lib.Sampled) else model


def _most_pictures(settings: Settings, dataset: Dataset) -> int:
  return settings.pictures * len(dataset.recipe_names)


def _file_names(dataset: Dataset) -> dict[ledger_lib.Key, str]:
  """For each case the name of its pictures."""
  keys, originals = list(dataset.case_keys()), dataset.originals()
  return dict(zip(keys, views.file_names((originals[i], recipe) for i, recipe in keys), strict=True))


def _in_all(dataset: Dataset, others: Mapping[str, models_lib.Folder]) -> tuple[Dataset, list[str]]:
  """The dataset without photos of which some other tool's image is missing, and a line for each such tool.

  Means over different images cannot be compared, so all columns have the same ones.

  Raises:
    SSRError: no photo is left.
  """
  lines, kept = [], list(dataset.indices)
  for name, other in others.items():
    lacking = [i for i in dataset.indices if i not in other.images]
    kept = [i for i in kept if i in other.images]
    if lacking:
      lines.append(f'{len(lacking)} of {len(dataset.indices)} photos are left out, which {name} has no image of')
  if not kept:
    raise SSRError(f'eval.outputs: no photo of eval.dataset has an image of each of {", ".join(others)}')
  return dataclasses.replace(dataset, indices=kept), lines


def score(
  values: Mapping[str, float], case: Case, model: str, output: Output, seed: int | None = None
) -> dict[str, Any]:
  """The row of one model's output, from the values of its metrics; NaN for one that cannot be computed."""
  about = {'image': case.image, 'recipe': case.recipe, 'model': model, 'seed': seed, 'case': case.index}
  return {**about, **values, 'seconds': output.seconds}


def _inputs(case: Case, output: Output, crop: int) -> dict[str, Any]:
  return {
    'image': output.image,
    'reference': case.hr,
    'kernels': output.kernels,
    'true_kernels': case.kernels,
    'lr_clean': case.lr_clean,
    'reduction': case.reduction,
    'crop': crop,
  }


def _make_folder(folder: pathlib.Path) -> pathlib.Path:
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise SSRError(f'{folder.parent}: cannot be made ({error.strerror}); choose another --workdir') from error
  return folder

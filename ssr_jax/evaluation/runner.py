"""The evaluation loop: every model on every case, scored, averaged and written to files."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import sys
from typing import Any

import numpy as np
from PIL import Image
import tqdm

from ssr_jax import metrics
from ssr_jax.evaluation import models as models_lib
from ssr_jax.evaluation import protocol as protocol_lib
from ssr_jax.evaluation.cases import Case, Dataset
from ssr_jax.evaluation.models import Output, Restorer
from ssr_jax.evaluation.protocol import SCALE, Settings
from ssr_jax.evaluation.report import figures, latex, page, recorder, tables, views
from ssr_jax.image import io, opening
from ssr_jax.types import SSRError


@dataclasses.dataclass
class Report:
  """The results of an evaluation.

  Attributes:
    names: metrics, in the order of the columns.
    protocol: how the numbers were made, for table.md and metrics.json.
    rows: one per image, recipe and model: 'image', 'recipe', 'model', the metrics, 'seconds'.
    failures: one line for each image that could not be evaluated.
    pictured: the cases that have pictures.
    page: whether `write` writes index.html.
  """

  names: Sequence[str]
  protocol: dict[str, str]
  rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  failures: list[str] = dataclasses.field(default_factory=list)
  pictured: list[views.Views] = dataclasses.field(default_factory=list)
  page: bool = False

  def means(self) -> list[dict[str, Any]]:
    """One row per recipe and model: 'recipe', 'model', 'images', mean metrics, mean 'seconds'."""
    rows = tables.means(self.rows, ('recipe', 'model'), (*self.names, 'seconds'))
    recipes = list(dict.fromkeys(row['recipe'] for row in rows))
    return sorted(rows, key=lambda row: recipes.index(row['recipe']))

  def table(self) -> str:
    """The protocol as a list, and the means as a table, in Markdown."""
    protocol = '\n'.join(f'- {key}: {tables.plain_markdown(value)}' for key, value in self.protocol.items())
    return f'{protocol}\n\n{tables.markdown(self.means(), self.names)}'

  def files(self) -> dict[str, str]:
    """{name: content} of the files that `write` writes."""
    columns = ('image', 'recipe', 'model', *self.names, 'seconds')
    means = self.means()
    files = {
      'metrics.csv': tables.to_csv(self.rows, columns),
      'metrics.json': tables.to_json({'protocol': self.protocol, 'means': means, 'failures': self.failures}),
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

  Args:
    settings: of the evaluation; see `Settings.from_config`.
    workdir: folder for the files of `Report.files` and pictures/; None writes no files.
    restorer: a loaded model, used in place of `settings.model`.

  Returns:
    The results.

  Raises:
    SSRError: a wrong field, a dataset or model that cannot be read, or no image that could be evaluated.
  """
  bicubic_alone = set(settings.models) == {models_lib.BICUBIC}
  system = restorer.system if restorer else None if bicubic_alone else models_lib.system_of(settings.model)
  models_lib.check(settings.models, settings.sampling, system)
  scorers, notes = settings.load_metrics()
  for note in notes:
    print(note, file=sys.stderr)
  dataset = Dataset.parse(settings.dataset, settings.recipes, settings.seed, settings.limit)
  if restorer is None and not bicubic_alone:
    restorer = models_lib.load(settings.model, settings.dtype)
  needs_kernels = any('kernels' in metric.needs for metric in scorers.values())
  record = recorder.Recorder(restorer)
  models = models_lib.select(settings.models, record.restorer, SCALE, settings.sampling, needs_kernels)
  pictures = None if workdir is None else _make_folder(pathlib.Path(workdir) / 'pictures')

  model_text = models_lib.describe(restorer, settings.sampling)
  report = Report(
    tuple(scorers), protocol_lib.describe(settings, len(dataset.photos), bool(dataset.recipes), model_text)
  )
  report.page = settings.page
  for case in tqdm.tqdm(dataset.cases(report.failures), 'evaluate', len(dataset), unit='image', disable=None):
    draws = len(report.pictured) < settings.pictures * max(1, len(dataset.recipes))
    record.start(keep_kernels=draws)
    outputs, found = {}, {}
    try:
      for name, model in models.items():
        outputs[name] = model(case.lr)
        found[name] = record.take()
      rows = [score(scorers, case, name, output) for name, output in outputs.items()]
    except (ValueError, RuntimeError, MemoryError) as error:  # of a metric; too little memory
      report.failures.append(f'{case.image} ({case.recipe}): {opening.first_line(error)}')
      continue
    report.rows += rows
    if draws and pictures is not None:
      *_, name = views.file_names((drawn.image, drawn.recipe) for drawn in (*report.pictured, case))
      io.write(pictures / f'{name}.png', io.Picture(np.asarray(picture(case, outputs))))
      images = {model: output.image for model, output in outputs.items()}
      report.pictured.append(views.write(pictures / name, case, images, found, rows))
  if not report.rows:
    raise SSRError(f'eval.dataset: not one image could be evaluated; the first: {report.failures[0]}')
  if report.failures:
    report.protocol['failed'] = f'{len(report.failures)} of {len(dataset)}'
  if workdir is not None:
    report.write(pathlib.Path(workdir))
  return report


def score(scorers: Mapping[str, metrics.Metric], case: Case, model: str, output: Output) -> dict[str, Any]:
  """The row of one model's output; NaN for a metric that cannot be computed.

  Raises:
    ValueError: the image is too small for a metric.
  """
  values = metrics.score(
    scorers,
    image=output.image,
    reference=case.hr,
    kernels=output.kernels,
    true_kernels=case.kernels,
    lr_clean=case.lr_clean,
  )
  return {'image': case.image, 'recipe': case.recipe, 'model': model, **values, 'seconds': output.seconds}


def picture(case: Case, outputs: Mapping[str, Output]) -> Image.Image:
  """LR (enlarged without interpolation) | each model's output | HR, labelled with PSNR."""
  nearest = case.lr.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
  panels, labels = [nearest], [f'LR, {case.recipe}']
  for model, output in outputs.items():
    panels.append(output.image)
    labels.append(f'{model} {metrics.psnr.psnr(output.image, case.hr):.2f} dB')
  return figures.side_by_side([*panels, case.hr], [*labels, 'HR'])


def _make_folder(folder: pathlib.Path) -> pathlib.Path:
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise SSRError(f'{folder.parent}: cannot be made ({error.strerror}); choose another --workdir') from error
  return folder

"""Tables of means: Markdown and plain text to read, CSV and JSON for programs."""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import io
import json
import math
import re
from typing import Any

from ssr_jax import metrics
from ssr_jax.types import one_line

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Cell:
  """A cell of a table of means.

  Attributes:
    text: as printed.
    place: 'best' or 'second' of its group by the metric's direction, else ''.
    spread: the deviation over seeds, as printed; '' where there is none.
  """

  text: str
  place: str = ''
  spread: str = ''


def means(rows: Sequence[Row], by: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
  """Averages columns over groups of rows.

  Args:
    rows: one per image; NaN is a value that could not be computed.
    by: columns whose values define the groups; () makes one group of all rows.
    columns: numeric columns to average.

  Returns:
    One row per group, in the order of first appearance: `by`, 'images' (the number of rows) and the mean of each
    column without NaN; NaN where all values are.
  """
  groups: dict[tuple, list[Row]] = {}
  for row in rows:
    groups.setdefault(tuple(row[key] for key in by), []).append(row)
  out = []
  for key, group in groups.items():
    mean: dict[str, Any] = dict(zip(by, key, strict=True)) | {'images': len(group)}
    for column in columns:
      values = [row[column] for row in group if not math.isnan(row[column])]
      mean[column] = math.fsum(values) / len(values) if values else math.nan
    out.append(mean)
  return out


def ranked(rows: Sequence[Row], names: Sequence[str], by: str = 'recipe') -> tuple[list[str], list[list[Cell]]]:
  """The headings and cells of a table of means, which every format of it shows.

  Args:
    rows: from `means`, each with `by`, 'model', 'images', the metrics (or words in place of one that is missing) and
      'seconds', and perhaps with 'deviation', {metric: of its mean over seeds}.
    names: metrics, in the order of the columns.
    by: column whose values define the groups within which the best is chosen.

  Returns:
    The headings, with an arrow where higher or lower is better; and for each row its cells, the first two of which are
    words, the others numbers.

  Raises:
    SSRError: an unknown metric.
  """
  known = metrics.get(names)
  arrows = {name: '↑' if metric.higher_is_better else '↓' for name, metric in known.items()}
  heads = [by, 'model', *(f'{metric.label} {arrows[name]}' for name, metric in known.items()), 's/image', 'images']
  groups: dict[Any, list[Row]] = {}
  for row in rows:
    groups.setdefault(row[by], []).append(row)
  places = {
    (group, name): _places([row[name] for row in rivals], metric.higher_is_better, metric.digits)
    for group, rivals in groups.items()
    for name, metric in known.items()
  }
  out = []
  for row in rows:
    cells = [Cell(str(row[by])), Cell(str(row['model']))]
    for name, metric in known.items():
      text = number(row[name], metric.digits)
      spread = row.get('deviation', {}).get(name, math.nan)
      shown = '' if math.isnan(spread) else number(spread, metric.digits)
      cells.append(Cell(text, places[row[by], name].get(text, ''), shown))
    out.append([*cells, Cell(number(row['seconds'], 2)), Cell(str(row['images']))])
  return heads, out


def markdown(rows: Sequence[Row], names: Sequence[str], by: str = 'recipe') -> str:
  """A Markdown table of means, with the best value of each metric in bold; see `ranked`."""
  heads, table = ranked(rows, names, by)
  lines = ['| ' + ' | '.join(map(plain_markdown, heads)) + ' |', '|' + '---|' * 2 + '---:|' * (len(heads) - 2)]
  for cells in table:
    texts = [f'**{cell.text}**' if cell.place == 'best' else plain_markdown(cell.text) for cell in cells]
    lines.append('| ' + ' | '.join(texts) + ' |')
  return '\n'.join(lines) + '\n'


def plain_markdown(text: str) -> str:
  """Text that Markdown shows as it is, also within a table."""
  return re.sub(r'([\\`*|<\[\]])', r'\\\1', one_line(text))


def plain(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  """A table for the terminal, with aligned columns; columns of numbers are aligned to the right."""
  cells = [[str(cell) for cell in row] for row in [heads, *rows]]
  widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
  numeric = [
    bool(rows) and all(isinstance(row[i], (int, float)) or _is_number(str(row[i])) for row in rows)
    for i in range(len(heads))
  ]
  lines = []
  for row in cells:
    aligned = [
      cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, numeric, strict=True)
    ]
    lines.append('  '.join(aligned).rstrip())
  return '\n'.join([lines[0], '  '.join('-' * width for width in widths), *lines[1:]]) + '\n'


def to_csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
  """CSV with a header; floats have six decimals, NaN is an empty cell."""
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator='\n')
  writer.writerow(columns)
  for row in rows:
    writer.writerow([_cell(row[column]) for column in columns])
  return buffer.getvalue()


def to_json(value: Any) -> str:
  """Indented JSON; NaN and infinities are null, because JSON has no such numbers."""
  return json.dumps(_finite(value), indent=2, allow_nan=False) + '\n'


def number(value: float | str, digits: int) -> str:
  """A value as tables print it; words, such as 'no weights' of a metric, stay as they are."""
  if isinstance(value, str):
    return value
  return '–' if math.isnan(value) else f'{value:.{digits}f}'


def _places(values: Sequence[float | str], higher_is_better: bool, digits: int) -> dict[str, str]:
  """{printed value: 'best' or 'second'}; values that print the same share a place.

  A single value has no place, and of two values the other one is not marked as the second.
  """
  numbers = sorted(
    (value for value in values if not isinstance(value, str) and not math.isnan(value)), reverse=higher_is_better
  )
  texts = list(dict.fromkeys(number(value, digits) for value in numbers))
  if len(numbers) < 2:
    return {}
  return dict(zip(texts, ('best', 'second') if len(numbers) > 2 else ('best',), strict=False))


def _cell(value: Any) -> Any:
  if isinstance(value, float):
    return '' if math.isnan(value) else f'{value:.6f}'
  return value


def _is_number(text: str) -> bool:
  try:
    float(text)
  except ValueError:
    return text in ('', '–')
  return True


def _finite(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {key: _finite(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_finite(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value

"""Tables of means: Markdown and plain text to read, CSV and JSON for programs."""

from collections.abc import Mapping, Sequence
import csv
import io
import json
import math
from typing import Any

from ssr_jax import metrics

Row = Mapping[str, Any]


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


def markdown(rows: Sequence[Row], names: Sequence[str], by: str = 'recipe') -> str:
  """A Markdown table of means, with the best value of each metric in bold.

  Args:
    rows: from `means`, each with `by`, 'model', 'images', the metrics and 'seconds'.
    names: metrics, in the order of the columns.
    by: column whose values define the groups within which the best is chosen.

  Raises:
    SSRError: an unknown metric.
  """
  known = metrics.get(names)
  arrows = {name: '↑' if metric.higher_is_better else '↓' for name, metric in known.items()}
  heads = [by, 'model', *(f'{metric.label} {arrows[name]}' for name, metric in known.items()), 's/image', 'images']
  lines = ['| ' + ' | '.join(heads) + ' |', '|' + '---|' * 2 + '---:|' * (len(heads) - 2)]
  for row in rows:
    cells = [str(row[by]), str(row['model'])]
    rivals = [other for other in rows if other[by] == row[by]]
    for name, metric in known.items():
      text = _number(row[name], metric.digits)
      values = [other[name] for other in rivals if not math.isnan(other[name])]
      best = (max if metric.higher_is_better else min)(values, default=math.nan)
      # Compare the printed text: rows that print the same value are all best.
      cells.append(f'**{text}**' if len(values) > 1 and text == _number(best, metric.digits) else text)
    lines.append('| ' + ' | '.join([*cells, _number(row['seconds'], 2), str(row['images'])]) + ' |')
  return '\n'.join(lines) + '\n'


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


def _number(value: float, digits: int) -> str:
  return '–' if math.isnan(value) else f'{value:.{digits}f}'


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

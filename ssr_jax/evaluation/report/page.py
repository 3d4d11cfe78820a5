"""The page index.html: means, a slider between the images of each case, and a sortable table of all rows.

The page is one file. Style, script, numbers and images are inside it, and its content security policy forbids the
browser to load anything or to run any other script. Images are lossless, the pixels that were scored, if they all fit
into `LIMIT` bytes; else they are WebP of quality `QUALITY`, and cases that still do not fit are left out. The page says
which.
"""

import base64
import collections
from collections.abc import Mapping, Sequence
import hashlib
import html
from importlib import resources
import io as bytes_io
import itertools
import json
import math
from typing import Any

from ssr_jax import metrics
from ssr_jax.evaluation.report import tables
from ssr_jax.evaluation.report.views import Views
from ssr_jax.image import opening
from ssr_jax.types import SSRError, one_line

LIMIT = 24 * 2**20
"""Bytes of all images in a page, before base64 makes them a third larger."""
QUALITY = 90
ROWS = 20_000
"""Rows in the table of all images; metrics.csv has the others."""

_KEYS = ('image', 'recipe', 'model')  # and 'seed', where rows have several


def page(
  title: str,
  protocol: Mapping[str, str],
  rows: Sequence[tables.Row],
  means: Sequence[tables.Row],
  names: Sequence[str],
  cases: Sequence[Views],
  failures: Sequence[str] = (),
) -> str:
  """The page as HTML.

  Args:
    title: of the page.
    protocol: how the numbers were made.
    rows: one per image, recipe and model, and per 'seed' where they have several.
    means: of the rows; see `tables.means`.
    names: metrics, in the order of the columns.
    cases: those that have pictures.
    failures: one line for each image that could not be evaluated.

  Raises:
    SSRError: an unknown metric, or a picture that cannot be read.
  """
  style, script = _asset('page.css'), _asset('page.js')
  policy = f"default-src 'none'; img-src data:; style-src '{_sha256(style)}'; script-src '{_sha256(script)}'"
  images, left_out, note = _images(cases)
  facts = dict(protocol)
  if cases:
    facts['images here'] = note
  if left_out:
    facts['left out'] = f'{left_out} of {len(cases)} cases with images, to bound the size of this page; see pictures/'
  if len(rows) > ROWS:
    facts['rows here'] = f'the first {ROWS} of {len(rows)}; metrics.csv has all'
  keys = (*_KEYS, *(('seed',) if len({row.get('seed') for row in rows} - {None}) > 1 else ()))
  data = {
    'keys': keys,
    'columns': [*_columns(names), {'label': 's/image', 'up': None, 'digits': 2}],
    'rows': [[_word(row[key]) for key in keys] + _numbers(row, names) for row in rows[:ROWS]],
    'groups': _groups(rows[:ROWS]),
  }
  index = {id(row): i for i, row in enumerate(rows[:ROWS])}
  blocks = [
    _json('data', data),
    *(_json(f'case-{i}', _case(case, files, index, names)) for i, (case, files) in enumerate(images)),
  ]
  values = {
    'policy': policy,
    'title': _text(title),
    'style': style,
    'script': script,
    'means': _means(means, names),
    'protocol': ''.join(f'<dt>{_text(topic)}</dt><dd>{_text(text)}</dd>' for topic, text in facts.items()),
    'failures': _list('Not evaluated', failures),
    'hidden': '' if images else ' hidden',
    'data': '\n'.join(blocks),
  }
  return _filled(_asset('page.html'), values)


def _images(cases: Sequence[Views]) -> tuple[list[tuple[Views, list[bytes]]], int, str]:
  """The files of the cases that fit into the page, how many cases do not, and what the images are, in words."""
  files = [[_read(case, view.file) for view in case.views] for case in cases]
  note = 'lossless, the pixels that were scored'
  if sum(len(data) for case in files for data in case) > LIMIT:
    files = [[_smaller(data) for data in case] for case in files]
    note = f'WebP of quality {QUALITY}, not the very pixels that were scored, to bound the size of this page'
  kept, size = [], 0
  for case, contents in zip(cases, files, strict=True):
    size += sum(map(len, contents))
    if size > LIMIT:
      break
    kept.append((case, contents))
  if any(case.shown != case.size for case, _ in kept):
    note += '; the middle of large images'
  return kept, len(cases) - len(kept), note


def _read(case: Views, file: str) -> bytes:
  path = case.folder / file
  try:
    return path.read_bytes()
  except OSError as error:
    raise SSRError(f'{path}: cannot be read ({error.strerror}); delete {case.folder} and evaluate again') from error


def _smaller(data: bytes) -> bytes:
  """A lossless file with loss, unless that makes it larger."""
  buffer = bytes_io.BytesIO()
  with opening.opened(data, 'view') as image:
    image.convert('RGB').save(buffer, 'WEBP', quality=QUALITY)
  return min(data, buffer.getvalue(), key=len)


def _case(case: Views, files: Sequence[bytes], index: Mapping[int, int], names: Sequence[str]) -> dict[str, Any]:
  """What the script needs of a case."""
  height, width = case.shown
  views = [
    {
      'label': one_line(view.label),
      'caption': one_line(view.caption),
      'kind': view.kind,
      'src': f'data:image/webp;base64,{base64.b64encode(data).decode()}',
    }
    for view, data in zip(case.views, files, strict=True)
  ]
  heads, ranks = tables.ranked(
    [{**row, 'model': _column(row, case.rows), 'images': 1} for row in case.rows], names, 'image'
  )
  return {
    'image': one_line(case.image),
    'recipe': one_line(case.recipe),
    'size': f'{case.size[1]}x{case.size[0]}',
    'part': '' if case.shown == case.size else f'the middle {width}x{height} of ',
    'width': width,
    'height': height,
    'views': views,
    'rows': [index[id(row)] for row in case.rows if id(row) in index],
    'heads': heads[1:-1],
    'scores': [[[one_line(cell.text), cell.place] for cell in cells[1:-1]] for cells in ranks],
  }


def _column(row: tables.Row, rows: Sequence[tables.Row]) -> str:
  """The name of a row's column in the table of its case: the model, and the seed where the case has several."""
  several = len({other.get('seed') for other in rows} - {None}) > 1
  return f'{row["model"]}, seed {row["seed"]}' if several and row.get('seed') is not None else row['model']


def _columns(names: Sequence[str]) -> list[dict[str, Any]]:
  return [
    {'label': metric.label, 'up': metric.higher_is_better, 'digits': metric.digits}
    for metric in metrics.get(names).values()
  ]


def _word(value: Any) -> str:
  return '' if value is None else one_line(str(value))


def _numbers(row: tables.Row, names: Sequence[str]) -> list[float | str | None]:
  """JSON has no numbers that are not finite: NaN is null, and an infinity is text that JavaScript reads as one."""
  values = [row[name] for name in (*names, 'seconds')]
  infinite = lambda value: None if math.isnan(value) else 'Infinity' if value > 0 else '-Infinity'
  return [round(value, 6) if math.isfinite(value) else infinite(value) for value in values]


def _groups(rows: Sequence[tables.Row]) -> list[int]:
  """For each row the number of its case, so that models are compared on the same image.

  Photos in different folders may have the same name; the first row of a model and seed belongs to the first of them.
  """
  seen = collections.Counter()
  numbers: dict[tuple, int] = {}
  groups = []
  for row in rows:
    key = row['image'], row['recipe'], row['model'], row.get('seed')
    groups.append(numbers.setdefault((row['image'], row['recipe'], seen[key]), len(numbers)))
    seen[key] += 1
  return groups


def _means(means: Sequence[tables.Row], names: Sequence[str]) -> str:
  """The table of means, a body for each group."""
  heads, body = tables.ranked(means, names)
  head = '<th scope="col">model</th>' + ''.join(f'<th scope="col" class="n">{_text(text)}</th>' for text in heads[2:])
  parts = [f'<thead><tr>{head}</tr></thead>']
  for group, lines in itertools.groupby(body, key=lambda cells: cells[0].text):
    title = f'<th scope="rowgroup" colspan="{len(heads) - 1}">{_text(group)}</th>'
    parts.append(f'<tbody><tr class="title">{title}</tr>')
    for cells in lines:
      numbers = ''.join(f'<td class="{f"n {cell.place}".strip()}">{_number(cell)}</td>' for cell in cells[2:])
      parts.append(f'<tr><th scope="row">{_text(cells[1].text)}</th>{numbers}</tr>')
    parts.append('</tbody>')
  return '\n'.join(parts)


def _number(cell: tables.Cell) -> str:
  return _text(cell.text) + (f' <small>± {_text(cell.spread)}</small>' if cell.spread else '')


def _list(title: str, lines: Sequence[str]) -> str:
  if not lines:
    return ''
  items = ''.join(f'<li>{_text(line)}</li>' for line in lines)
  return f'<details class="failures" open><summary>{title}: {len(lines)}</summary><ul>{items}</ul></details>'


def _text(text: str) -> str:
  return html.escape(one_line(text))


def _json(name: str, value: Any) -> str:
  """A block of data for the script. A '<' in it could end the block, or begin a comment."""
  text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(',', ':')).replace('<', '\\u003c')
  return f'<script type="application/json" id="{name}">{text}</script>'


def _asset(name: str) -> str:
  return resources.files('ssr_jax.evaluation.report').joinpath('assets', name).read_text(encoding='utf-8')


def _sha256(text: str) -> str:
  return 'sha256-' + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _filled(template: str, values: Mapping[str, str]) -> str:
  """The template with `{{name}}` replaced; what is put in is not searched for names."""
  first, *rest = template.split('{{')
  parts = [first]
  for part in rest:
    name, _, after = part.partition('}}')
    parts += [values[name], after]
  return ''.join(parts)

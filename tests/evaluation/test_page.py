"""The page as text: what it says, that no name of a file or model becomes markup, and that its size is bounded."""

import base64
import dataclasses
import hashlib
from html.parser import HTMLParser
import io
import json
import math

import numpy as np
from PIL import Image
import pytest

from ssr_jax.evaluation.report import page, tables, views
from ssr_jax.types import SSRError, one_line
from tests.evaluation import report_cases
from tests.evaluation.report_cases import EVIL, NAMES, PROTOCOL

VOID = {'meta', 'link', 'input', 'img', 'br'}


class _Parsed(HTMLParser):
  """Elements as (tag, attributes, own text), and whether every tag is closed."""

  def __init__(self, text):
    super().__init__(convert_charrefs=True)
    self.elements, self._open = [], []
    self.feed(text)
    self.close()
    assert not self._open

  def handle_starttag(self, tag, attributes):
    self.elements.append([tag, dict(attributes), ''])
    if tag not in VOID:
      self._open.append((tag, len(self.elements) - 1))

  def handle_endtag(self, tag):
    assert self._open.pop()[0] == tag

  def handle_data(self, data):
    if self._open:
      self.elements[self._open[-1][1]][2] += data

  def find(self, tag, **attributes):
    return [e for e in self.elements if e[0] == tag and attributes.items() <= e[1].items()]

  def data(self, name):
    ((_, _, text),) = self.find('script', id=name)
    return json.loads(text)


def _page(folder, title='Evaluation', protocol=PROTOCOL, failures=(), **fields):
  rows, cases = report_cases.write(folder, **fields)
  return page.page(title, protocol, rows, report_cases.means(rows), NAMES, cases, failures), rows, cases


def _image(view):
  kind, _, data = view['src'].partition(',')
  assert kind == 'data:image/webp;base64'
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert('RGB'))


def test_the_means_have_their_best_and_second_marked(tmp_path):
  text, rows, _ = _page(tmp_path)
  means = report_cases.means(rows)
  parsed = _Parsed(text)
  titles = [e[2] for e in parsed.find('th', scope='rowgroup')]
  assert titles == ['smooth/no_noise', 'smooth/<b>']
  assert [e[2] for e in parsed.find('th', scope='row')] == ['bicubic', 'restored', 'result'] * 2
  _, ranked = tables.ranked(means, NAMES)
  shown = [(e[2], e[1]['class'].removeprefix('n').strip()) for e in parsed.find('td') if 'class' in e[1]]
  assert shown == [(cell.text, cell.place) for cells in ranked for cell in cells[2:]]
  assert {'best', 'second', ''} == {place for _, place in shown}
  assert [e[2] for e in parsed.find('dd')][:2] == ['set:four', 'none']
  assert 'lossless, the pixels that were scored' in text and 'left out' not in text


def test_the_data_are_the_rows_and_the_very_pixels(tmp_path):
  text, rows, cases = _page(tmp_path)
  parsed = _Parsed(text)
  data = parsed.data('data')
  assert [column['label'] for column in data['columns']] == ['PSNR-Y (dB)', 'NIQE', 's/image']
  assert [column['up'] for column in data['columns']] == [True, False, None]
  assert data['keys'] == ['image', 'recipe', 'model']
  assert data['groups'] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]  # two photos of the same name are two cases
  for row, shown in zip(rows, data['rows'], strict=True):
    assert shown[:3] == [one_line(row[key]) for key in ('image', 'recipe', 'model')]
    assert shown[3:] == [row['psnr'], None if math.isnan(row['niqe']) else row['niqe'], 0.25]
  for i in range(3):
    case = parsed.data(f'case-{i}')
    # The first and the third photo have the same name; each has its own rows.
    assert case['rows'] == [3 * i, 3 * i + 1, 3 * i + 2] and case['size'] == '64x48' and case['part'] == ''
    colours = {'LR': report_cases.LR, **report_cases.MODELS, 'HR': report_cases.HR}
    assert [view['label'] for view in case['views']] == [*colours, 'depth', 'kernels', 'true kernels']
    for view, colour in zip(case['views'][:5], colours.values(), strict=True):
      assert (_image(view) == colour).all()
    assert case['heads'] == ['model', 'PSNR-Y (dB) ↑', 'NIQE ↓', 's/image']
    assert case['scores'][0] == [
      ['bicubic', ''],
      [f'{30 - i:.2f}', 'second'],
      ['–', ''],
      ['0.25', ''],
    ]
  assert not parsed.find('script', id='case-3') and len(cases) == 3


def test_seeds_are_a_column_of_their_own_and_infinities_stay(tmp_path):
  row = lambda model, seed, psnr: dict(
    image='a', recipe='r', model=model, seed=seed, psnr=psnr, niqe=1.0, seconds=math.nan
  )
  rows = [row('bicubic', None, -math.inf), row('result', 0, math.inf), row('result', 1, 2.0)]
  means = tables.means(rows[1:], ('recipe', 'model'), (*NAMES, 'seconds'))
  means = [{**mean, 'deviation': {'psnr': 0.25, 'niqe': math.nan}} for mean in means]
  parsed = _Parsed(page.page('t', PROTOCOL, rows, means, NAMES, ()))
  data = parsed.data('data')
  assert data['keys'] == ['image', 'recipe', 'model', 'seed'] and data['groups'] == [0, 0, 0]
  assert [shown[2:] for shown in data['rows']] == [
    ['bicubic', '', '-Infinity', 1.0, None],
    ['result', '0', 'Infinity', 1.0, None],
    ['result', '1', 2.0, 1.0, None],
  ]
  assert [e[2] for e in parsed.find('small')] == ['± 0.25']

  _, (case, *_) = report_cases.write(tmp_path)
  case = dataclasses.replace(case, rows=rows)
  shown = _Parsed(page.page('t', PROTOCOL, rows, means, NAMES, [case])).data('case-0')
  assert [cells[0][0] for cells in shown['scores']] == ['bicubic', 'result, seed 0', 'result, seed 1']


def test_no_name_becomes_markup(tmp_path, monkeypatch):
  monkeypatch.setitem(report_cases.MODELS, EVIL, (1, 2, 3))
  protocol = {'dataset': EVIL, EVIL: 'x'}
  text, *_ = _page(tmp_path, title=EVIL, protocol=protocol, failures=[EVIL], images=(EVIL, 'b.png'), with_pictures=2)
  plain, *_ = _page(
    tmp_path, protocol={'dataset': 'y', 'z': 'x'}, failures=['f'], images=('a.png', 'b.png'), with_pictures=2
  )
  tags = lambda text: [e[0] for e in _Parsed(text).elements]
  assert tags(text) == tags(plain)
  parsed = _Parsed(text)
  assert [e[2] for e in parsed.find('h1')] == [one_line(EVIL)] == [e[2] for e in parsed.find('title')]
  assert parsed.find('li')[0][2] == one_line(EVIL) and parsed.find('dt')[1][2] == one_line(EVIL)
  assert parsed.data('case-0')['image'] == one_line(EVIL) == parsed.data('data')['rows'][0][0]
  assert parsed.data('case-0')['views'][4]['label'] == one_line(EVIL)
  text.encode()  # nothing is left that UTF-8 cannot hold


def test_the_policy_allows_its_own_style_and_script_and_nothing_else(tmp_path):
  text, *_ = _page(tmp_path)
  parsed = _Parsed(text)
  ((_, meta, _),) = parsed.find('meta', **{'http-equiv': 'Content-Security-Policy'})
  policy = dict(part.strip().split(' ', 1) for part in meta['content'].split(';'))
  assert policy['default-src'] == "'none'" and policy['img-src'] == 'data:' and len(policy) == 4
  script = [e[2] for e in parsed.find('script') if 'type' not in e[1]]
  for kind, source in (('style-src', [e[2] for e in parsed.find('style')]), ('script-src', script)):
    digest = base64.b64encode(hashlib.sha256(source[0].encode()).digest()).decode()
    assert len(source) == 1 and policy[kind] == f"'sha256-{digest}'"
  named = [
    value for e in parsed.elements for name, value in e[1].items() if name in ('src', 'srcset', 'href', 'action')
  ]
  assert named and all(value.startswith('data:') for value in named)
  assert 'http://' not in text and 'https://' not in text and '@import' not in text and 'url(' not in text


def test_its_size_is_bounded(tmp_path, monkeypatch):
  """Above the limit images lose detail; what then does not fit is left out, and the page says both."""
  noise = np.random.default_rng(0).integers(0, 256, (48, 64, 1), np.uint8).repeat(3, -1)
  rows, cases = report_cases.write(tmp_path)
  for case in cases:
    for view in case.views[1:4]:
      (case.folder / view.file).write_bytes(views.lossless(noise))
  make = lambda: page.page('t', PROTOCOL, rows, report_cases.means(rows), NAMES, cases)
  size = lambda: sum((case.folder / view.file).stat().st_size for case in cases for view in case.views)
  whole = _Parsed(make())
  assert (_image(whole.data('case-0')['views'][1]) == noise).all()

  monkeypatch.setattr(page, 'LIMIT', size() - 1)
  text = make()
  lossy = _Parsed(text)
  shown = _image(lossy.data('case-2')['views'][1]).astype(int)
  assert 0 < np.abs(shown - noise).mean() < 15 and 'WebP of quality 90, not the very pixels' in text
  assert (_image(lossy.data('case-0')['views'][4]) == report_cases.HR).all()  # a file that would grow stays as it is

  kept = sum(
    len(base64.b64decode(view['src'].partition(',')[2])) for i in (0, 1) for view in lossy.data(f'case-{i}')['views']
  )
  monkeypatch.setattr(page, 'LIMIT', kept)
  text = make()
  assert [e[1]['id'] for e in _Parsed(text).find('script') if 'id' in e[1]] == ['data', 'case-0', 'case-1']
  assert '1 of 3 cases with images, to bound the size of this page' in text

  monkeypatch.setattr(page, 'ROWS', 5)
  text = make()
  assert len(_Parsed(text).data('data')['rows']) == 5 and 'the first 5 of 12; metrics.csv has all' in text
  assert _Parsed(text).data('case-1')['rows'] == [3, 4]


def test_without_pictures_there_are_tables_alone(tmp_path):
  text, *_ = _page(tmp_path, with_pictures=0)
  parsed = _Parsed(text)
  assert 'hidden' in parsed.find('section', id='compare')[0][1] and not parsed.find('script', id='case-0')
  assert len(parsed.data('data')['rows']) == 12 and 'images here' not in text


def test_a_picture_that_is_gone_is_one_clear_line(tmp_path):
  rows, cases = report_cases.write(tmp_path)
  (cases[1].folder / cases[1].views[2].file).unlink()
  with pytest.raises(SSRError, match=r'02_restored\.webp: cannot be read .* evaluate again'):
    page.page('t', PROTOCOL, rows, report_cases.means(rows), NAMES, cases)

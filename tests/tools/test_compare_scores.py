"""tools/compare_scores.py on small tables."""

import sys

import pytest

from tools import compare_scores


def _run(monkeypatch, *arguments):
  monkeypatch.setattr(sys, 'argv', ['compare_scores.py', *map(str, arguments)])
  return compare_scores.main()


@pytest.fixture
def tables(tmp_path):
  content = {
    'a': 'image,psnr,niqe\nx,20,4\ny,30,5\nz,40,\nmean,30,4.5\n',
    'b': 'image,lpips,psnr,niqe\nz.png,.1,40.002,3\ny.png,.2,30.5,5\nx.png,.3,20,4\nw.png,.4,1,1\n',
    'c': 'image,psnr\nx,20\n',
    'd': 'image,psnr\nx,10\n',
  }
  for name, text in content.items():
    (tmp_path / f'{name}.csv').write_text(text)
  return {name: tmp_path / f'{name}.csv' for name in content}


def test_differences_by_image_whatever_the_order(tables, monkeypatch, capsys):
  assert _run(monkeypatch, tables['a'], '--with', tables['b'], '--tolerance', 'psnr=1e-3,niqe=1e-3') == 1
  psnr, y, z, niqe = capsys.readouterr().out.splitlines()
  assert psnr.startswith('psnr: 3 images') and 'at most 0.500000' in psnr and psnr.endswith('Spearman 1.0000')
  assert y == '  y: 30.000000 and 30.500000' and z == '  z: 40.000000 and 40.002000'
  assert niqe.startswith('niqe: 2 images') and 'at most 0.000000' in niqe
  assert _run(monkeypatch, tables['a'], '--with', tables['b'], '--tolerance', 'psnr=0.6') == 0


def test_ranks_are_those_over_all_tables(tables, monkeypatch, capsys):
  assert _run(monkeypatch, tables['a'], tables['c'], '--with', tables['b'], tables['d']) == 0
  assert capsys.readouterr().out.splitlines()[0].startswith('psnr: 4 images, means 27.5000 and 25.1255')


@pytest.mark.parametrize(
  'arguments, words',
  [
    (['absent.csv', '--with', 'a'], 'absent.csv: cannot be read'),
    (['a', '--with', 'a', 'b'], '1 tables with 2'),
    (['a', '--with', 'a', '--tolerance', 'psnr'], '--tolerance psnr: give METRIC=VALUE'),
    (['a', '--with', 'text'], "no table with a column 'image'"),
    (['a', '--with', 'other'], 'have no image in common'),
  ],
)
def test_wrong_usage_is_one_line(tables, tmp_path, monkeypatch, capsys, arguments, words):
  (tmp_path / 'text').write_text('nothing\nof use\n')
  (tmp_path / 'other').write_text('image,psnr\nq,1\n')
  paths = {name: tmp_path / f'{name}.csv' for name in 'ab'} | {name: tmp_path / name for name in ('text', 'other')}
  assert _run(monkeypatch, *(paths.get(word, word) for word in arguments)) == 2
  err = capsys.readouterr().err
  assert words in err and err.count('\n') == 1

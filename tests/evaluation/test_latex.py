"""table.tex: what is bold and underlined, that every name prints as it is, and, with pdflatex, that it compiles."""

import math
import shutil
import subprocess

import pytest

from ssr_jax.evaluation.report import latex

NAMES = ['psnr', 'niqe']
EVIL = 'a_b & 50% #1 $x^2$ {y} ~ \\end{tabular} <s> |t| "q" `c` it\'s --- \n\x1b\udcff'


def _row(recipe, model, psnr, niqe):
  return {'recipe': recipe, 'model': model, 'psnr': psnr, 'niqe': niqe, 'seconds': 0.5, 'images': 3}


ROWS = [
  _row('a', 'x', 20.0, 4.0),
  _row('a', 'y', 24.0, 3.0),
  _row('a', 'z', 22.0, 5.0),
  _row('b', 'x', 30.001, math.nan),
  _row('b', 'y', 30.002, 6.0),
  _row('b', 'z', -1.0, 7.0),
]


def test_best_is_bold_and_second_underlined_by_the_metrics_direction():
  lines = latex.table(ROWS, NAMES, {'dataset': 'set:five'}).splitlines()
  assert '% dataset: set:five' in lines
  begin = lines.index(r'\begin{tabular}{llrrrr}')
  assert lines[begin + 1 :] == [
    r'\toprule',
    r'recipe & model & PSNR-Y (dB) $\uparrow$ & NIQE $\downarrow$ & s/image & images \\',
    r'\midrule',
    r'a & x & 20.00 & \underline{4.000} & 0.50 & 3 \\',
    r'a & y & \textbf{24.00} & \textbf{3.000} & 0.50 & 3 \\',
    r'a & z & \underline{22.00} & 5.000 & 0.50 & 3 \\',
    r'\midrule',
    # Values that print the same are both best; of two values only the best one is marked.
    r'b & x & \textbf{30.00} & -- & 0.50 & 3 \\',
    r'b & y & \textbf{30.00} & \textbf{6.000} & 0.50 & 3 \\',
    r'b & z & \underline{$-$1.00} & 7.000 & 0.50 & 3 \\',
    r'\bottomrule',
    r'\end{tabular}',
  ]


def test_the_deviation_over_seeds_stands_beside_the_mean():
  rows = [{**ROWS[0], 'deviation': {'psnr': 0.012, 'niqe': math.nan}}, ROWS[1]]
  text = latex.table(rows, NAMES, {})
  assert r'a & x & 20.00 {\scriptsize $\pm$ 0.01} & 4.000 & 0.50 & 3 \\' in text


def test_names_are_escaped_and_comments_stay_comments():
  text = latex.table([_row(EVIL, EVIL, 1.0, 1.0)], NAMES, {'dataset': 'x\n\\input{evil}'})
  assert '% dataset: x\\n\\input{evil}' in text and text.count('\n') == 9
  line = next(line for line in text.splitlines() if line.startswith('a'))
  assert line.startswith(
    r'a\_b \& 50\% \#1 \$x\textasciicircum{}2\$ \{y\} \textasciitilde{} \textbackslash{}end\{tabular\} '
    r"\textless{}s\textgreater{} \textbar{}t\textbar{} ''q'' \textasciigrave{}c"
    r"\textasciigrave{} it's -{}-{}- \textbackslash{}n\textbackslash{}x1b\textbackslash{}xff & "
  )


def test_it_compiles_and_no_character_is_missing(tmp_path):
  if not shutil.which('pdflatex'):
    pytest.skip('pdflatex is not installed; on Debian it comes with texlive-latex-recommended')
  table = latex.table([*ROWS, _row(EVIL, 'x', 1.0, 1.0)], NAMES, {'dataset': EVIL})
  document = r'\documentclass{article}\usepackage{booktabs}\begin{document}\scriptsize' + '\n'
  (tmp_path / 't.tex').write_text(document + table + r'\end{document}')
  command = ['pdflatex', '-interaction=nonstopmode', '-halt-on-error', 't.tex']
  run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors='replace')
  assert run.returncode == 0 and (tmp_path / 't.pdf').stat().st_size > 1000, run.stdout[-2000:]
  log = (tmp_path / 't.log').read_text(errors='replace')
  assert 'Missing character' not in log and 'Warning' not in log.replace('No file t.aux', ''), log[-2000:]

r"""The table of means in LaTeX, for \usepackage{booktabs}."""

from collections.abc import Iterable, Mapping, Sequence
import re

from ssr_jax.evaluation.report import tables
from ssr_jax.types import one_line

_ESCAPED = {
  '\\': r'\textbackslash{}',
  '{': r'\{',
  '}': r'\}',
  '$': r'\$',
  '&': r'\&',
  '#': r'\#',
  '%': r'\%',
  '_': r'\_',
  '^': r'\textasciicircum{}',
  '~': r'\textasciitilde{}',
  # These print as other characters in OT1, the default encoding of fonts.
  '<': r'\textless{}',
  '>': r'\textgreater{}',
  '|': r'\textbar{}',
  '"': "''",
  '`': r'\textasciigrave{}',
  '\0': '{}',
  '↑': r'$\uparrow$',
  '↓': r'$\downarrow$',
  '–': '--',
  '²': r'\textsuperscript{2}',
}


def table(rows: Sequence[tables.Row], names: Sequence[str], protocol: Mapping[str, str], by: str = 'recipe') -> str:
  r"""A `tabular` of means; within a group the best value of each metric is bold, the second is underlined.

  Args:
    rows: as of `tables.ranked`, those of a group one after the other; a rule separates groups.
    names: metrics, in the order of the columns.
    protocol: how the numbers were made; it becomes comments above the table.
    by: column whose values define the groups.

  Raises:
    SSRError: an unknown metric.
  """
  heads, body = tables.ranked(rows, names, by)
  lines = [r'% Needs \usepackage{booktabs}.']
  lines += [f'% {one_line(f"{topic}: {text}")}' for topic, text in protocol.items()]
  lines += [rf'\begin{{tabular}}{{ll{"r" * (len(heads) - 2)}}}', r'\toprule', _line(map(escape, heads)), r'\midrule']
  group = body[0][0].text if body else ''
  for cells in body:
    if cells[0].text != group:
      group = cells[0].text
      lines.append(r'\midrule')
    lines.append(_line(map(_cell, cells)))
  return '\n'.join([*lines, r'\bottomrule', r'\end{tabular}', ''])


def escape(text: str) -> str:
  """Text that LaTeX prints as it is. Letters beyond Latin need XeLaTeX or LuaLaTeX."""
  apart = re.sub(r"([-',])(?=\1)", '\\1\0', one_line(text))  # doubled, they would be drawn as one character
  return ''.join(_ESCAPED.get(character, character) for character in apart)


def _cell(cell: tables.Cell) -> str:
  text = re.sub(r'^-(?=\d)', '$-$', escape(cell.text))
  marks = {'best': r'\textbf{%s}', 'second': r'\underline{%s}'}
  spread = rf' {{\scriptsize $\pm$ {cell.spread}}}' if cell.spread else ''
  return marks.get(cell.place, '%s') % text + spread


def _line(cells: Iterable[str]) -> str:
  return ' & '.join(cells) + r' \\'

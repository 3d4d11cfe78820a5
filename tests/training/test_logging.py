"""Scalars of a run that was interrupted and goes on."""

import json

from ssr_jax.training import logging


def test_steps_done_again_replace_their_lines_and_a_half_written_one_goes(tmp_path):
  first = logging.Scalars(tmp_path)
  for step in (0, 1, 2, 3, 4):
    first.write(step, {'loss': step})
  first.write(2, {'psnr': 20.0}, 'validation/')
  first.close()
  path = tmp_path / 'scalars.jsonl'
  with path.open('a') as file:
    file.write('{"step": 2, "ti')  # killed while it wrote
  second = logging.Scalars(tmp_path, start=2)
  second.write(3, {'loss': 33.0})
  second.close()
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert [(row['step'], row.get('loss', row.get('validation/psnr'))) for row in rows] == [
    (0, 0.0),
    (1, 1.0),
    (2, 2.0),
    (2, 20.0),
    (3, 33.0),
  ]


def test_a_run_that_starts_anew_in_an_old_folder_keeps_only_what_came_before_its_first_step(tmp_path):
  logging.Scalars(tmp_path).write(5, {'loss': 1.0})
  logging.Scalars(tmp_path).close()
  assert (tmp_path / 'scalars.jsonl').read_text() == ''

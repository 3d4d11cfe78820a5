"""Golden values: results of a published method with the metrics that its authors published for them."""

import csv
import os
import pathlib

import numpy as np
from PIL import Image
import pytest

from ssr_jax.metrics import niqe
from tests.metrics import pristine

_DATA = pathlib.Path(os.environ.get('SSR_DATA', pathlib.Path(__file__).parents[2] / '../shared/data'))


@pytest.fixture(scope='session')
def published():
  """Ten (result, HR, {metric: value}) of OSEDiff on DRealSR, spread over the set."""
  table = _DATA / 'drealsr' / 'osediff_metrics.csv'
  if not table.is_file():
    pytest.skip(f'{table} is absent: set SSR_DATA to the folder of the test data')
  rows = list(csv.DictReader(table.read_text().splitlines()))[::10]
  read = lambda folder, name: np.asarray(Image.open(_DATA / 'drealsr' / folder / name).convert('RGB'))
  return [
    (read('osediff', row['image']), read('hr', row['image']), {k: float(v) for k, v in row.items() if k != 'image'})
    for row in rows
  ]


@pytest.fixture(scope='session')
def live():
  """LIVE's pristine model."""
  if not pristine.LIVE.is_file():
    pytest.skip(f'{pristine.LIVE} is absent: set SSR_DATA to the folder of the test data')
  return niqe.load_pristine(pristine.LIVE)

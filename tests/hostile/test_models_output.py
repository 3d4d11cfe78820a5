"""Networks that give no numbers: an error, not a black image."""

import numpy as np
import pytest

import ssr_jax
from ssr_jax.runtime import restorer


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_output_that_is_not_finite_is_refused(monkeypatch, value):
  model = ssr_jax.load('compact')
  image = np.full((1, 128, 128, 3), 0.5, np.float32)  # of a tile, with its padding
  found = {'restored': image.copy(), 'depth': image[..., :1], 'kernels': np.zeros((1, 32, 32, 441), np.float32)}
  monkeypatch.setattr(restorer.Restorer, '_run', lambda self, tiles, *_: iter([dict(found) for _ in tiles]))
  assert model.sample(np.zeros((8, 8, 3), np.uint8), steps=0).image.shape == (32, 32, 3)
  found['restored'][0, 3, 4, 1] = value
  with pytest.raises(ssr_jax.SSRError, match="model 'compact': output 'restored' is not finite"):
    model.sample(np.zeros((8, 8, 3), np.uint8), steps=0)

"""Cases: what a photo's LR image depends on."""

import numpy as np

from ssr_jax.evaluation.cases import Dataset


def test_a_photos_lr_depends_on_its_name_and_the_seed_only(photos):
  both = list(Dataset.parse(f'folder:{photos}', ['smooth/no_jpeg'], 3, 0).cases([]))
  (photos / 'astronaut.png').unlink()
  (alone,) = Dataset.parse(f'folder:{photos}', ['smooth/no_jpeg'], 3, 1).cases([])
  (other,) = Dataset.parse(f'folder:{photos}', ['smooth/no_jpeg'], 4, 1).cases([])
  np.testing.assert_array_equal(alone.lr, both[1].lr)
  assert (other.lr != alone.lr).any()

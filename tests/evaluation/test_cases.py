"""Cases: what a photo's LR image depends on."""

import numpy as np

from ssr_jax.degrade import Recipe
from ssr_jax.evaluation.cases import Dataset
from ssr_jax.image import blur


def test_a_photos_lr_depends_on_its_name_and_the_seed_only(photos):
  both = list(Dataset.parse(f'folder:{photos}', ['smooth/no_jpeg'], 3, 0).cases([]))
  (photos / 'astronaut.png').unlink()
  (alone,) = Dataset.parse(f'folder:{photos}', ['smooth/no_jpeg'], 3, 1).cases([])
  (other,) = Dataset.parse(f'folder:{photos}', ['smooth/no_jpeg'], 4, 1).cases([])
  np.testing.assert_array_equal(alone.lr, both[1].lr)
  assert (other.lr != alone.lr).any()


def test_a_case_knows_what_follows_its_blur(photos):
  recipes = ['isotropic-2.4/no_noise', 'isotropic-stride-2.4/no_noise', 'smooth/no_noise']
  found = {case.recipe: case for case in Dataset.parse(f'folder:{photos}', recipes, 0, 1).cases([])}
  assert {name: case.reduction for name, case in found.items()} == dict(
    zip(recipes, ('bicubic', 'stride', None), strict=True)
  )
  for recipe in recipes[:2]:
    hr, kernels = found[recipe].hr[None].astype(np.float32) / 255, found[recipe].kernels[0, :1]
    made = blur.blur_reduce(hr, kernels, 4, Recipe.parse(recipe).blur.down)[0]
    np.testing.assert_allclose(found[recipe].lr_clean, made, atol=1e-5)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.systems.ssr.encoders import Heads, LREncoder, MapEncoder


def filled(module, *args):
  """Variables drawn by NumPy: compiling an init takes longer than all the rest."""
  rng = np.random.default_rng(0)
  tree = jax.eval_shape(lambda: module.init(jax.random.key(0), *args))
  return jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.2, a.shape), jnp.float32), tree)


def test_map_encoder_gives_one_map_per_level_and_depends_on_the_place():
  x = jax.random.normal(jax.random.key(0), (2, 16, 24, 15))
  encoder = MapEncoder((8, 12, 16), features=6)
  v = filled(encoder, x, (16, 24))
  run = jax.jit(lambda x: encoder.apply(v, x, (16, 24)))
  maps = run(x)
  assert [m.shape for m in maps] == [(2, 16, 24, 6), (2, 8, 12, 6), (2, 4, 6, 6)]
  moved = run(x.at[0, 0, 0].add(1.0))
  for a, b in zip(maps, moved, strict=True):
    change = jnp.abs(a - b).sum(-1)
    assert change[0, 0, 0] > 0 and change[0, -1, -1] == 0 and not change[1].any()


def test_map_encoder_resizes_to_the_latent():
  x = jnp.full((1, 8, 8, 1), 0.4)
  encoder = MapEncoder((4, 4), features=3)
  v = filled(encoder, x, (4, 6))
  resized = jnp.full((1, 4, 6, 1), 0.4)
  for a, b in zip(encoder.apply(v, x, (4, 6)), encoder.apply(v, resized, (4, 6)), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize('lr_size', [8, 16])
def test_lr_encoder_knows_pixels_latent_and_time(lr_size):
  encoder = LREncoder((8, 12), features=6, blocks=1, head_dim=4, groups=4)
  lr = jax.random.uniform(jax.random.key(0), (2, lr_size, lr_size, 3))
  z = jax.random.normal(jax.random.key(1), (2, 8, 8, 4))
  t = jnp.array([10, 600])
  v = filled(encoder, lr, z, t)
  run = jax.jit(lambda *args: encoder.apply(v, *args))
  maps = run(lr, z, t)
  assert [m.shape for m in maps] == [(2, 8, 8, 6), (2, 4, 4, 6)]
  for changed in ((lr.at[1].set(0.5), z, t), (lr, z.at[1].set(0.0), t), (lr, z, t.at[1].set(601))):
    for a, b in zip(maps, run(*changed), strict=True):
      np.testing.assert_allclose(a[0], b[0], atol=1e-5)
      assert jnp.abs(a[1] - b[1]).max() > 1e-5


def test_heads_give_each_modality_at_every_level():
  features = [[jnp.ones((1, 4 >> level, 4 >> level, c)) for level in range(2)] for c in (5, 6, 7)]
  heads = Heads((15, 1, 4), hidden=3)
  out = heads.apply(filled(heads, features), features)
  assert [[x.shape for x in row] for row in out] == [[(1, 4, 4, c), (1, 2, 2, c)] for c in (15, 1, 4)]

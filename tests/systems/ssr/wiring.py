"""What the wiring tests share: stages of tiny models, functions in place of their networks, a batch of two photos."""

import jax
import jax.numpy as jnp
import numpy as np
from skimage import data

from configs import common, tiny
from ssr_jax.training import stages

HR = np.stack([data.coffee()[20:84, 250:314], data.coffee()[150:214, 300:364]])
ROWS = np.linspace(0, 1, 64, dtype=np.float32)[:, None]
DEPTH = jnp.stack([jnp.broadcast_to(ROWS, (64, 64)), jnp.broadcast_to(ROWS.T, (64, 64))])
PHOTO = jnp.asarray(HR, jnp.float32) / 255
BATCH = {'hr': jnp.asarray(HR), 'depth': DEPTH, 'seed': jnp.array([5, 6], jnp.uint32)}


def stage(name, model, **fields):
  fields = {'parts_from': str(model), 'data.patch': 64} | fields
  return stages.build(common.apply(tiny.get_config(name), fields))


def replace(monkeypatch, stage, **networks):
  """Puts a function `(*arguments, **options) -> output` in place of the module of each part named."""

  class Fake:
    def __init__(self, function, module):
      self.function, self.module = function, module

    def __getattr__(self, name):
      return getattr(self.module, name)

    def apply(self, variables, *arguments, **options):
      return self.function(*arguments, **options)

  fakes = {part: Fake(function, stage.modules[part]) for part, function in networks.items()}
  monkeypatch.setattr(stage, 'modules', {**stage.modules, **fakes})


def context(key=0, step=0, **trees):
  empty = {'params': {}, 'stats': {}, 'frozen': {}}
  given = {**empty, **trees}
  frozen = {part: {} for part in ('depth', 'dkenet', 'nbsr', 'vae', 'unet')} | given['frozen']
  frozen['constants'] = {'nbsr': {'pca': jnp.eye(441, 15)}}
  frozen['nbsr'] = {'constants': {'pca': jnp.eye(441, 15)}}
  return stages.context(given['params'], given['stats'], frozen, jax.random.key(key), step)


class Critic:
  """Scores by brightness, with one weight; against that of the image beside it where there is one."""

  def apply(self, variables, image):
    beside = 2 * image[..., 3:].mean((1, 2, 3)) if image.shape[-1] == 6 else 1
    return variables['params'] * image[..., :3].mean((1, 2, 3)) - beside

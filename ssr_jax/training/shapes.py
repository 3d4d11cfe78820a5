"""Shapes of a training step's inputs without data, weights or a device: to compile, count or measure the step."""

from typing import Any

import jax
import numpy as np

from ssr_jax.systems.base import Stage
from ssr_jax.training import stages
from ssr_jax.types import SSRError
from ssr_jax.weights import format, store

Tree = Any


def without_weights(config) -> str | None:
  """Sets `config.parts_from` to '' if that model is not on this machine; returns a note about it, or None."""
  try:
    store.resolve(config.parts_from)
  except SSRError:
    name, config.parts_from = config.parts_from, ''
    return f'model {name!r} is not on this machine: frozen parts as the config has them'
  return None


def of_run(config) -> tuple[Stage, Tree, Tree, Tree]:
  """The stage of a config, and the shapes of parameters, batch statistics and frozen parts, as for `state.program`."""
  stage = stages.build(config)
  params, stats, constants = jax.eval_shape(stage.init, jax.random.key(0))
  fields = stages.inherited(config).parts if stage.needs else {}
  frozen = {
    part: format.unflatten(format.abstract_variables(part, fields[part], system=config.system)) for part in stage.needs
  }
  frozen |= {name: format.unflatten(stages.learned(name).shapes()) for name in stage.learned}
  return stage, params, stats, frozen | {'constants': constants}


def of_batch(stage: Stage, config, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a batch of photos without depth, without the field 'record'."""
  from ssr_jax.data import records  # imports grain

  patch = config.data.patch
  photo: dict[str, np.ndarray] = {'hr': np.zeros((patch, patch, 3), np.uint8)}
  make = records.photo_record(patch)
  if stage.depth == 'needs':  # rendered scenes have the same fields as photos with depth
    photo['depth'] = np.zeros((patch, patch), np.float32)
  elif stage.depth == 'uses' and config.data.scenes:
    make = records.partly(0.0, None, patch)
  record = make(photo, np.random.default_rng(0))
  return {name: jax.ShapeDtypeStruct((batch_size, *np.shape(x)), np.asarray(x).dtype) for name, x in record.items()}

"""The check of annotations: it covers every module that has shapes in them, and what does not fit raises."""

import ast
import os
import pathlib
import pkgutil
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssr_jax.degrade import fields
from ssr_jax.diffusion import Schedule
from ssr_jax.image import sharpen
from ssr_jax.metrics import psnr
from ssr_jax.nn import vae
from ssr_jax.runtime import trust
from ssr_jax.systems.blinddiff import core as blinddiff
from ssr_jax.systems.blinddiff import mcformer
from ssr_jax.systems.cassr import core as cassr
from ssr_jax.systems.cassr import networks
from ssr_jax.systems.ssr import amf, core, dkenet, encoders, loss, svkr
from tests import typechecker

if os.environ.get('SSR_TYPECHECK') == '0':
  pytest.skip('SSR_TYPECHECK=0 checks no annotations', allow_module_level=True)
jaxtyping = pytest.importorskip('jaxtyping')

ROOT = pathlib.Path(__file__).resolve().parent.parent


def _of(function, *others, dtype=jnp.float32):
  """A call of a function with an array of a shape, traced only."""
  return lambda shape: jax.eval_shape(lambda x: function(x, *others), jax.ShapeDtypeStruct(shape, dtype))


def _init(module, *others):
  """The same of a module's initialisation."""
  return _of(lambda x: module.init(jax.random.key(0), x, *others))


def _svkr(lr):
  return svkr.svkr(
    lambda image: image[..., :1], lambda lr, depth: lr, lambda lr, kernels: jnp.tile(lr, (1, 4, 4, 1)), lr
  )


# {of `CHECKED`: (a call, what fits, what does not)}. What does not fit is broadcast, or left alone, by code that is not
# checked: nothing else would tell.
CASES = {
  'ssr_jax.degrade': (_of(lambda depth: fields.lens(jax.random.key(0), depth, (0.7, 10.0))), (4, 5), (4, 5, 1)),
  'ssr_jax.diffusion': (
    _of(lambda eps: Schedule().add_noise(jnp.zeros((2, 4, 4, 1)), eps, 3)),
    (2, 4, 4, 1),
    (4, 4, 1),
  ),
  'ssr_jax.image': (lambda dtype: _of(sharpen.unsharp_mask, dtype=dtype)((1, 64, 64, 3)), jnp.float32, jnp.int32),
  'ssr_jax.metrics': (lambda error: psnr.decibels(error, 255.0), 2.0, np.float32(2)),
  'ssr_jax.nn': (_of(vae.reconstruction_loss, jnp.zeros((2, 4, 4, 3))), (2, 4, 4, 3), (4, 4, 3)),
  'ssr_jax.runtime': (lambda shape: trust.share(np.zeros(shape)), (4, 5, 3), (4, 5, 4)),
  'ssr_jax.systems.blinddiff.core': (
    _of(blinddiff.Domain(residual=True).to_image, jnp.zeros((2, 8, 8, 3))),
    (2, 8, 8, 3),
    (8, 8, 3),
  ),
  'ssr_jax.systems.blinddiff.mcformer': (_init(mcformer.Estimator(features=2, taps=9)), (1, 8, 8, 3), (8, 8, 3)),
  'ssr_jax.systems.cassr.core': (_of(lambda lr: cassr.activate({}, {}, lr, 'lr')), (1, 4, 4, 3), (1, 4, 4, 4)),
  'ssr_jax.systems.cassr.networks': (
    _init(networks.TapAttention(2), jnp.zeros((1, 4, 4, 5))),
    (1, 16, 8),
    (1, 15, 8),  # of another map than the tap's
  ),
  'ssr_jax.systems.ssr.amf': (
    lambda shape: _init(amf.AMF(4), [jnp.zeros(shape)])(shape),
    (1, 4, 4, 3),
    (4, 4, 3),
  ),
  'ssr_jax.systems.ssr.core': (_of(core.spread_depth, (8, 8)), (1, 4, 4, 1), (1, 4, 4, 2)),
  'ssr_jax.systems.ssr.dkenet': (_init(dkenet.MAConv()), (1, 4, 4, 8), (4, 4, 8)),
  'ssr_jax.systems.ssr.encoders': (_init(encoders.MapEncoder((4,), 4), (4, 4)), (1, 4, 4, 1), (4, 4, 4)),
  'ssr_jax.systems.ssr.loss': (
    _of(lambda x: loss.reconstruction_error([x], jnp.zeros((2, 4, 4, 1)))),
    (2, 8, 8, 1),
    (1, 8, 8, 1),
  ),
  'ssr_jax.systems.ssr.svkr': (_of(_svkr), (1, 4, 4, 3), (1, 4, 4, 4)),
}


def _has_shape(node):
  """Whether it is a type of jaxtyping with a shape, in an annotation or in an alias."""
  value = node.value if isinstance(node, ast.Subscript) else None
  return isinstance(value, ast.Name) and value.id in ('Bool', 'Float', 'Int', 'Num')


def _modules_with_shapes():
  for path in sorted((ROOT / 'ssr_jax').rglob('*.py')):
    if any(map(_has_shape, ast.walk(ast.parse(path.read_text())))):
      yield '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


def test_every_module_with_shapes_is_checked():
  modules = list(_modules_with_shapes())
  assert len(modules) > 30
  assert [name for name in modules if not f'{name}.'.startswith(tuple(f'{c}.' for c in typechecker.CHECKED))] == []


def test_there_is_a_case_for_each_that_is_checked():
  assert set(CASES) == set(typechecker.CHECKED)


@pytest.mark.parametrize('name', CASES)
def test_what_does_not_fit_raises_in_the_module_that_was_called(name):
  call, right, wrong = CASES[name]
  call(right)
  with pytest.raises(jaxtyping.TypeCheckError, match=rf' of {re.escape(name)}[.]'):
    call(wrong)
  with typechecker.unchecked():
    call(wrong)  # nothing else refuses it


@pytest.mark.parametrize('name', typechecker.REFUSING + typechecker.TREES)
def test_exceptions_exist(name):
  function = pkgutil.resolve_name(name)
  assert f'{function.__module__}.{function.__qualname__}' == name

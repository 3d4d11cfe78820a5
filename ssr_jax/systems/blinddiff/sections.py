"""Types, bounds and defaults of BlindDiff's sections of model.json. What `SECTIONS` fills in may be absent."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from ssr_jax.systems.fields import PositiveFraction, Section


class Schedule(Section):
  """Of the section 'schedule'."""

  steps: Annotated[int, Meta(ge=1, le=100_000)] = 1000
  beta_start: PositiveFraction = 1e-4
  beta_end: PositiveFraction = 0.02
  prediction: Literal['eps', 'v'] = 'eps'
  shape: Literal['scaled_linear', 'linear'] = 'linear'


class Domain(Section):
  """Of the section 'domain': what the weights mean by x and by an LR image, see `core.Domain`."""

  residual: bool = False
  gain: Annotated[float, Meta(gt=0, le=1000)] = 1.0
  up: Literal['antialiased', 'torch'] = 'antialiased'
  down: Literal['bicubic', 'stride'] = 'bicubic'


class Sampling(Section):
  """Of the section 'sampling'."""

  steps: Annotated[int, Meta(ge=1, le=1000)]
  guidance: Annotated[float, Meta(ge=0, le=1e6)] = 1.0
  operator: Literal['estimated', 'bicubic', 'true'] = 'estimated'
  sigma: Annotated[float, Meta(ge=0.1, le=10)] = 2.5
  stop_kernel: bool = False
  shrink: Annotated[float, Meta(ge=0, le=1000)] = 0.0
  spacing: Literal['linspace', 'trailing', 'leading'] = 'linspace'


SECTION_TYPES = {'schedule': Schedule, 'domain': Domain, 'sampling': Sampling}

SECTIONS: dict[str, Any] = {
  'schedule': {'steps': 1000, 'beta_start': 1e-4, 'beta_end': 0.02, 'prediction': 'eps', 'shape': 'linear'},
  'domain': {'residual': False, 'gain': 1.0, 'up': 'antialiased', 'down': 'bicubic'},
  'sampling': {
    'steps': 500,
    'guidance': 1.0,
    'operator': 'estimated',
    'sigma': 2.5,
    'stop_kernel': False,
    'shrink': 0.0,
    'spacing': 'linspace',
  },
}
"""Those of a new model.json: the paper's method as its released code has it."""

"""Types and bounds of SSR's sections of model.json. What `SECTIONS` fills in may be absent."""

from typing import Annotated, Literal

from msgspec import Meta

from ssr_jax.systems.fields import Fraction, PositiveFraction, Section

# The colour fix reads 2**levels rows around a band of the image.
_Levels = Annotated[int, Meta(ge=1, le=10)]
_Sharpen = Annotated[float, Meta(ge=0, le=4)]
_Steps = Annotated[int, Meta(ge=0, le=1000)]
_Name = Annotated[str, Meta(max_length=64)]  # which names there are is checked by `plan`


class Svkr(Section):
  """Of the section 'svkr'; every round runs all restoring networks, unrolled in one program."""

  iterations: Annotated[int, Meta(ge=0, le=32)] = 3
  gamma: Fraction = 0.9
  rule: Literal['algorithm1', 'eq2'] = 'algorithm1'  # `ssr info` builds the program without a plan
  unroll: bool | Annotated[int, Meta(ge=1, le=32)] = 1


class Schedule(Section):
  """Of the section 'schedule'."""

  steps: Annotated[int, Meta(ge=1, le=100_000)] = 1000
  beta_start: PositiveFraction = 0.00085
  beta_end: PositiveFraction = 0.012
  prediction: Literal['eps', 'v'] = 'eps'


class Student(Section):
  """Of the field 'student' of the section 'sampling'; `check_model` requires all fields where there is a student."""

  steps: _Steps | None = None
  start: PositiveFraction | None = None
  noise: Fraction | None = None
  wavelet_levels: _Levels | None = None
  chroma_levels: Annotated[int, Meta(ge=0, le=10)] | None = None
  strength: Fraction | None = None
  smooth: Annotated[float, Meta(ge=0, le=8)] = 0.0  # pixels
  sharpen: _Sharpen = 0.0


class Sampling(Section):
  """Of the section 'sampling'."""

  sampler: _Name
  steps: _Steps
  start: PositiveFraction
  colour_fix: _Name = 'wavelet'
  wavelet_levels: _Levels = 5
  strength: Fraction = 1.0
  sharpen: _Sharpen = 0.0
  guidance: Fraction = 0.0
  student: Student | None = None


SECTION_TYPES = {'svkr': Svkr, 'schedule': Schedule, 'sampling': Sampling}

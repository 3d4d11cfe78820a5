"""The plan of SSR's sampling, from the options of `sample` and a model.json."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from ssr_jax import diffusion
from ssr_jax.systems.ssr import core
from ssr_jax.systems.ssr.options import Options
from ssr_jax.systems.ssr.svkr import RULES
from ssr_jax.types import SSRError

COLOUR_FIXES = ('none', 'adain', 'wavelet')

SECTIONS: dict[str, Any] = {
  'svkr': {'iterations': 3, 'gamma': 0.9, 'rule': 'algorithm1'},
  'schedule': {},
  'sampling': {'sampler': 'dpmpp_2m', 'steps': 8, 'start': 0.5},
}
"""SSR's sections of a new model.json."""

_FIELDS = {
  'svkr': ('iterations', 'gamma', 'rule', 'unroll'),
  'schedule': tuple(field.name for field in dataclasses.fields(diffusion.Schedule)),
  'sampling': (
    'sampler',
    'steps',
    'start',
    'colour_fix',
    'wavelet_levels',
    'strength',
    'sharpen',
    'guidance',
    'student',
  ),
}
MODES = ('faithful', 'natural', 'detailed')
_MOST_ITERATIONS = 32  # as in a model.json; every round runs all restoring networks, unrolled in one program
_STUDENT = ('steps', 'start', 'noise', 'wavelet_levels', 'chroma_levels', 'strength')  # of the section sampling.student
_MORE = ('smooth', 'sharpen')  # likewise, which a student can lack
_MOST_SHARPEN = 4
_WAVELET_LEVELS = 5  # of the colour fix, if model.json has none: it takes what varies over more than about 32 pixels


@dataclasses.dataclass(frozen=True)
class Plan:
  """Options with the model's values filled in; hashable, a static argument of the compiled programs.

  Attributes:
    network: the part that samples, 'unet' or 'student'.
    autoencoder: the part whose latents it samples.
    decoder: the part that makes an image of them: the autoencoder, or a student's own.
    steps: calls of the network; 0 stops at the restored image.
    sampler: a name of `diffusion.SAMPLERS`.
    start: fraction of the schedule to begin at.
    noise: factor of the initial noise.
    colour_fix: one of `COLOUR_FIXES`.
    blend: share of diffusion's change that is kept.
    smooth: deviation in pixels of the blur of diffusion's change; 0 leaves it out.
    sharpen: how much edges are steepened in the end; 0 leaves it out.
    guidance: weight of the pull towards the LR image; 0 leaves it out.
    levels: wavelet levels of the colour fix for brightness and for colour (None: as for brightness).
    schedule: the forward process.
    scale: s.
    iterations: T of SVKR.
    gamma: of SVKR.
    rule: of SVKR.
    unroll: of SVKR.
    given: outputs that the caller gave instead of having them estimated.
  """

  network: str
  autoencoder: str
  decoder: str
  steps: int
  sampler: str
  start: float
  noise: float
  colour_fix: str
  blend: float
  levels: tuple[int, int | None]
  schedule: diffusion.Schedule
  scale: int
  smooth: float = 0.0
  sharpen: float = 0.0
  guidance: float = 0.0
  iterations: int = 3
  gamma: float = 0.9
  rule: str = 'algorithm1'
  unroll: int | bool = 1
  given: tuple[str, ...] = ()

  @property
  def parts(self) -> tuple[str, ...]:
    """The parts that run."""
    if not self.steps:
      return core.RESTORING
    return *core.RESTORING, *_sampling(self.network, self.autoencoder, self.decoder)

  @property
  def svkr(self) -> dict[str, Any]:
    """Keyword arguments of `core.refine`."""
    return {name: getattr(self, name) for name in ('scale', 'iterations', 'gamma', 'rule', 'unroll')}


def required(modules: Mapping[str, Any], options: Options) -> tuple[str, ...]:
  """The parts that options need; with diffusion the last one samples, and the one before it is its autoencoder."""
  if options.steps == 0 or (options.mode == 'faithful' and options.steps is None):
    return core.RESTORING
  chosen = (options.steps, options.sampler, options.start)
  network = 'student' if 'student' in modules and chosen == (None,) * 3 else 'unet'
  return *core.RESTORING, *_sampling(network, autoencoder_of(modules, network), decoder_of(modules, network))


def _sampling(network: str, autoencoder: str, decoder: str) -> tuple[str, ...]:
  return (*(() if decoder == autoencoder else (decoder,)), autoencoder, network)


def autoencoder_of(modules: Mapping[str, Any], network: str) -> str:
  """The part whose latents a network samples; a student can have its own."""
  return 'student_vae' if network == 'student' and 'student_vae' in modules else 'vae'


def decoder_of(modules: Mapping[str, Any], network: str) -> str:
  """The part that makes an image of a network's latents."""
  own = network == 'student' and 'student_nbsr' in modules
  return 'student_nbsr' if own else autoencoder_of(modules, network)


def plan(config: Mapping[str, Any], modules: Mapping[str, Any], options: Options) -> Plan:
  """Checks options against a model and fills in the model's values; as of `System.plan`."""
  needed = required(modules, options)
  own = _own_sampling(config, needed[-1]) | {'iterations': config['svkr'].get('iterations', Plan.iterations)}
  own |= _of_mode(options.mode, own)
  asked = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
  values = {name: own[name] if value is None else value for name, value in asked.items()}
  steps, start, blend = values['steps'], values['start'], values['blend']
  schedule = diffusion.Schedule(**config['schedule'])
  if not isinstance(steps, int | np.integer) or steps < 0:
    raise SSRError(f'steps {steps!r}: must be a whole number, 0 for the restored image only')
  if not isinstance(blend, int | float) or not 0 <= blend <= 1:
    raise SSRError(f'blend {blend!r}: must lie in [0, 1], 0 being the restored image')
  if options.sharpen is None and options.blend is not None and own['blend'] > 0:
    values['sharpen'] *= min(1, blend / own['blend'])  # at 0 the image is the restored one
  iterations = values['iterations']
  if not isinstance(iterations, int | np.integer) or not 0 <= iterations <= _MOST_ITERATIONS:
    raise SSRError(f'iterations {iterations!r}: must be a whole number from 0 to {_MOST_ITERATIONS}')
  if not isinstance(values['guidance'], int | float) or not 0 <= values['guidance'] <= 1:
    raise SSRError(f'guidance {values["guidance"]!r}: must lie in [0, 1], 0 being without')
  if not isinstance(values['sharpen'], int | float) or not 0 <= values['sharpen'] <= _MOST_SHARPEN:
    raise SSRError(f'sharpen {values["sharpen"]!r}: must lie in [0, {_MOST_SHARPEN}], 0 being without')
  if not 0 < start <= 1:
    raise SSRError(f'start {start!r}: must be above 0 and up to 1 (pure noise)')
  if steps > round(start * schedule.steps):
    raise SSRError(f'steps {steps}: more than the {round(start * schedule.steps)} that start {start} leaves')
  for field, known in (('sampler', tuple(diffusion.SAMPLERS)), ('colour_fix', COLOUR_FIXES)):
    if values[field] not in known:
      raise SSRError(f"{field} '{values[field]}': unknown; known: {', '.join(known)}")
  lacking = [part for part in needed if part not in modules]
  if lacking:
    restores = all(part in modules for part in core.RESTORING)
    advice = 'use steps=0 (--restored-only)' if restores else 'train them or choose another model'
    raise SSRError(f"model '{config['name']}' has no part {', '.join(lacking)}; {advice}")
  return Plan(
    network=needed[-1],
    autoencoder=needed[-2],
    decoder=decoder_of(modules, needed[-1]),
    steps=int(steps),
    sampler=values['sampler'],
    start=float(start),
    noise=float(own['noise']),
    colour_fix=values['colour_fix'],
    blend=float(blend),
    levels=(own['wavelet_levels'], own.get('chroma_levels')),
    schedule=schedule,
    scale=config['scale'],
    smooth=float(own['smooth']),
    sharpen=float(values['sharpen']),
    guidance=float(values['guidance']),
    **{**config['svkr'], 'iterations': int(iterations)},
  )


def _of_mode(mode: str | None, own: Mapping[str, Any]) -> dict[str, Any]:
  """The values that a mode has instead of the model's own."""
  match mode:
    case None | 'natural':
      return {'mode': mode}
    case 'faithful':
      return {'mode': mode, 'steps': 0, 'sharpen': 0.0}
    case 'detailed':
      return {'mode': mode, 'blend': (own['blend'] + 1) / 2, 'sharpen': min(3 * own['sharpen'], _MOST_SHARPEN)}
    case _:
      raise SSRError(f"mode '{mode}': unknown; known: {', '.join(MODES)}")


def check_model(config: Mapping[str, Any], modules: Mapping[str, Any]) -> None:
  """Raises SSRError, naming the field, for invalid sections of model.json; as of `System.check_model`."""
  for section, known in _FIELDS.items():
    for field in config[section]:
      if field not in known:
        raise SSRError(f"unknown field '{section}.{field}'; known: {', '.join(known)}")
  if config['svkr']['rule'] not in RULES:
    raise SSRError(f"svkr.rule '{config['svkr']['rule']}'; known: {', '.join(RULES)}")
  student = config['sampling'].get('student', {})
  if 'student' in modules and set(student) - set(_MORE) != set(_STUDENT):
    raise SSRError(f'sampling.student has {", ".join(student) or "nothing"}; it needs {", ".join(_STUDENT)}')
  restores = all(part in modules for part in core.RESTORING)
  choices = [Options(steps=0)] if restores else []
  if restores and {autoencoder_of(modules, 'student'), 'student'} <= modules.keys():
    choices.append(Options())
  for options in choices:  # checks every value of model.json
    plan(config, modules, options)


def _own_sampling(config: Mapping[str, Any], network: str) -> dict[str, Any]:
  """The sampling options of a network in model.json, with defaults.

  Raises:
    SSRError: an invalid value.
  """
  own = {
    'colour_fix': 'wavelet',
    'wavelet_levels': _WAVELET_LEVELS,
    'noise': 1.0,
    'strength': 1.0,
    'smooth': 0.0,
    'sharpen': 0.0,
    'guidance': 0.0,
    **config['sampling'],
  }
  student = own.pop('student', {})
  if network == 'student':
    own |= student | {'sampler': diffusion.STUDENT_SAMPLER}
  own['blend'] = own.pop('strength')  # its name in model.json
  levels, chroma, noise = own['wavelet_levels'], own.get('chroma_levels'), own['noise']
  if not isinstance(levels, int) or levels < 1:
    raise SSRError(f'sampling.wavelet_levels {levels!r} in model.json: must be a whole number from 1')
  if chroma is not None and (not isinstance(chroma, int) or chroma < 0):
    raise SSRError(f'sampling.student.chroma_levels {chroma!r} in model.json: must be a whole number or null')
  if not isinstance(noise, int | float) or not 0 <= noise <= 1:
    raise SSRError(f'sampling.student.noise {noise!r} in model.json: must lie in [0, 1]')
  return own

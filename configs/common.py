"""Shared by the configs: the fields of all stages, the parsing of the command line, and one-line errors."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

STAGES = ('depth', 'kernel', 'nbsr', 'svkr', 'vae', 'diffusion', 'distill')


def base(stage: str) -> ConfigDict:
  """The fields of all configs, with defaults that do not depend on the model's size."""
  if stage and stage not in STAGES:
    raise ValueError(f'unknown stage {stage!r}; known: {", ".join(STAGES)}')
  config = ConfigDict()
  config.system = 'ssr'  # a name of ssr_jax.systems.SYSTEMS
  config.stage = stage
  config.name = 'model'  # of the exported model
  config.debug = False  # stop at the first NaN and check jax's invariants; slow
  config.profile = ()  # (steps to wait, steps to record): a profiler trace in WORKDIR/profile
  # Initial weights of the trained parts: a model's name or directory, or a run's workdir; '' for none.
  config.init_from = ''
  # The model of the frozen parts (the depth net for 'kernel', all but the UNet for 'diffusion').
  config.parts_from = 'compact'

  config.model = ConfigDict()

  config.data = ConfigDict()
  # 'folder:DIR' and other kinds, several joined by ';', with weights '0.7*folder:A;0.3*folder:B':
  # ssr_jax/data/sources.
  config.data.train = 'folder:data/train'
  config.data.holdout = 20  # every n-th photo is held out for validation; 0 for none
  config.data.patch = 128
  # Training photos are downscaled by random factors in this range, which removes noise and JPEG artefacts.
  config.data.shrink = (1.0, 1.0)
  # Share of rendered scenes among the records, in stages that use true depth (kernel, svkr), for photos without depth.
  config.data.scenes = 0.0
  config.data.threads = 2  # decoding threads of this process, which share the cache
  config.data.workers = 0  # decoding processes instead, for sets larger than the cache; the batches are the same
  config.data.prefetch = 4  # batches read ahead
  config.data.cache_mb = 2048  # decoded photos in memory, over all workers
  config.data.max_bad_records = 10  # unreadable or too small photos to skip; one more is an error

  config.recipe = ConfigDict()
  config.recipe.field = 'mixed'
  config.recipe.mode = 'mixed'

  config.train = ConfigDict()
  config.train.seed = 0
  config.train.steps = 1000
  config.train.batch_size = 16
  config.train.learning_rate = 2e-4
  config.train.warmup = 100
  config.train.final_rate = 0.02  # the cosine ends at this fraction of the learning rate
  config.train.weight_decay = 0.0
  config.train.clip = 1.0  # gradient norm of each part
  config.train.ema = 0.999
  # Regular expressions of parameters that are not trained, such as 'vae/(encoder|quant_conv|shortcut_in)'.
  config.train.frozen = ()
  config.train.log_every = 50
  config.train.checkpoint_every = 500
  config.train.validate_every = 1000
  config.train.validation_batches = 8  # of 8 held-out patches each, the same in every run
  config.train.figures_every = 1000
  config.train.keep = 2  # latest checkpoints; the best one is kept too
  config.train.dtype = 'float32'  # or 'bfloat16', of the networks' computation; parameters stay float32
  # What the backward pass recomputes instead of storing it: '' nothing, 'blocks' everything within each block of a
  # network, 'products' and 'dots' everything but some products; ssr_jax/nn/remat.py.
  config.train.remat = ''
  config.train.accumulate = 1  # parts of a batch that are processed one after the other, to save memory
  config.train.max_skipped = 10  # steps with a loss or gradient that is not finite; one more is an error

  config.mesh = ConfigDict()
  config.mesh.data = -1  # replicas of the model, each with its part of the batch; -1: the remaining devices
  config.mesh.fsdp = 1  # devices that share a replica, each with its part of the batch
  config.mesh.tensor = 1  # devices that share a replica and its part of the batch
  config.mesh.min_size = 2**16  # arrays of fewer elements are not split

  config.distributed = ConfigDict()
  config.distributed.coordinator = ''  # 'host:port' of process 0, to connect processes without a cluster manager
  config.distributed.processes = 0
  config.distributed.index = 0
  config.distributed.auto = False  # connect by the environment; automatic under SLURM, Open MPI and GKE

  config.loss = losses()

  config.svkr = ConfigDict()
  config.svkr.iterations = 3
  config.svkr.gamma = 0.9
  config.svkr.rule = 'algorithm1'

  config.schedule = ConfigDict()
  config.schedule.steps = 1000
  config.schedule.beta_start = 0.00085
  config.schedule.beta_end = 0.012
  config.schedule.prediction = 'eps'

  config.distill = ConfigDict()
  config.distill.steps = 1  # of the student
  config.distill.start = 0.1  # fraction of the schedule to begin at, from the restored image
  config.distill.noise = 1.0  # factor of the initial noise; a student of one step needs none
  # Colour fix: brightness at scales above about 2**levels pixels is taken from the restored image.
  config.distill.wavelet_levels = 2
  config.distill.chroma_levels = 2  # the same for colour
  config.distill.strength = 1.0  # share of the change to the restored image that sampling keeps; not used in training
  config.distill.teacher_steps = 20
  config.distill.decoder = False  # whether to train a decoder for the student

  config.eval = ConfigDict()
  config.eval.dataset = 'folder:data/test'  # 'folder:HR_DIR' or 'folder:HR_DIR,LR_DIR'
  config.eval.metrics = ('psnr', 'ssim', 'lr_psnr', 'kernel_psnr', 'niqe')
  config.eval.models = ('bicubic', 'restored', 'result')
  config.eval.model = 'compact'
  config.eval.dtype = 'float32'  # or 'bfloat16', of its networks' computation
  config.eval.recipes = ('smooth/no_noise', 'smooth/noise_jpeg')
  config.eval.seed = 0
  config.eval.niqe_params = ''  # NIQE's pristine model, an .npz with mu_pris_param and cov_pris_param
  config.eval.limit = 0  # number of images; 0 for all
  config.eval.pictures = 4
  # Options of `Restorer.sample`; None takes the model's value.
  kinds = dict(steps=int, sampler=str, start=float, colour_fix=str, strength=float, tile=int)
  config.eval.sampling = ConfigDict({name: placeholder(kind) for name, kind in kinds.items()})
  return config


def losses() -> ConfigDict:
  """Weights of the terms of the stages' losses."""
  loss = ConfigDict()
  loss.kernel = 1e4  # MANet: L1 on 1e4 K
  loss.detail = 0.5  # vae, distill: differences between neighbours at three scales
  loss.kl = 1e-6
  loss.latent_noise = 0.0  # vae: largest deviation of noise on latents, relative to the latents' deviation
  loss.adversarial = 0.005  # as in the bundled decoder's last 1500 steps; with 0.02 from scratch a run stalled
  loss.adversarial_start = 0.7  # fraction of the steps
  loss.draws = 1  # diffusion: draws of (time step, noise) per image; latents and conditions are computed once
  loss.focus = (
    0.0,
    1.0,
  )  # diffusion: (share, end): this share of the time steps is below this fraction of the schedule
  loss.grid = 0.0  # distill: the error's periodic part, with the period of a latent pixel
  loss.teacher = 1.0  # distill: squared distance to the teacher's latent; 0 skips the teacher's sampling
  loss.realism = 1.0  # distill: gradient norm of a perfect critic's term, relative to the reconstruction's
  loss.constraints = (0.01, 0.01, 0.01)  # lambda_1..3 of Eq. 5: kernel, depth, image
  return loss


def full_size(stage: str, name: str) -> ConfigDict:
  """The paper's size; the caller adds the heads and context of a Stable Diffusion's UNet.

  The paper gives only the autoencoder (f = 8, 4 channels) and AMF's hidden width (128). The other widths and the
  training fields are those of MANet and RRDB-SFT for the parts that have them, else our choice.

  Args:
    stage: as in `base`.
    name: of the imported model with the pretrained parts, `ssr weights import ... --as NAME`.
  """
  config = base(stage)
  config.name = config.parts_from = name
  model = config.model
  model.depth = dict(family='dpt')  # the defaults are DPT-Large's
  model.dkenet = dict(features=128, depth_features=64)
  model.nbsr = dict(blocks=10, features=64, growth=32)
  model.vae = dict(
    channels=(128, 256, 512, 512),
    latent_channels=4,
    encoder_blocks=2,
    decoder_blocks=3,
    groups=32,
    scaling_factor=0.18215,
  )
  model.unet = dict(
    channels=(320, 640, 1280, 1280),
    blocks=2,
    attention=(True, True, True, False),
    prompt_tokens=77,
    groups=32,
    amf_hidden=128,
    kernel_channels=(64, 64, 128, 128),
    depth_channels=(64, 64, 128, 128),
    lr_channels=(256, 256, 512, 512),
    lr_blocks=2,
    map_features=64,
    lr_features=256,
  )
  if stage == 'distill':
    model.student = model.unet  # the same object: a change of one changes both
  match stage:
    case 'kernel' | 'nbsr':
      # As MANet and RRDB-SFT: HR patches of 192 pixels, batches of 16, Adam at 2e-4 for 300 000 steps.
      overrides = {'data.patch': 192, 'train.steps': 300_000}
    case 'svkr':
      overrides = {'data.patch': 192, 'train.steps': 50_000, 'train.batch_size': 8, 'train.learning_rate': 1e-5}
    case 'vae':
      overrides = {'data.patch': 256, 'train.steps': 100_000, 'train.learning_rate': 1e-5, 'init_from': name}
    case 'diffusion':
      overrides = {
        'init_from': name,
        'data.patch': 512,
        'train.steps': 100_000,
        'train.batch_size': 32,
        'train.learning_rate': 5e-5,
        'train.dtype': 'bfloat16',
        'svkr.iterations': 0,  # as in configs/compact.py
      }
    case 'distill':
      overrides = {
        'data.patch': 512,
        'train.steps': 20_000,
        'train.learning_rate': 1e-5,
        'train.dtype': 'bfloat16',
        'svkr.iterations': 1,
        'distill.steps': 4,
        'distill.start': 0.5,
      }
    case 'depth':
      overrides = {'data.patch': 384, 'train.learning_rate': 1e-5, 'init_from': name}
    case _:
      overrides = {}
  if stage:
    overrides |= {'train.checkpoint_every': 5000, 'train.validate_every': 5000}
  return apply(config, overrides)


def apply(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
  """Sets existing fields by dotted names: `apply(config, {'train.steps': 5})`."""
  for path, value in overrides.items():
    node = config
    *parents, leaf = path.split('.')
    for parent in parents:
      node = node[parent]
    node[leaf] = value
  return config


def run(
  main: Callable[..., int | None],
  doc: str,
  argv: list[str] | None = None,
  options: Mapping[str, str | bool | None] | None = None,
) -> None:
  """Parses --config and other options, runs `main(config, **options)` and exits.

  A wrong config file, stage, field or value prints one line with the known ones to stderr and exits with 2; an
  `SSRError` from `main` prints its line and exits with 1.

  Args:
    main: the program; returns the exit code, None meaning 0.
    doc: printed by --help.
    argv: the arguments; default sys.argv.
    options: {name: default}, strings and booleans; None for a required one. Default: --workdir, required.
  """
  import sys

  from absl import flags
  from ml_collections import config_flags

  argv = list(sys.argv if argv is None else argv)
  if '--config' in argv[:-1]:
    i = argv.index('--config')
    argv[i : i + 2] = [f'--config={argv[i + 1]}']
  options = {'workdir': None} if options is None else options
  values = flags.FlagValues()
  config_flags.DEFINE_config_file(
    'config', None, 'The config: FILE.py:STAGE.', lock_config=True, flag_values=values, sys_argv=argv
  )
  for name, default in options.items():
    define = flags.DEFINE_boolean if isinstance(default, bool) else flags.DEFINE_string
    define(name, default, '', flag_values=values)

  def fail(code: int, line: str):
    print(f'error: {line}', file=sys.stderr)
    sys.exit(code)

  if {'-h', '--help'} & set(argv[1:]):
    print(doc.strip())
    sys.exit(0)
  complaint = _complaint(argv)
  if complaint:
    fail(2, complaint)
  try:
    rest = values(argv)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    fail(2, ' '.join(str(error).split()))
  if len(rest) > 1:
    fail(2, f'unexpected argument {rest[1]!r}; every option reads --name=value')
  for name in ('config', *options):
    if values[name].value is None:
      fail(2, f'--{name} is missing; see --help')

  from ssr_jax.types import SSRError

  try:
    code = main(values['config'].value, **{name: values[name].value for name in options})
  except SSRError as error:
    fail(1, str(error))
  except KeyboardInterrupt:
    fail(130, 'interrupted')
  sys.exit(code or 0)


def _complaint(argv: list[str]) -> str | None:
  """One line about an error in the config file, its stage or the fields on the command line; None if there is none.

  ml_collections reports the same errors, but over several lines and without the known names.
  """
  import difflib
  import importlib.util
  import pathlib

  given = [a.partition('=')[2] for a in argv[1:] if a.startswith('--config=')]
  if not given:
    return None
  place, _, stage = given[-1].partition(':')
  if not pathlib.Path(place).is_file():
    return f'--config={place}: no such file; configs lie in configs/'
  spec = importlib.util.spec_from_file_location('_config_to_check', place)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  try:
    config = module.get_config(stage)
  except ValueError as error:
    return f'--config={given[-1]}: {error}'

  for argument in argv[1:]:
    if not argument.startswith('--config.'):
      continue
    node, walked = config, 'config'
    for name in argument[len('--config.') :].split('=')[0].split('.'):
      if not isinstance(node, ConfigDict) or name not in node:
        known = sorted(node) if isinstance(node, ConfigDict) else []
        close = difflib.get_close_matches(name, known, 1)
        hint = f'; did you mean {close[0]!r}?' if close else ';'
        return f'{walked} has no field {name!r}{hint} known: {", ".join(known) or "none, it is a value"}'
      node, walked = node[name], f'{walked}.{name}'
  return None

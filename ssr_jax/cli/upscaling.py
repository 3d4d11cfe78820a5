"""What `ssr upscale` does with images: reads them, runs the model and writes the results, beside each other.

The model runs in the main thread, one image at a time, or one on each of several devices, so that a result does not
depend on what is read or written beside it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
import dataclasses
import functools
import io as iolib
import json
import pathlib
import threading
import time
from typing import Any

import numpy as np

from ssr_jax import systems
from ssr_jax.cli.work import Job, Settings, Work
from ssr_jax.image import frames, gamut, io, transparency
from ssr_jax.types import SSRError

BANDED = 2**26
"""Pixels of a result (8192 x 8192) above which an image is read, restored and written in bands of rows."""
_ROWS = 256  # of the result, written at once
_SHOWN = 512  # longest side of a large result in the picture of its map


def made_by(model: Any, options: Mapping[str, Any]) -> str:
  """What EXIF's ProcessingSoftware says of a result: program, model, checksums of its weights, settings.

  Args:
    model: of `runtime.load`.
    options: of `Restorer.sample`, as they were given.
  """
  import ssr_jax

  options = dict(options)
  seed, scale = options.pop('seed', 0), options.pop('scale', None)
  plan = model.check(**options)
  system = {field.name for field in dataclasses.fields(model.system.Options)}
  parts = model.required(**{name: value for name, value in options.items() if name in system})
  said = {
    'model': model.config['name'],
    'sha256': {part: model.config['parts'][part]['sha256'] for part in parts},
    'dtype': model.dtype,
    'seed': seed,
    **({} if scale is None else {'scale': scale}),
    **({'keep_defocus': options['keep_defocus']} if 'keep_defocus' in options else {}),
    **systems.chosen(model.system.Options, plan),
  }
  return f'ssr_jax {ssr_jax.__version__} {json.dumps(said)}'


class Upscaler:
  """Reads, restores and writes images with one model and one set of options.

  Attributes:
    written: number of results that are there.
  """

  def __init__(self, model: Any, settings: Settings, options: dict[str, Any], made_by: str | None):
    """Stores its arguments.

    Args:
      model: of `runtime.load`.
      settings: about files and memory.
      options: of `Restorer.sample`.
      made_by: what the results say of what made them, or None.
    """
    self.model, self.settings, self.options, self.made_by = model, settings, dict(options), made_by
    self.written, self._lock = 0, threading.Lock()

  def read(self, job: Job) -> Work:
    """Reads an image, or only its header where it is to run in bands; any thread may."""
    from ssr_jax.runtime import inputs

    start = time.monotonic()
    options = dict(self.options)
    scale = inputs.SCALES[1] if self.settings.size else options.get('scale') or self.model.config['scale']
    most = int(BANDED / scale**2)
    moving = frames.read(job.source, self.settings.max_pixels, most) if self.settings.frames else None
    picture = moving.pictures[0] if moving else io.read(job.source, self.settings.max_pixels, banded=most)
    lr = picture.rgb.shape[:2]
    if self.settings.size:
      options['size'] = _fitted(lr, self.settings.size)
    size = self.model.result_size(lr, options.get('scale'), options.get('size'))
    (frames.check if moving else io.check_format)(job.target, *size)  # fail before the model runs
    banded = lr[0] * lr[1] > most
    if job.figure and banded:
      raise SSRError(f'{job.source}: too large for --figures, which show the whole image; leave that out')
    wide, note = gamut.wide(picture.rgb, picture.icc, picture.gray)
    notes = [*picture.notes, *[note] * bool(note)]
    return Work(job, picture, size, options, banded, moving, wide, notes=notes, seconds=time.monotonic() - start)

  def is_small(self, work: Work) -> bool:
    """Whether an image is a single tile, which runs together with others where the model has several devices."""
    from ssr_jax import runtime

    return not work.banded and not work.moving and max(work.picture.rgb.shape[:2]) <= self._tile(runtime.TILE)

  def restore_together(self, works: Sequence[Work], progress: Callable[[Job, int, int], None]) -> None:
    """Runs the model for small images, one on each device; `restore` then takes what came of each."""
    start = time.monotonic()

    def call(work):
      own = {'progress': functools.partial(progress, work.job), 'keep_kernels': work.job.figure is not None}
      return work.seen, {**work.options, **own}

    for work, result in zip(works, self.model.together([call(work) for work in works]), strict=True):
      try:
        work.early = result(), work.options.get('tile')
      except Exception as error:
        work.early = error, work.options.get('tile')
    for work in works:
      work.seconds += (time.monotonic() - start) / len(works)

  def _tile(self, default: int) -> int:
    return self.options.get('tile', default)

  def restore(self, work: Work, progress: Callable[[int, int], None]) -> None:
    """Runs the model, in the main thread; of a large image also writes the result, as it comes.

    Where the device's memory does not suffice and the user named no tile, it begins again with smaller tiles, which
    later images keep; a note says so, because another tile gives a slightly different result.
    """
    start = time.monotonic()
    while True:
      try:
        self._restore(work, progress)
        break
      except Exception as error:
        smaller = self._smaller_tile(error)
        if smaller is None:
          raise
      self.options['tile'] = work.options['tile'] = smaller
    if 'tile' in self.options and not self.settings.tile:
      work.notes.append(f'tiles of {self.options["tile"]} pixels, for lack of memory; --tile chooses')
    work.seconds += time.monotonic() - start

  def _smaller_tile(self, error: Exception) -> int | None:
    """The next smaller tile after an error that says that memory does not suffice; None where there is none."""
    from ssr_jax import runtime

    if self.settings.tile or not (isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error)):
      return None
    return next((tile for tile in (128, 64) if tile < self._tile(runtime.TILE)), None)

  def _restore(self, work: Work, progress: Callable[[int, int], None]) -> None:
    picture = work.picture
    if 'tile' in self.options:
      work.options['tile'] = self.options['tile']  # it may have been read before another image found too little memory
    if work.moving:
      self._restore_frames(work, work.moving, progress)
    elif work.banded:
      self._restore_in_bands(work, progress)
    else:
      result = self._early(work)
      if result is None:
        figures = work.job.figure is not None
        result = self.model.sample(work.seen, progress=progress, keep_kernels=figures, **work.options)
      work.result = _in_its_space(result, work.wide, work.size)
      work.alpha = self._alpha(work, picture)
      work.trust = work.result.outputs.get('trust')
    if work.trust is not None:
      from ssr_jax.runtime import trust

      work.invented = trust.share(work.trust)

  def _early(self, work: Work) -> Any:
    """What came of an image together with others; None where it did not run, or tiles have become smaller since."""
    (found, tile), work.early = work.early or (None, None), None
    if tile != work.options.get('tile'):
      return None
    if isinstance(found, Exception):
      raise found
    return found

  def _samples(self, calls: Sequence[tuple[np.ndarray, dict[str, Any]]]) -> Iterator[Any]:
    """The result of each call of `Restorer.sample`."""
    if self.model.at_once == 1:
      return (self.model.sample(lr, **options) for lr, options in calls)
    return (result() for result in self.model.together(calls))

  def _alpha(self, work: Work, picture: io.Picture) -> np.ndarray | None:
    """A result's transparency; None where the picture has none."""
    if picture.alpha is None:
      return None
    gray = transparency.Gray(picture.alpha)[:]
    found = self.model.sample(gray, keep_kernels=False, **self._options_of_alpha(work)).image[..., 0]
    return transparency.limited(found, 0, work.size, picture.alpha)

  def _restore_frames(self, work: Work, moving: frames.Frames, progress: Callable[[int, int], None]) -> None:
    """Each frame as if it were alone; all have the seed's noise, so that what stands still does not flicker."""
    count, work.images = len(moving.pictures), []
    translucent = any(picture.alpha is not None for picture in moving.pictures)

    wides = [gamut.wide(picture.rgb, picture.icc, picture.gray)[0] for picture in moving.pictures]

    def call(i, picture, wide):
      of_frame = lambda done, total: progress(i * total + done, count * total)
      seen = picture.rgb if wide is None else wide[:]
      return seen, {**work.options, 'progress': of_frame, 'keep_kernels': False}

    calls = list(map(call, range(count), moving.pictures, wides))
    for picture, wide, result in zip(moving.pictures, wides, self._samples(calls), strict=True):
      image = _in_its_space(result, wide, work.size).image
      if translucent:
        alpha = self._alpha(work, picture)
        image = np.dstack([image, np.full(work.size, 255, np.uint8) if alpha is None else alpha])
      work.images.append(image)

  def write(self, work: Work) -> None:
    """Writes a result that has not been written yet; any thread may."""
    start = time.monotonic()
    sheets = self._sheets(work)  # drawn before anything is written, so that a failure writes no file
    if work.moving:
      about, how = self._described(work.picture), (self.settings.quality, self.settings.overwrite)
      work.notes += frames.write(work.job.target, work.images, work.moving, about, *how)
    elif work.result is not None:
      larger = dataclasses.replace(self._described(work.picture), rgb=work.result.image, alpha=work.alpha)
      work.notes += io.write(work.job.target, larger, self.settings.quality, replace=self.settings.overwrite)
    for path, sheet in sheets.items():
      io.write_bytes(path, sheet, replace=self.settings.overwrite)
    work.result = work.alpha = work.trust = work.small = work.moving = None
    work.images = []
    with self._lock:
      self.written += 1
    work.seconds += time.monotonic() - start

  def _sheets(self, work: Work) -> dict[pathlib.Path, bytes]:
    """The pictures beside the result, as PNG files."""
    drawn = {}
    if work.job.figure or work.job.trust:
      from ssr_jax.evaluation.report import figures

      if work.job.figure:
        drawn[work.job.figure] = figures.figure(work.picture.rgb, self.model.system.outputs, work.result)
      if work.job.trust and work.trust is not None:
        shown = work.result.image if work.small is None else work.small
        drawn[work.job.trust] = figures.trusted(shown, work.trust)
    sheets = {}
    for path, sheet in drawn.items():
      buffer = iolib.BytesIO()
      sheet.save(buffer, 'PNG')
      sheets[path] = buffer.getvalue()
    return sheets

  def _restore_in_bands(self, work: Work, progress: Callable[[int, int], None]) -> None:
    from ssr_jax import runtime

    picture, answer = work.picture, self.model.system.outputs[-1].name
    view = runtime.View(work.size, _fitted(work.size, (_SHOWN, _SHOWN))) if work.job.trust else None

    def images() -> Iterator[np.ndarray]:
      rgb = picture.rgb if work.wide is None else work.wide
      for band in self.model.stream(rgb, progress=progress, **work.options):
        work.trust = band.get('trust')
        if answer in band:
          if view:
            rows = band[answer]
            view.add(rows / np.float32(255) if rows.dtype == np.uint8 else rows)
          yield band[answer]

    bands_of_image = images()
    colour = runtime.Feed(bands_of_image)
    alpha = limits = None
    if picture.alpha is not None:
      # Two readers: one goes ahead by a row of tiles.
      limits = picture.alpha.again() if hasattr(picture.alpha, 'again') else picture.alpha
      bands = self.model.stream(transparency.Gray(picture.alpha), **self._options_of_alpha(work))
      alpha = runtime.Feed(band[answer][..., 0] for band in bands)
    options = (self._described(picture), work.size, self.settings.quality, self.settings.overwrite)
    with io.Writer(work.job.target, *options) as writer:
      for first in range(0, work.size[0], _ROWS):
        rows = colour.take(_ROWS)
        rows = rows if work.wide is None else work.wide.back(rows, first, work.size)
        plane = transparency.limited(alpha.take(_ROWS), first, work.size, limits) if alpha else None
        writer.write(rows, plane)
      for _ in bands_of_image:  # what comes after the last row: the map
        pass
    work.small = view.result() if view else None
    work.notes += writer.notes

  def _described(self, picture: io.Picture) -> io.Picture:
    """What a result holds beside its pixels."""
    picture = dataclasses.replace(picture, made_by=self.made_by)
    return dataclasses.replace(picture, exif=None, xmp=None, dpi=None) if self.settings.no_metadata else picture

  def _options_of_alpha(self, work: Work) -> dict[str, Any]:
    """Those of the system's first variant, which invents the least: texture in transparency would be noise."""
    own = {'trust': False, 'keep_defocus': 0.0}  # of colour
    return {**work.options, **own, **next(iter(self.model.system.variants.values())).options}


def _in_its_space(result: Any, wide: gamut.Wide | None, size: tuple[int, int]) -> Any:
  """A result with its image in the colour space of the photo."""
  if wide is not None:
    result.image = wide.back(result.image, 0, size)
  return result


def _fitted(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
  """The largest (height, width) of the aspect ratio of `size`, (height, width), within a box (width, height)."""
  height, width = size
  factor = min(box[0] / width, box[1] / height)
  return max(1, round(factor * height)), max(1, round(factor * width))


def run(
  upscaler: Upscaler,
  jobs: Sequence[Job],
  threads: int,
  progress: Callable[[Job, int, int], None],
  at_once: int = 1,
) -> Iterator[tuple[Job, Work | Exception]]:
  """Does all jobs, reading and writing beside the model; what was begun is written also where the caller stops.

  Args:
    upscaler: does them.
    jobs: in this order.
    threads: images that are read ahead, and results that wait to be written, at most.
    progress: called with (job, tiles done, tiles in total).
    at_once: small images that follow each other and run together, at most; see `Restorer.together`.

  Yields:
    (job, what became of it or the error), in the order of `jobs` but for errors, which come at once.
  """
  coming, reads, writes = iter(jobs), deque(), deque()
  pool = futures.ThreadPoolExecutor(threads, thread_name_prefix='ssr-files')

  def read_ahead() -> None:
    while len(reads) < threads and (job := next(coming, None)) is not None:
      reads.append((job, pool.submit(upscaler.read, job)))

  def next_group() -> list[tuple[Job, Any]]:
    """The next image that was read, with the small ones after it if it is small; or an error alone."""
    group: list[tuple[Job, Any]] = []
    while reads and len(group) < at_once:
      error = reads[0][1].exception()
      if error is not None and not isinstance(error, Exception):
        raise error
      alone = error is not None or at_once == 1 or not upscaler.is_small(reads[0][1].result())
      if group and alone:
        break
      job, future = reads.popleft()
      read_ahead()
      group.append((job, error or future.result()))
      if alone:
        break
    return group

  def written() -> tuple[Job, Work | Exception]:
    job, work, future = writes.popleft()
    error = future.exception()
    if error is not None and not isinstance(error, Exception):  # such as KeyboardInterrupt
      raise error
    return job, error or work

  try:
    read_ahead()
    while reads:
      group = next_group()
      if len(group) > 1:
        upscaler.restore_together([work for _, work in group], progress)
      while group:
        job, work = group.pop(0)
        try:
          if isinstance(work, Exception):
            raise work
          upscaler.restore(work, lambda done, total, job=job: progress(job, done, total))
          writes.append((job, work, pool.submit(upscaler.write, work)))
        except Exception as error:
          yield job, error
        del work
        while len(writes) > threads or (writes and writes[0][2].done()):
          yield written()
    while writes:
      yield written()
  finally:
    for _, future in reads:
      future.cancel()
    pool.shutdown()

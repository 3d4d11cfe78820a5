"""An image of `ssr upscale` on its way: its files, the settings, and what has become of it so far."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from ssr_jax.image import frames, gamut, io


@dataclasses.dataclass(frozen=True)
class Job:
  """An input and the files that are made of it; `figure` and `trust` are None where they are not wanted."""

  source: pathlib.Path
  target: pathlib.Path
  figure: pathlib.Path | None = None
  trust: pathlib.Path | None = None

  @property
  def outputs(self) -> dict[str, pathlib.Path]:
    """What each file is called in messages, and its path."""
    named = {'output': self.target, 'figure': self.figure, 'trust map': self.trust}
    return {what: path for what, path in named.items() if path is not None}


@dataclasses.dataclass(frozen=True)
class Settings:
  """Options of `ssr upscale` about files and memory, by their names there; see its help."""

  max_pixels: int | None = None
  size: tuple[int, int] | None = None
  tile: int | None = None
  quality: int = 95
  overwrite: bool = False
  no_metadata: bool = False
  frames: bool = False


@dataclasses.dataclass
class Work:
  """An image on its way.

  Attributes:
    job: its files.
    picture: what was read; of an animated file its first frame.
    size: (height, width) of the result.
    options: of `Restorer.sample`.
    banded: whether it runs in bands of rows.
    moving: an animated file's frames, or None.
    wide: converts the picture, if its colour profile is not sRGB.
    images: their results, [h, w, 3 or 4] uint8.
    result: of `Restorer.sample`; None before, and where the result was written in bands.
    alpha: the result's transparency, or None.
    trust: its map, of `runtime.trust`, or None.
    small: the result, seen small, where it was written in bands and has a map.
    invented: the map's one number.
    notes: what could not be kept.
    seconds: spent on it; of images that ran together, each its share.
    early: what came of it together with others, a `Result` or an error, and the tile that it was made with; or None.
  """

  job: Job
  picture: io.Picture
  size: tuple[int, int]
  options: dict[str, Any]
  banded: bool
  moving: frames.Frames | None = None
  wide: gamut.Wide | None = None
  images: list[np.ndarray] = dataclasses.field(default_factory=list)
  result: Any = None
  alpha: np.ndarray | None = None
  trust: np.ndarray | None = None
  small: np.ndarray | None = None
  invented: float | None = None
  notes: list[str] = dataclasses.field(default_factory=list)
  seconds: float = 0.0
  early: tuple[Any, int | None] | None = None

  @property
  def seen(self) -> Any:
    """The picture as the model sees it, [h, w, 3] in sRGB."""
    return self.picture.rgb if self.wide is None else self.wide[:]

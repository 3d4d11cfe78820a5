"""`ssr upscale --frames`: every frame is restored as a still image is, and the file plays as the input did."""

import struct
import zlib

import numpy as np
from PIL import Image, ImageCms
import pytest
from skimage import data

from ssr_jax import cli, runtime
from ssr_jax.cli import upscaling
from ssr_jax.image import frames, io
from ssr_jax.types import SSRError
from tests.cli.standins import Enlarger

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
CAT = data.chelsea()[100:112, 100:116]


class _Stub(Enlarger):
  """Also inverts, and tells of two tiles."""

  def sample(self, rgb, progress=None, **_):
    for done in (1, 2):
      progress and progress(done, 2)
    values = rgb if rgb.dtype == np.uint8 else np.rint(255 * rgb).astype(np.uint8)
    return super().sample(255 - values)


@pytest.fixture
def ssr(monkeypatch, capfd):
  """Runs `ssr upscale` with the stub: (exit code, lines of stderr)."""
  monkeypatch.setattr(runtime, 'load', lambda *_, **__: _Stub())

  def run(*arguments):
    code = cli.main(['upscale', *map(str, arguments)])
    return code, capfd.readouterr().err.splitlines()

  return run


def _stored(path, pixels, form, durations=(40, 80, 120), **options):
  images = [Image.fromarray(frame) for frame in pixels]
  images[0].save(path, form, save_all=True, append_images=images[1:], duration=list(durations), **options)
  return path


def _moving():
  """Three frames; the second differs from the first in a corner only, which is all that a file may store of it."""
  second = CAT.copy()
  second[2:6, 3:9] = 255 - second[2:6, 3:9]
  return [CAT, second, np.ascontiguousarray(CAT[::-1])]


def _played(path):
  """(frames as RGBA, durations, loop) as Pillow plays them."""
  with Image.open(path) as image:
    found = []
    for i in range(image.n_frames):
      image.seek(i)
      image.load()
      found.append((np.asarray(image.convert('RGBA')), image.info['duration']))
    return [frame for frame, _ in found], [duration for _, duration in found], image.info.get('loop')


@pytest.mark.parametrize('form,suffix,loop', [('PNG', '.png', 0), ('PNG', '.png', 3), ('WEBP', '.webp', 0)])
def test_every_frame_is_the_still_images_result_and_plays_as_long(ssr, tmp_path, form, suffix, loop):
  lossless = {'lossless': True} if form == 'WEBP' else {}
  source = _stored(tmp_path / f'a{suffix}', _moving(), form, loop=loop, **lossless)
  out = tmp_path / 'out.png'
  assert ssr(source, '-o', out, '--frames') == (0, [])
  images, durations, plays = _played(out)
  assert durations == [40, 80, 120] and plays == loop
  for image, frame in zip(images, _moving(), strict=True):
    np.testing.assert_array_equal(image[..., :3], (255 - frame).repeat(4, 0).repeat(4, 1))
    assert (image[..., 3] == 255).all()


def test_a_gif_becomes_an_animated_png_with_its_transparency(ssr, tmp_path):
  clear = [np.dstack([frame, np.full(frame.shape[:2], 255, np.uint8)]) for frame in _moving()]
  for i, frame in enumerate(clear):
    frame[:4, 4 * i : 4 * i + 4, 3] = 0
  source = tmp_path / 'a.gif'
  _stored(source, clear, 'GIF', loop=0, disposal=2)
  shown = _played(source)[0]
  assert ssr(source, '-o', tmp_path / 'out', '--frames') == (0, [])
  images, durations, plays = _played(tmp_path / 'out' / 'a.png')
  assert durations == [40, 80, 120] and plays == 0
  for image, frame in zip(images, shown, strict=True):
    opaque = frame[..., 3] == 255
    assert 0 < (~opaque).sum() < opaque.sum()
    wide = opaque.repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(image[wide][:, :3], (255 - frame[..., :3]).repeat(4, 0).repeat(4, 1)[wide])
    assert (image[..., 3][wide] > 128).mean() > 0.9  # the stub inverts transparency too, within its limits


def test_a_webp_of_frames_holds_profile_and_settings(ssr, tmp_path):
  source = _stored(tmp_path / 'a.png', _moving(), 'PNG', loop=0, icc_profile=SRGB)
  out = tmp_path / 'out.webp'
  assert ssr(source, '-o', out, '--frames', '--quality', '100') == (0, [])
  with Image.open(out) as image:
    assert image.n_frames == 3 and image.size == (64, 48) and image.info['icc_profile'] == SRGB
    assert 'stub' in str(dict(image.getexif()))
  assert ssr(source, '-o', tmp_path / 'plain.webp', '--frames', '--no-metadata')[0] == 0
  with Image.open(tmp_path / 'plain.webp') as image:
    assert not dict(image.getexif())


def test_a_still_image_is_done_as_without_the_option(ssr, tmp_path):
  Image.fromarray(CAT).save(tmp_path / 'a.png')
  assert ssr(tmp_path / 'a.png', '-o', tmp_path / 'plain.png')[0] == 0
  assert ssr(tmp_path / 'a.png', '-o', tmp_path / 'frames.png', '--frames')[0] == 0
  assert (tmp_path / 'plain.png').read_bytes() == (tmp_path / 'frames.png').read_bytes()


def test_what_cannot_be_is_said_in_a_line_and_nothing_is_written(ssr, tmp_path, monkeypatch):
  source = _stored(tmp_path / 'a.png', _moving(), 'PNG', loop=0)
  code, (line,) = ssr(source, '-o', tmp_path / 'b.png')
  assert code == 1 and 'has 3 frames' in line and '--frames' in line
  code, (line,) = ssr(source, '-o', tmp_path / 'b.jpg', '--frames')
  assert code == 1 and 'b.jpg: frames are written as .png or .webp' in line
  for option in ('--figures', '--trust'):
    code, (line,) = ssr(
      source, '-o', tmp_path / 'b.png', '--frames', option, *(['maps'] if option == '--trust' else [])
    )
    assert code == 2 and option in line
  monkeypatch.setattr(upscaling, 'BANDED', 16 * 3 * CAT.shape[0] * CAT.shape[1] - 1)
  code, (line,) = ssr(source, '-o', tmp_path / 'b.png', '--frames')
  assert code == 1 and '3 frames of 16x12 pixels are too many' in line
  assert [path.name for path in tmp_path.iterdir()] == ['a.png']


def test_progress_counts_the_tiles_of_all_frames():
  told = []
  moving = frames.Frames(tuple(io.Picture(frame) for frame in _moving()), (1.0,) * 3, 0)
  work = upscaling.Work(upscaling.Job('a', 'b'), moving.pictures[0], (48, 64), {}, False, moving)
  upscaling.Upscaler(_Stub(), upscaling.Settings(), {}, None).restore(work, lambda *n: told.append(n))
  assert told == [(i, 6) for i in range(1, 7)] and len(work.images) == 3


def test_a_damaged_frame_is_a_line_that_names_the_file(tmp_path):
  source = _stored(tmp_path / 'a.png', _moving(), 'PNG', loop=0)
  content = source.read_bytes()
  (tmp_path / 'cut.png').write_bytes(content[: len(content) * 2 // 3])
  with pytest.raises(SSRError, match='cut.png'):
    frames.read(tmp_path / 'cut.png')
  assert frames.read(_still(tmp_path / 'still.png')) is None


def test_sixteen_bits_become_eight_with_a_note(ssr, tmp_path):
  """Pillow reads an animated gray PNG with 16 bits as such; the file is written by hand."""
  values = np.arange(16 * 12, dtype=np.uint16).reshape(12, 16) * 300
  (tmp_path / 'a.png').write_bytes(_deep_animation([values, 65535 - values]))
  with Image.open(tmp_path / 'a.png') as image:
    assert image.mode == 'I;16' and image.n_frames == 2
  code, lines = ssr(tmp_path / 'a.png', '-o', tmp_path / 'out.png', '--frames')
  assert code == 0 and [line for line in lines if '16 bits were read as 8' in line]
  first, second = _played(tmp_path / 'out.png')[0]
  for image, frame in ((first, values), (second, 65535 - values)):
    np.testing.assert_array_equal(image[::4, ::4, 0], 255 - np.rint(frame / 65535 * 255).astype(np.uint8))


def _deep_animation(planes):
  """An APNG of gray planes [h, w] uint16, each shown for 50 ms."""
  chunk = lambda kind, body: struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
  h, w = planes[0].shape
  parts = [b'\x89PNG\r\n\x1a\n', chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 16, 0, 0, 0, 0))]
  parts.append(chunk(b'acTL', struct.pack('>II', len(planes), 0)))
  for i, plane in enumerate(planes):
    rows = plane.astype('>u2').view(np.uint8).reshape(h, -1)
    packed = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    parts.append(chunk(b'fcTL', struct.pack('>IIIIIHHBB', 2 * i - (i > 0), w, h, 0, 0, 50, 1000, 0, 0)))
    parts.append(chunk(b'IDAT', packed) if i == 0 else chunk(b'fdAT', struct.pack('>I', 2 * i) + packed))
  return b''.join([*parts, chunk(b'IEND', b'')])


def test_what_an_encoder_refuses_is_one_line_and_a_damaged_exif_block_is_dropped(tmp_path, monkeypatch):
  moving = frames.Frames(tuple(io.Picture(frame) for frame in _moving()), (1.0,) * 3, 0)
  notes = frames.write(tmp_path / 'a.png', _moving(), moving, io.Picture(CAT, exif=b'Exif\0\0II*\0\xff'), 95, True)
  assert notes == ['its EXIF block is damaged and was dropped'] and len(_played(tmp_path / 'a.png')[0]) == 3

  def refuse(*_, **__):
    raise ValueError('no such thing\nat all')

  monkeypatch.setattr(Image.Image, 'save', refuse)
  with pytest.raises(SSRError, match=r'b.webp: cannot be encoded as WEBP \(no such thing\)'):
    frames.write(tmp_path / 'b.webp', _moving(), moving, io.Picture(CAT), 95, True)
  assert [path.name for path in tmp_path.iterdir()] == ['a.png']


def _still(path):
  Image.fromarray(CAT).save(path)
  return path

"""`ssr upscale` of photos with a colour profile: the model sees sRGB, the file stays in its own space."""

import io as iolib

import numpy as np
from PIL import Image, ImageCms
import pytest
from skimage import data

from ssr_jax import cli, runtime
from ssr_jax.cli import upscaling
from ssr_jax.image import io
from tests.cli.standins import Enlarger
from tests.image import profiles

P3 = profiles.profile()
PHOTO = data.coffee()[100:140, 200:248].copy()
PHOTO[:12, :12], PHOTO[20:32, 4:32] = (0, 255, 0), (255, 10, 0)  # outside of sRGB
PHOTO[:, -14:] = PHOTO[:, -14:] // 4 + 100  # inside


class _Stub(Enlarger):
  """Keeps what it saw, as floats."""

  def __init__(self):
    self.seen = []

  def sample(self, rgb, **_):
    self.seen.append(rgb if rgb.dtype != np.uint8 else rgb / np.float32(255))
    return super().sample(rgb)

  def stream(self, rows, **_):
    self.seen.append(np.concatenate([rows[y : y + 16] for y in range(0, rows.shape[0], 16)]))
    for y in range(0, rows.shape[0], 7):
      yield {'image': rows[y : y + 7].repeat(4, 0).repeat(4, 1)}


@pytest.fixture
def stub(monkeypatch):
  stub = _Stub()
  monkeypatch.setattr(runtime, 'load', lambda *_, **__: stub)
  return stub


def _srgb(rgb, icc=P3):
  source = ImageCms.ImageCmsProfile(iolib.BytesIO(icc))
  return np.asarray(ImageCms.profileToProfile(Image.fromarray(rgb), source, ImageCms.createProfile('sRGB')))


@pytest.mark.parametrize('banded', [False, True])
@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_the_model_sees_srgb_and_the_file_keeps_its_space(stub, tmp_path, monkeypatch, capfd, banded, suffix):
  monkeypatch.setattr(upscaling, 'BANDED', 1600 if banded else 2**40)
  Image.fromarray(PHOTO).save(tmp_path / f'a{suffix}', icc_profile=P3)
  out = tmp_path / f'out{suffix}'
  assert cli.main(['upscale', str(tmp_path / f'a{suffix}'), '-o', str(out)]) == 0
  assert not [line for line in capfd.readouterr().err.splitlines() if 'profile' in line]
  (seen,) = stub.seen
  np.testing.assert_allclose(255 * seen, _srgb(PHOTO), atol=1.01)
  assert abs(seen - PHOTO / 255).mean() > 0.01
  found = io.read(out)
  assert found.icc == P3 and found.bits == 8
  wanted = PHOTO.repeat(4, 0).repeat(4, 1).astype(int)
  inside = np.s_[2:44, 2:44]  # of the green square: what sRGB cannot hold is there
  np.testing.assert_allclose(found.rgb[inside], wanted[inside], atol=1)
  pale = np.s_[:, -48:]
  np.testing.assert_allclose(found.rgb[pale], wanted[pale], atol=1)


def test_sixteen_bits_stay_sixteen(stub, tmp_path):
  photo = np.random.default_rng(0).random((20, 24, 3), np.float32)
  picture = io.Picture(photo, bits=16, icc=profiles.profile(profiles.ADOBE, profiles.GAMMA))
  io.write(tmp_path / 'a.png', picture)
  assert cli.main(['upscale', str(tmp_path / 'a.png'), '-o', str(tmp_path / 'b.png')]) == 0
  found = io.read(tmp_path / 'b.png')
  assert found.bits == 16 and found.icc == picture.icc
  stored = io.read(tmp_path / 'a.png').rgb
  own = (stub.seen[0] > 1e-4).all(-1) & (stub.seen[0] < 1 - 1e-4).all(-1)  # others are mixed with their neighbours
  kept = np.abs(found.rgb[1::4, 1::4] - stored)[own]
  assert own.mean() > 0.3 and np.median(kept) < 2 / 65535


def test_frames_are_converted_each(stub, tmp_path):
  frames = [Image.fromarray(PHOTO), Image.fromarray(255 - PHOTO)]
  frames[0].save(tmp_path / 'a.webp', save_all=True, append_images=frames[1:], lossless=True, icc_profile=P3)
  out = tmp_path / 'out.webp'
  assert cli.main(['upscale', str(tmp_path / 'a.webp'), '-o', str(out), '--frames']) == 0
  for seen, rgb in zip(stub.seen, (PHOTO, 255 - PHOTO), strict=True):
    np.testing.assert_allclose(255 * seen, _srgb(rgb), atol=1.01)
  with Image.open(out) as image:
    assert image.info['icc_profile'] == P3


def test_a_profile_that_cannot_be_applied_is_kept_and_said(stub, tmp_path, capfd):
  icc = profiles.profile(more={b'A2B0': bytes(40)}.items())
  Image.fromarray(PHOTO).save(tmp_path / 'a.png', icc_profile=icc)
  assert cli.main(['upscale', str(tmp_path / 'a.png'), '-o', str(tmp_path / 'b.png')]) == 0
  assert 'its colour profile has no primaries and curves' in capfd.readouterr().err
  found = io.read(tmp_path / 'b.png')
  assert found.icc == icc
  np.testing.assert_array_equal(found.rgb, PHOTO.repeat(4, 0).repeat(4, 1))


def test_srgb_and_gray_files_are_not_touched(stub, tmp_path):
  srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
  Image.fromarray(PHOTO).save(tmp_path / 'a.png', icc_profile=srgb)
  Image.fromarray(PHOTO[..., 0]).save(tmp_path / 'b.png', icc_profile=P3)
  assert cli.main(['upscale', str(tmp_path), '-o', str(tmp_path / 'out')]) == 0
  np.testing.assert_array_equal(io.read(tmp_path / 'out' / 'a.png').rgb, PHOTO.repeat(4, 0).repeat(4, 1))
  np.testing.assert_array_equal(
    io.read(tmp_path / 'out' / 'b.png').rgb[..., 0], PHOTO[..., 0].repeat(4, 0).repeat(4, 1)
  )

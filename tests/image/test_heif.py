"""HEIC and JPEG XL, where their readers are installed, and what is said where they are not."""

import numpy as np
from PIL import Image
import pytest

from ssr_jax import cli
from ssr_jax.image import io, opening
from ssr_jax.types import SSRError

PHOTO = np.stack(np.meshgrid(np.arange(48) * 5, np.arange(32) * 7, indexing='xy'), -1).astype(np.uint8)
PHOTO = np.concatenate([PHOTO, 255 - PHOTO[..., :1]], -1)  # 48 wide, 32 high, smooth


def _saved(form, path, **more):
  image = Image.fromarray(PHOTO)
  exif = image.getexif()
  exif[0x010E] = 'mine'
  image.save(path, form, exif=exif.tobytes(), **more)
  return path


@pytest.fixture(params=['HEIF', 'JXL'])
def photo(request, tmp_path):
  if request.param == 'HEIF':
    pytest.importorskip('pillow_heif', reason="needs the extra: pip install -e '.[heif]'").register_heif_opener()
    return _saved('HEIF', tmp_path / 'photo.heic', quality=-1, chroma=444)
  pytest.importorskip('pillow_jxl', reason="needs the extra: pip install -e '.[heif]'")
  return _saved('JXL', tmp_path / 'photo.jxl', lossless=True)


def test_a_photo_is_read_with_what_its_file_says(photo):
  picture = io.read(photo)
  assert picture.rgb.shape == PHOTO.shape and np.abs(picture.rgb.astype(int) - PHOTO).max() <= 3  # HEIC is YCbCr
  assert picture.exif and b'mine' in picture.exif
  assert io.size(photo) == (32, 48)


def test_a_damaged_file_is_one_line(photo):
  data = bytearray(photo.read_bytes())
  photo.write_bytes(data[: len(data) // 2])
  with pytest.raises(SSRError, match=f'{photo.name}: cannot be read'):
    io.read(photo)


def test_upscale_writes_png_for_it(photo, tiny_model_dir, tmp_path):
  words = ['upscale', str(photo.parent), '-o', str(tmp_path / 'out'), '--model', str(tiny_model_dir), '--restored-only']
  assert cli.main(words) == 0
  assert Image.open(tmp_path / 'out' / 'photo.png').size == (192, 128)


@pytest.mark.parametrize(
  ('form', 'start'),
  [
    ('HEIF', b'\0\0\0\x18ftypheic\0\0\0\0mif1heic'),
    ('JXL', b'\xff\x0a\x10\x20\x30\x40\x50\x60\x70\x80'),
    ('JXL', b'\0\0\0\x0cJXL \x0d\x0a\x87\x0a'),
  ],
)
def test_without_the_reader_the_line_says_what_to_install(monkeypatch, tmp_path, form, start):
  known = tuple(f for f in opening._formats() if f != form)
  monkeypatch.setattr(opening, '_formats', lambda: known)
  (tmp_path / 'photo').write_bytes(start + bytes(100))
  with pytest.raises(SSRError, match=rf"photo: a {form} file; to read it, pip install 'ssr-jax\[heif\]'"):
    io.read(tmp_path / 'photo')


def test_other_files_of_the_same_container_are_no_heic(monkeypatch, tmp_path):
  monkeypatch.setattr(opening, '_formats', lambda: tuple(opening.FORMATS))
  (tmp_path / 'film.mp4').write_bytes(b'\0\0\0\x18ftypmp42' + bytes(100))
  with pytest.raises(opening.UnknownFormat, match='not an image of a known format'):
    io.read(tmp_path / 'film.mp4')

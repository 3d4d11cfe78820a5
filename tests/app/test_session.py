"""What the page does with a photo, without a page."""

import threading

import numpy as np
from PIL import Image
import pytest

import ssr_jax
from ssr_jax.app import session
from ssr_jax.image import io
from ssr_jax.systems import esrgan  # noqa: F401  a system without kernels
from ssr_jax.types import SSRError


@pytest.fixture(scope='module')
def model(tiny_model_dir):
  return ssr_jax.load(tiny_model_dir)


@pytest.fixture
def photo(tmp_path):
  """A photo of 40x24 that lies on its side: upright it is 24x40."""
  pixels = np.random.default_rng(0).integers(0, 255, (24, 40, 3), np.uint8)
  image = Image.fromarray(pixels)
  exif = image.getexif()
  exif[0x0112] = 6
  exif[0x010E] = 'a photo of mine'
  image.save(tmp_path / 'mine.png', exif=exif)
  return tmp_path / 'mine.png'


def _run(model, photo, **options):
  folder = photo.parent / 'out'
  folder.mkdir(exist_ok=True)
  return session.Visitor().run(model, photo, folder, max_pixels=10_000, **options)


@pytest.mark.slow
def test_a_run_gives_what_sample_gives_and_a_file_with_what_the_photos_file_said(model, photo):
  found = _run(model, photo, steps=0)
  upright = io.read(photo).rgb
  expected = model.sample(upright, steps=0)
  assert found.size == (40, 24) and np.array_equal(found.photo, upright)
  assert np.array_equal(found.result.image, expected.image)
  assert np.array_equal(np.asarray(session.after(found)), expected.image)
  with Image.open(found.file) as image:
    assert found.file.name == 'mine_x4.png' and image.size == (96, 160)
    assert np.array_equal(np.asarray(image), expected.image)
    assert image.getexif()[0x010E] == 'a photo of mine' and '"steps": 0' in image.getexif()[0x000B]
  with Image.open(found.figure) as image:
    assert image.width > 4 * 96
  enlarged = np.asarray(Image.fromarray(upright).resize((96, 160), Image.Resampling.BICUBIC))
  assert np.array_equal(np.asarray(session.before(found)), enlarged)


@pytest.mark.slow
def test_panels_are_those_of_the_systems_outputs(model, photo):
  found = _run(model, photo, steps=0)
  panels = session.panels(found, model)
  assert list(panels) == ['depth', 'kernels', 'restored', 'trust']
  assert {picture.shape for picture, _ in panels.values()} == {(160, 96, 3)}
  assert f'{100 * found.share:.0f} %' in panels['trust'][1] and 0 <= found.share <= 1


@pytest.mark.slow
def test_a_click_tells_the_kernel_of_its_place(model, photo):
  """One kernel is made wide along y: its place, and only that, is told so."""
  found = _run(model, photo, steps=0)
  side = round(found.result.outputs['kernels'].shape[-1] ** 0.5)
  point, line = np.zeros((side, side), np.float32), np.zeros((side, side), np.float32)
  point[side // 2, side // 2] = 1
  line[:, side // 2] = 1 / side
  kernels = np.broadcast_to(point.reshape(-1), (40, 24, side * side)).copy()
  kernels[30, 6] = line.reshape(-1)
  depth = np.zeros((160, 96, 1), np.float32)
  depth[120:124, 24:28] = 0.75
  found.result.outputs.update(kernels=kernels, depth=depth)
  picture, words = session.kernel_at(found, 6.5 / 24, 30.5 / 40)
  spread = np.sqrt((side**2 - 1) / 12) / 4  # of a uniform line of `side` taps, in pixels of the photo
  assert words == (
    f'Pixel 6, 30 of the photo: blur {spread:.2f} by 0.00 pixels, longest at 90 degrees; depth 0.75, 1 is nearest'
  )
  assert picture[:, 6 * side].all() and not picture[:, 0].any()
  _, words = session.kernel_at(found, 7.5 / 24, 30.5 / 40)
  assert (
    words == 'Pixel 7, 30 of the photo: blur 0.00 by 0.00 pixels, the same in all directions; depth 0.00, 1 is nearest'
  )
  assert session.kernel_at(found, 1.0, 1.0)[1].startswith('Pixel 23, 39')


def test_controls_are_the_systems_options_and_say_nothing_until_they_are_changed(model):
  controls = {control.name: control for control in session.controls(model)}
  assert list(controls) == [field for field in model.system.Options.__dataclass_fields__]
  defaults = {name: control.default for name, control in controls.items()}
  assert defaults['steps'] == 2 and controls['steps'].kind is int and 'diffusion steps' in controls['steps'].help
  assert session.options_of(model, defaults) == {}
  assert session.options_of(model, {**defaults, 'steps': 5.0, 'mode': '', 'blend': 0.25}) == {'steps': 5, 'blend': 0.25}
  with pytest.raises(SSRError, match='steps: must be a whole number, not 1.5'):
    session.options_of(model, {**defaults, 'steps': 1.5})


@pytest.mark.slow
def test_a_cancelled_run_stops_at_the_next_tile_and_another_runs(model, tmp_path):
  Image.fromarray(np.zeros((64, 150, 3), np.uint8)).save(tmp_path / 'long.png')
  visitor, seen = session.Visitor(), []

  def progress(done, total):
    seen.append((done, total))
    threading.Thread(target=visitor.cancel).run()

  how = {'max_pixels': 10_000, 'steps': 0, 'tile': 64}
  with pytest.raises(session.Cancelled):
    visitor.run(model, tmp_path / 'long.png', tmp_path, progress=progress, **how)
  assert len(seen) == 1 and seen[0][1] > 1
  assert not list(tmp_path.glob('long_*'))
  assert visitor.run(model, tmp_path / 'long.png', tmp_path, **how).result.image.shape == (256, 600, 3)


def test_what_is_no_photo_or_too_large_is_said(model, tmp_path, photo):
  (tmp_path / 'no.png').write_text('hello')
  with pytest.raises(SSRError, match=r'no\.png'):
    _run(model, tmp_path / 'no.png')
  with pytest.raises(SSRError, match='pixels'):
    session.Visitor().run(model, photo, tmp_path, max_pixels=100)


def test_few_kernels_are_kept_of_a_large_photo(model, photo, monkeypatch):
  monkeypatch.setattr(session, '_KERNELS', 16)
  found = _run(model, photo, steps=0)
  all_of_them = model.sample(found.photo, steps=0).kernels
  assert np.array_equal(found.result.outputs['kernels'], all_of_them[::3, ::3])

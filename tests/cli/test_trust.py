"""`ssr upscale --trust`: the map's picture and number, where they go, what they never replace; and `--keep-defocus`."""

import re

import numpy as np
from PIL import Image
import pytest
from skimage import data

from ssr_jax import cli, runtime
from ssr_jax.cli import upscaling
from ssr_jax.runtime import trust
from ssr_jax.systems.base import Output
from tests.cli.standins import Enlarger
from tests.runtime.standins import compiled_operator  # noqa: F401  a fixture

PIXELS = data.chelsea()[100:112, 100:116]


class _Stub(Enlarger):
  """What it says of an image was invented is the image's mean."""

  outputs = (Output('kernels', 'kernels', 'kernels'), *Enlarger.outputs)

  def __init__(self):
    self.asked = []

  def sample(self, rgb, trust=False, keep_defocus=0.0, **_):
    self.asked.append(keep_defocus or trust)
    found = np.full((*rgb.shape[:2], 3), np.mean(rgb) / 255, np.float32)
    return runtime.Result(super().sample(rgb).image, {'trust': found} if trust else {})


@pytest.fixture
def stub(monkeypatch):
  model = _Stub()
  monkeypatch.setattr(runtime, 'load', lambda *_, **__: model)
  return model


@pytest.fixture
def ssr(stub, capfd):
  """Runs `ssr upscale` with the stub: (exit code, lines of stdout, lines of stderr)."""

  def run(*arguments):
    code = cli.main(['upscale', *map(str, arguments), '--no-metadata'])
    out, err = capfd.readouterr()
    return code, out.splitlines(), err.splitlines()

  return run


def _photo(path, value=128):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', (16, 12), (value,) * 3).save(path)
  return path


def _files(folder):
  return sorted(str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file())


def test_without_an_output_the_map_goes_where_it_was_told(ssr, stub, tmp_path):
  photos = [_photo(tmp_path / 'in' / name) for name in ('a.png', 'b.png')]
  code, _, err = ssr(*photos, '--trust', tmp_path / 'maps')
  assert code == 0 and not err
  assert _files(tmp_path / 'maps') == ['a_upscaled_trust.png', 'b_upscaled_trust.png']
  assert _files(tmp_path / 'in') == ['a.png', 'a_upscaled.png', 'b.png', 'b_upscaled.png']


def test_a_picture_and_a_number_for_one_file(ssr, stub, tmp_path):
  photo = _photo(tmp_path / 'a.png', 51)
  code, out, err = ssr(photo, '-o', tmp_path / 'b.png', '--trust', tmp_path / 'map.png')
  assert code == 0 and not err and out[0].endswith(' s, 20 % invented)') and stub.asked == [True]
  with Image.open(tmp_path / 'map.png') as sheet:
    assert sheet.width == 4 * 512 + 5 * 8
  assert ssr(photo, '-o', tmp_path / 'c.png')[1][0].endswith(' s)') and stub.asked == [True, False]


def test_a_folder_for_folders_and_for_one_file(ssr, tmp_path):
  for name, value in (('a.png', 51), ('sub/b.jpg', 102)):
    _photo(tmp_path / 'in' / name, value)
  code, out, err = ssr(tmp_path / 'in', '-r', '-o', tmp_path / 'out', '--trust', tmp_path / 'maps')
  assert code == 0 and not err and _files(tmp_path / 'maps') == ['a_trust.png', 'sub/b_trust.png']
  assert re.search(r'; 30 % invented on average$', out[-1])
  assert ssr(tmp_path / 'in/a.png', '-o', tmp_path / 'z.jpg', '--trust', tmp_path / 'maps')[0] == 0
  assert _files(tmp_path / 'maps') == ['a_trust.png', 'sub/b_trust.png', 'z_trust.png']
  assert ssr(tmp_path / 'in', '-o', tmp_path / 'both', '--trust', tmp_path / 'both')[0] == 0
  assert _files(tmp_path / 'both') == ['a.png', 'a_trust.png']


def test_nothing_is_replaced(ssr, tmp_path):
  photo, other = _photo(tmp_path / 'a.png', 51), _photo(tmp_path / 'b.png', 9)
  mine = tmp_path / 'mine.png'
  mine.write_bytes(b'mine')
  before = {path: path.read_bytes() for path in (photo, other, mine)}
  for arguments, code, word in (
    ((photo, '-o', tmp_path / 'x.png', '--trust', mine), 1, 'mine.png exists; use --overwrite'),
    ((photo, '-o', tmp_path / 'x.png', '--trust', photo, '--overwrite'), 1, 'would replace the input'),
    ((photo, '-o', tmp_path / 'x.png', '--trust', tmp_path / 'x.png'), 1, 'would replace its output'),
    ((photo, other, '-o', tmp_path / 'out', '--trust', tmp_path / 'x.png'), 2, 'several inputs need a folder'),
    ((photo, '-o', tmp_path / 'x.png', '--trust', tmp_path / 'a.png' / 'maps'), 2, 'cannot be made'),
    ((photo, '-o', tmp_path / 'x.png', '--trust', other.with_suffix('.jpg')), 0, ''),
  ):
    found, _, err = ssr(*arguments)
    assert found == code and len(err) == (code > 0) and word in ''.join(err), arguments
    assert all(path.read_bytes() == content for path, content in before.items())
  assert _files(tmp_path / 'b.jpg') == ['x_trust.png']  # no .png: a folder
  text = tmp_path / 'text.txt'
  text.write_text('mine')
  assert ssr(photo, '-o', tmp_path / 'y.png', '--trust', text)[0] == 2 and text.read_text() == 'mine'


def test_two_inputs_for_one_map(ssr, tmp_path):
  photos = _photo(tmp_path / 'a.png'), _photo(tmp_path / 'a.jpg', 9)
  code, _, err = ssr(*photos, '-o', tmp_path / 'out', '--trust', tmp_path / 'maps')
  assert code == 1 and len(err) == 1 and f'a.jpg: its trust map {tmp_path}/maps/a_trust.png is also that of' in err[0]
  assert _files(tmp_path / 'out') == ['a.png']


def test_a_map_that_cannot_be_drawn_leaves_no_file(ssr, tmp_path, monkeypatch):
  from ssr_jax.evaluation.report import figures

  monkeypatch.setattr(figures, 'trusted', lambda *_: 1 / 0)
  code, _, err = ssr(_photo(tmp_path / 'a.png'), '-o', tmp_path / 'b.png', '--trust', tmp_path / 'map.png')
  assert code == 1 and len(err) == 1 and _files(tmp_path) == ['a.png']


def test_defocus_is_kept_of_colour_not_of_transparency(ssr, stub, tmp_path):
  alpha = np.tile(np.linspace(0, 255, 16).astype(np.uint8), (12, 1))
  Image.fromarray(np.dstack([PIXELS, alpha])).save(tmp_path / 'a.png')
  assert ssr(tmp_path / 'a.png', '-o', tmp_path / 'b.png', '--keep-defocus', '0.7')[0] == 0
  assert stub.asked == [0.7, False]


@pytest.mark.slow
def test_the_file_says_how_much_defocus_was_kept(tiny_model_dir, tmp_path, capsys):
  Image.fromarray(PIXELS).save(tmp_path / 'a.png')
  arguments = ['upscale', str(tmp_path / 'a.png'), '--model', str(tiny_model_dir), '--restored-only', '-q']
  made = {}
  for keep in ((), ('--keep-defocus', '0'), ('--keep-defocus', '0.7')):
    assert cli.main([*arguments, '-o', str(tmp_path / f'{len(made)}.png'), *keep]) == 0
    with Image.open(tmp_path / f'{len(made)}.png') as image:
      made[keep] = image.getexif()[0x000B], np.asarray(image)
  (said, plain), (zero, same), (kept, _) = made.values()
  assert said == zero and 'keep_defocus' not in said and '"keep_defocus": 0.7' in kept
  np.testing.assert_array_equal(plain, same)
  assert cli.main([*arguments, '-o', str(tmp_path / 'x.png'), '--keep-defocus', '1.5']) == 2
  assert 'keep_defocus 1.5: must lie in [0, 1]' in capsys.readouterr().err and not (tmp_path / 'x.png').exists()


@pytest.mark.slow
def test_with_a_model(tiny_model_dir, tmp_path, capsys):
  """The number is that of `sample`; transparency has no map."""
  alpha = np.tile(np.linspace(0, 255, 16).astype(np.uint8), (12, 1))
  Image.fromarray(np.dstack([PIXELS, alpha])).save(tmp_path / 'a.png')
  arguments = ['upscale', str(tmp_path / 'a.png'), '-o', str(tmp_path / 'b.png'), '--model', str(tiny_model_dir)]
  assert cli.main([*arguments, '--trust', str(tmp_path / 'map.png'), '--restored-only']) == 0
  model = runtime.load(tiny_model_dir)
  found = model.sample(PIXELS, steps=0, trust=True)
  assert f', {100 * trust.share(found.trust):.0f} % invented)' in capsys.readouterr().out
  assert not found.trust[..., 0].any() and found.trust[..., 1].any()  # no diffusion, no change


@pytest.mark.slow
def test_a_large_image_is_measured_in_bands(tmp_path, monkeypatch):
  import jax

  from tests.runtime import test_trust

  photo, model, sampled = test_trust._planted(plant=True, tile=64)
  values = np.rint(np.clip(photo, 0, 1) * 255).astype(np.uint8)
  alpha = np.full(values.shape[:2], 200, np.uint8)
  Image.fromarray(np.dstack([values, alpha])).save(tmp_path / 'in.png')
  monkeypatch.setattr(upscaling, 'BANDED', 1600)
  arguments = upscaling.Settings(tile=64, overwrite=True)
  upscaler = upscaling.Upscaler(model, arguments, {'tile': 64, 'plant': True, 'trust': True}, None)
  job = upscaling.Job(tmp_path / 'in.png', tmp_path / 'out.png', trust=tmp_path / 'map.png')
  with jax.disable_jit():
    ((_, work),) = upscaling.run(upscaler, [job], 1, lambda *_: None)
  assert not isinstance(work, Exception), work
  assert work.banded and work.invented == trust.share(model_map(model, values))
  assert abs(work.invented - trust.share(sampled.trust)) < 0.02  # of the photo that was not rounded
  with Image.open(tmp_path / 'map.png') as sheet, Image.open(tmp_path / 'out.png') as out:
    assert sheet.width == 4 * 512 + 5 * 8
    panel = np.asarray(sheet.convert('RGB'))[32 : 32 + 341, 8 : 8 + 512].astype(int)
    small = np.asarray(out.convert('RGB').resize((512, 341), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(panel - small).mean() < 2


def model_map(model, values):
  import jax

  with jax.disable_jit():
    return model.sample(values, tile=64, plant=True, trust=True).trust

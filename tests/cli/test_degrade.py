"""`ssr degrade`: sets that can be made again from their manifest, byte for byte, and evaluate.py makes too."""

import hashlib
import json
import pathlib
import shutil
import types

import numpy as np
from PIL import Image
import pytest
from skimage import data

from ssr_jax import cli
from ssr_jax.degrade import lr_set
from ssr_jax.evaluation import cases
from ssr_jax.image import blur
from ssr_jax.image import kernels as kernel_maths

_RECIPE = 'smooth/noise_jpeg'


@pytest.fixture(scope='module')
def photos(tmp_path_factory) -> pathlib.Path:
  """Three photos of one size, 66x50, so that they are cropped and compiled once."""
  folder = tmp_path_factory.mktemp('photos')
  for i, name in enumerate(('a.png', 'b.png', 'c.png')):
    Image.fromarray(data.astronaut()[60 * i : 60 * i + 50, 150:216]).save(folder / name)
  return folder


@pytest.fixture(scope='module')
def made(photos, tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('sets') / 'set'
  arguments = ['degrade', str(photos), '-o', str(folder), '--recipe', _RECIPE, '--seed', '3', '--write-hr', '-q']
  assert cli.main(arguments) == 0
  return folder


def _bytes(folder: pathlib.Path) -> dict[str, bytes]:
  return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


def test_a_set_is_made_again_from_its_manifest_byte_for_byte(photos, made, tmp_path, capsys):
  again = tmp_path / 'again'
  arguments = ['degrade', str(photos), '-o', str(again), '--remake', str(made / 'manifest.json'), '--write-hr']
  assert cli.main(arguments) == 0
  assert 'all as in the manifest' in capsys.readouterr().out
  assert _bytes(again) == _bytes(made)
  assert set(_bytes(made)) == {
    'manifest.json',
    *(
      f'{kind}/{name}.{suffix}' for name in 'abc' for kind, suffix in (('lr', 'png'), ('hr', 'png'), ('kernels', 'npz'))
    ),
  }


def test_the_manifest_says_what_was_drawn_and_every_sum(photos, made):
  manifest = json.loads((made / 'manifest.json').read_text())
  assert manifest['recipe']['name'] == _RECIPE and manifest['recipe']['noise'] == [1 / 255, 15 / 255]
  assert manifest['seed'] == 3 and {'jax', 'jaxlib', 'numpy', 'pillow', 'device'} <= set(manifest['versions'])
  for name, entry in manifest['images'].items():
    for part in ('lr', 'hr', 'kernels'):
      assert hashlib.sha256((made / entry[part]['file']).read_bytes()).hexdigest() == entry[part]['sha256']
    assert hashlib.sha256((photos / name).read_bytes()).hexdigest() == entry['source']['sha256']
    lr = np.asarray(Image.open(made / entry['lr']['file']))
    assert lr.shape == (12, 16, 3) and hashlib.sha256(lr.tobytes()).hexdigest() == entry['lr']['pixels_sha256']
    assert entry['hr_size'] == [64, 48] and 'cropped from 66x50 to 64x48' in entry['notes'][0]
    assert entry['draws']['kind'] == 'smooth' and 16 <= entry['draws']['period'] <= 64
    assert 1 / 255 <= entry['draws']['noise_sigma'] <= 15 / 255 and 40 <= entry['draws']['jpeg_quality'] <= 95
  assert len({entry['draws']['noise_sigma'] for entry in manifest['images'].values()}) == 3


def test_kernels_on_disk_are_those_that_blurred(made):
  """Applied to the stored HR image they give the LR image, but for noise and JPEG."""
  stored = lr_set.read_kernels(made / 'kernels/a.npz')['kernels']
  assert stored.shape == (12, 16, 441) and (made / 'kernels/a.npz').stat().st_size < stored.nbytes / 50
  np.testing.assert_allclose(stored.sum(-1), 1, atol=1e-5)
  hr, lr = (np.asarray(Image.open(made / folder / 'a.png'), np.float32) / 255 for folder in ('hr', 'lr'))
  clean = np.asarray(blur.blur_downsample(hr[None], stored[None], 4))[0]
  entry = json.loads((made / 'manifest.json').read_text())['images']['a.png']
  other = lr_set.read_kernels(made / 'kernels/b.npz')['kernels']
  error, other_error = (
    np.sqrt(np.mean((a - lr) ** 2)) for a in (clean, np.asarray(blur.blur_downsample(hr[None], other[None], 4))[0])
  )
  assert error < 2 * entry['draws']['noise_sigma'] + 0.03 and error < other_error


def test_adding_a_file_changes_no_other_and_what_is_there_is_kept(photos, made, tmp_path, capsys):
  alone = tmp_path / 'alone'
  arguments = ['-o', str(alone), '--recipe', _RECIPE, '--seed', '3', '--write-hr']
  assert cli.main(['degrade', str(photos / 'b.png'), *arguments]) == 0
  for name in ('lr/b.png', 'kernels/b.npz'):
    assert (alone / name).read_bytes() == (made / name).read_bytes()
  before = (alone / 'lr/b.png').stat().st_mtime_ns
  assert cli.main(['degrade', str(photos), *arguments]) == 0
  assert '2 images made' in (out := capsys.readouterr().out) and '1 were there' in out
  assert (alone / 'lr/b.png').stat().st_mtime_ns == before
  assert _bytes(alone) == _bytes(made)
  (alone / 'lr/b.png').unlink()
  assert cli.main(['degrade', str(photos), *arguments]) == 0
  assert _bytes(alone) == _bytes(made)


def test_evaluation_makes_the_same_images(photos, made):
  dataset = cases.Dataset.parse(f'folder:{photos}', [_RECIPE], seed=3, limit=0)
  failures = []
  for case in dataset.cases(failures):
    stored = np.asarray(Image.open(made / 'lr' / case.image)).astype(int)
    # Two programs: a sum may round otherwise.
    assert np.abs(case.lr.astype(int) - stored).mean() < 0.02
    np.testing.assert_array_equal(case.hr, np.asarray(Image.open(made / 'hr' / case.image)))
  assert not failures


def test_a_changed_image_and_a_changed_result_are_named(photos, made, tmp_path, capsys):
  changed = tmp_path / 'changed'
  shutil.copytree(photos, changed)
  Image.fromarray(data.astronaut()[:50, :66]).save(changed / 'b.png')
  manifest = json.loads((made / 'manifest.json').read_text())
  manifest['images']['c.png']['lr']['pixels_sha256'] = '0' * 64
  (tmp_path / 'manifest.json').write_text(json.dumps(manifest))
  (changed / 'a.png').unlink()
  arguments = ['degrade', str(changed), '-o', str(tmp_path / 'x'), '--remake', str(tmp_path / 'manifest.json')]
  assert cli.main(arguments) == 1
  lines = capsys.readouterr().err
  assert 'a.png: in the manifest, but not among the inputs' in lines
  assert 'b.png: not the file that the set was made from' in lines
  assert 'c.png: came out differently; the set was made with' in lines and 'jax ' in lines


def test_one_bad_file_is_named_and_the_rest_done(photos, tmp_path, capsys):
  folder = tmp_path / 'in'
  shutil.copytree(photos, folder)
  (folder / 'b.png').write_bytes(b'no image')
  Image.fromarray(np.zeros((3, 9, 3), np.uint8)).save(folder / 'small.png')
  Image.fromarray(data.astronaut()[:50, :66]).save(folder / 'a.jpg')
  assert cli.main(['degrade', str(folder), '-o', str(tmp_path / 'out'), '--recipe', _RECIPE]) == 1
  lines = capsys.readouterr().err
  assert 'b.png' in lines and 'small.png: 9x3 pixels is less than one LR pixel' in lines
  assert 'a.png: its output would replace that of a.jpg' in lines
  assert {p.name for p in (tmp_path / 'out/lr').iterdir()} == {'a.png', 'c.png'}
  assert set(json.loads((tmp_path / 'out/manifest.json').read_text())['images']) == {'a.jpg', 'c.png'}


def test_depth_maps_are_used_written_and_used_again(photos, tmp_path):
  maps = tmp_path / 'maps'
  maps.mkdir()
  distance = np.tile(np.linspace(1, 5, 66, dtype=np.float32), (50, 1))
  np.save(maps / 'a.npy', distance)
  out, again = tmp_path / 'out', tmp_path / 'again'
  photo = str(photos / 'a.png')
  assert cli.main(['degrade', photo, '-o', str(out), '--recipe', 'depth/no_noise', '--depth', str(maps)]) == 0
  entry = json.loads((out / 'manifest.json').read_text())['images']['a.png']
  assert entry['depth']['from'] == 'depth map a.npy' and {'focus', 'widest'} < set(entry['draws'])
  depth = lr_set.read_depth(out / 'depth/a.png')
  assert depth.shape == (12, 16) and depth[0, 0] > 0.8 and depth[0, -1] < 0.1  # near is bright
  # Defocus grows with the distance from the focus, in inverse depth.
  variance = kernel_maths.moments(lr_set.read_kernels(out / 'kernels/a.npz')['kernels'])[1][..., 0, 0]
  sharpest = np.abs(depth - entry['draws']['focus']).argmin(1)
  assert (np.abs(np.asarray(variance).argmin(1) - sharpest) <= 1).all()
  assert cli.main(['degrade', photo, '-o', str(again), '--remake', str(out / 'manifest.json')]) == 0
  assert _bytes(again) == _bytes(out)


def test_without_maps_the_models_net_estimates_depth(photos, tiny_model_dir, tmp_path):
  arguments = ['degrade', str(photos / 'a.png'), '-o', str(tmp_path / 'out'), '--recipe', 'depth/no_noise']
  assert cli.main([*arguments, '--model', str(tiny_model_dir)]) == 0
  entry = json.loads((tmp_path / 'out/manifest.json').read_text())['images']['a.png']
  assert entry['depth']['from'].startswith('depth net of tiny, sha256 ')


@pytest.mark.slow
def test_the_second_order_chain_tells_its_draws_by_name(photos, tmp_path):
  out = tmp_path / 'out'
  arguments = ['degrade', str(photos / 'a.png'), '-o', str(out), '--recipe', 'realesrgan-light', '--seed', '1']
  assert cli.main(arguments) == 0
  manifest = json.loads((out / 'manifest.json').read_text())
  assert manifest['recipe']['chain']['second']['quality'] == [60.0, 100.0]
  draws = manifest['images']['a.png']['draws']
  assert draws['first_kind'] in (
    'iso',
    'aniso',
    'generalized_iso',
    'generalized_aniso',
    'plateau_iso',
    'plateau_aniso',
    'sinc',
  )
  assert draws['final_method'] in ('area', 'bilinear', 'bicubic') and isinstance(draws['jpeg_last'], bool)
  kernels = lr_set.read_kernels(out / 'kernels/a.npz')
  assert {name: taps.shape for name, taps in kernels.items()} == dict.fromkeys(('first', 'second', 'final'), (441,))
  assert all(abs(taps.sum() - 1) < 1e-5 for taps in kernels.values())


def test_a_preview_is_one_labelled_picture(photos, tiny_model_dir, tmp_path, monkeypatch, capsys):
  from ssr_jax.evaluation.report import contact_sheet

  monkeypatch.setattr(contact_sheet.fields, 'KINDS', ('invariant', 'depth'))
  monkeypatch.setattr(contact_sheet.degrade, 'MODES', ('no_noise',))
  every_fourth = lambda key, image, recipe: types.SimpleNamespace(lr=image[:, ::4, ::4])
  monkeypatch.setattr(contact_sheet, '_degrade', every_fourth)  # the chain takes long to compile
  arguments = ['degrade', str(photos / 'a.png'), '-o', str(tmp_path / 'sheet.png'), '--preview']
  assert cli.main([*arguments, '--model', str(tiny_model_dir)]) == 0
  assert 'sheet.png (' in capsys.readouterr().out
  sheet = np.asarray(Image.open(tmp_path / 'sheet.png')).astype(float)
  # Four rows, kernels, a mode and two chains, of which three have headings.
  assert sheet.shape == (4 * 132 + 3 * 18 + 4, 108 + 2 * 132, 3)
  lr = np.asarray(Image.fromarray(data.astronaut()[1:49, 151:215]).resize((16, 12), Image.BOX)).astype(float)
  panel = sheet[4 + 18 + 132 :][:96, 108 : 108 + 128]  # the recipe invariant/no_noise of the middle of the photo
  assert np.abs(panel[::8, ::8] - lr).mean() < 25 < np.abs(panel[::8, ::8] - lr[::-1]).mean()


@pytest.mark.parametrize(
  'arguments,complaint',
  [
    (['--recipe', 'swirl/no_noise'], "unknown field 'swirl'"),
    (['--recipe', 'smooth/no_noise', '--depth', '.'], 'uses no depth'),
    (['--remake', 'absent.json'], 'absent.json: cannot be read'),
    (['--remake', 'absent.json', '--seed', '1'], 'leave --seed'),
    (['--preview'], 'a preview is one picture'),
    ([], 'one of the arguments --recipe --remake --preview is required'),
  ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, complaint, photos, tmp_path, capsys):
  assert cli.main(['degrade', str(photos / 'a.png'), '-o', str(tmp_path / 'out'), *arguments]) == 2
  assert complaint in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_a_folder_of_another_set_is_left_alone(photos, made, tmp_path, capsys):
  before = _bytes(made)
  for change in (['--recipe', _RECIPE, '--seed', '4'], ['--recipe', 'invariant/no_noise', '--seed', '3']):
    assert cli.main(['degrade', str(photos), '-o', str(made), *change]) == 2
    assert 'holds a set of' in capsys.readouterr().err
  (tmp_path / 'manifest.json').write_text('{}')
  assert cli.main(['degrade', str(photos), '-o', str(tmp_path / 'x'), '--remake', str(tmp_path / 'manifest.json')]) == 2
  assert 'not the manifest of an LR set' in capsys.readouterr().err
  assert _bytes(made) == before


def test_a_set_with_one_kernel_for_each_image(photos, tmp_path, capsys):
  """The stored kernel makes the stored LR image from the stored HR image, and the manifest makes the set again."""
  arguments = ['degrade', str(photos / 'a.png'), '--recipe', 'anisotropic', '--write-hr', '-o']
  assert cli.main([*arguments, str(tmp_path / 'set')]) == 0
  entry = json.loads((tmp_path / 'set' / 'manifest.json').read_text())['images']['a.png']
  assert set(entry['draws']) == {'sigma1', 'sigma2', 'angle', 'noise_sigma', 'jpeg_quality'}
  kernel = lr_set.read_kernels(tmp_path / 'set/kernels/a.npz')['kernel']
  hr, lr = (np.asarray(Image.open(tmp_path / 'set' / part / 'a.png'), np.float32) / 255 for part in ('hr', 'lr'))
  clean = np.asarray(blur.blur_reduce(hr[None], kernel[None], 4))[0]
  assert np.abs(np.clip(clean, 0, 1) - lr).max() < 0.51 / 255
  remake = ['--remake', str(tmp_path / 'set/manifest.json'), '--write-hr']
  assert cli.main(['degrade', str(photos), '-o', str(tmp_path / 'two'), *remake]) == 0, capsys.readouterr().err
  for name in ('lr/a.png', 'kernels/a.npz'):
    assert (tmp_path / 'set' / name).read_bytes() == (tmp_path / 'two' / name).read_bytes()

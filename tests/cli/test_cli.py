"""The command line as a user meets it: files, folders, exit codes, what is kept."""

import csv
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
from skimage import data

import ssr_jax
from ssr_jax import cli
from ssr_jax.image import io

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def photos(tmp_path):
  """Three small photos in a folder, one in a folder below it, and a file that is no image."""
  folder = tmp_path / 'in'
  (folder / 'sub').mkdir(parents=True)
  cat, cup = data.chelsea(), data.coffee()
  Image.fromarray(cat[100:130, 100:140]).save(folder / 'cat.png')
  Image.fromarray(cup[100:124, 100:128]).save(folder / 'cup.JPG')
  Image.fromarray(cup[200:220, 200:225]).save(folder / 'old.bmp')
  Image.fromarray(cat[:20, :20]).save(folder / 'sub' / 'ear.webp')
  (folder / 'notes.txt').write_text('not an image')
  return folder


@pytest.fixture
def ssr(tiny_model_dir, monkeypatch):
  """Runs the command with the tiny model, which is loaded once for all tests; restored image only."""
  from ssr_jax import runtime

  cache = _models

  def load(name, dtype, devices):
    assert devices is None
    if (name, dtype) not in cache:
      cache[name, dtype] = original(name, dtype=dtype)
    return cache[name, dtype]

  original = runtime.load
  monkeypatch.setattr(runtime, 'load', load)

  def run(*arguments, steps=('--restored-only',)):
    return cli.main(['upscale', *map(str, arguments), '--model', str(tiny_model_dir), *steps])

  return run


_models = {}


@pytest.mark.slow
def test_a_folder_to_a_folder(ssr, photos, tmp_path, capsys):
  out = tmp_path / 'out'
  assert ssr(photos, '-o', out) == 0
  assert sorted(p.name for p in out.iterdir()) == ['cat.png', 'cup.JPG', 'old.png']
  for name, size in (('cat.png', (160, 120)), ('cup.JPG', (112, 96)), ('old.png', (100, 80))):
    with Image.open(out / name) as image:
      assert image.size == size
  captured = capsys.readouterr()
  *lines, summary = captured.out.splitlines()
  assert len(lines) == 3 and 'cat.png -> ' in lines[0] and not captured.err
  assert re.fullmatch(r'3 done, 0 skipped, 0 failed in [\d.]+ s, [\d.e+]+ images/s', summary)
  Image.new('RGB', (8, 8)).save(photos / 'new.png')
  (photos / 'bad.png').write_bytes(b'no picture')
  assert ssr(photos, '-o', out, '--skip-existing') == 1
  assert re.match(r'1 done, 3 skipped, 1 failed in ', capsys.readouterr().out.splitlines()[-1])


@pytest.mark.slow
def test_recursive_keeps_the_folders(ssr, photos, tmp_path):
  assert ssr(photos, '-o', tmp_path / 'out', '-r', '--format', 'png', '-q') == 0
  found = sorted(str(p.relative_to(tmp_path / 'out')) for p in (tmp_path / 'out').rglob('*.png'))
  assert found == ['cat.png', 'cup.png', 'old.png', 'sub/ear.png']


def test_the_file_is_what_the_function_returns(ssr, photos, tmp_path):
  out = tmp_path / 'cat4.png'
  assert ssr(photos / 'cat.png', '-o', out) == 0
  (model,) = {id(m): m for m in _models.values()}.values()
  expected = model.sample(io.read(photos / 'cat.png').rgb, steps=0).image
  np.testing.assert_array_equal(io.read(out).rgb, expected)


def test_one_bad_file_does_not_stop_the_rest(ssr, photos, tmp_path, capsys):
  (photos / 'bad.png').write_bytes(b'no picture')
  (photos / 'empty.jpg').write_bytes(b'')
  out = tmp_path / 'out'
  assert ssr(photos, photos / 'missing.png', '-o', out) == 1
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 3 and all(line.startswith('ssr: ') for line in lines)
  for name, line in zip(('bad.png', 'empty.jpg', 'missing.png'), lines, strict=True):
    assert name in line
  assert sorted(p.name for p in out.iterdir()) == ['cat.png', 'cup.JPG', 'old.png']


def test_existing_outputs(ssr, photos, tmp_path, capsys):
  out = tmp_path / 'cat.png'
  out.write_bytes(b'mine')
  assert ssr(photos / 'cat.png', '-o', tmp_path) == 1
  assert 'exists; use --overwrite' in capsys.readouterr().err and out.read_bytes() == b'mine'
  assert ssr(photos / 'cat.png', '-o', tmp_path, '--skip-existing') == 0 and out.read_bytes() == b'mine'
  assert ssr(photos / 'cat.png', '-o', tmp_path, '--overwrite') == 0 and io.read(out).rgb.shape == (120, 160, 3)
  before = (photos / 'cat.png').read_bytes()
  assert ssr(photos / 'cat.png', '-o', photos, '--overwrite') == 1
  assert 'would replace the input' in capsys.readouterr().err and (photos / 'cat.png').read_bytes() == before


@pytest.mark.slow
def test_without_an_output_results_lie_beside_their_files_and_a_folder_is_asked_where(ssr, photos, capsys):
  before = {path: path.read_bytes() for path in photos.iterdir() if path.is_file()}
  assert ssr(photos / 'cat.png', photos / 'cup.JPG', photos / 'old.bmp', '--figures') == 0
  made = {path.name for path in photos.iterdir() if path.is_file()} - {path.name for path in before}
  names = {'cat_upscaled.png', 'cup_upscaled.JPG', 'old_upscaled.png'}
  assert made == names | {f'{name.rpartition(".")[0]}_figure.png' for name in names}
  assert all(path.read_bytes() == content for path, content in before.items())
  assert io.read(photos / 'old_upscaled.png').rgb.shape == (80, 100, 3)
  assert ssr(photos / 'cat.png', '--format', 'webp') == 0 and (photos / 'cat_upscaled.webp').exists()
  capsys.readouterr()
  assert ssr(photos / 'cat.png') == 1 and 'cat_upscaled.png exists' in capsys.readouterr().err
  assert ssr(photos / 'cat.png', photos) == 2
  line = capsys.readouterr().err
  assert line.count('\n') == 1 and f'{photos}: is a folder; say with -o' in line


def test_two_inputs_for_one_output(ssr, photos, tmp_path, capsys):
  Image.new('RGB', (8, 8)).save(photos / 'old.png')
  assert ssr(photos, '-o', tmp_path / 'out', '-q') == 1
  assert 'old.png is also that of' in capsys.readouterr().err


def test_figures_are_written_beside(ssr, photos, tmp_path):
  out = tmp_path / 'out' / 'cat.jpg'
  assert ssr(photos / 'cat.png', '-o', out, '--figures') == 0
  with Image.open(out.with_name('cat_figure.png')) as sheet:
    assert sheet.width == 5 * 160 + 6 * 8


def test_what_a_photo_carries_is_kept(ssr, tmp_path):
  exif = Image.Exif()
  exif[0x0112], exif[0x010F] = 6, 'Maker'
  pixels = data.chelsea()[100:120, 100:132]
  alpha = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (20, 1))
  Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / 'a.png', exif=exif)
  Image.fromarray(data.camera()[100:120, 100:132]).save(tmp_path / 'gray.png')
  deep = data.camera()[100:120, 100:132].astype(np.uint16) * 257
  Image.fromarray(deep).save(tmp_path / 'deep.png')
  out = tmp_path / 'out'
  assert ssr(tmp_path / 'a.png', tmp_path / 'gray.png', tmp_path / 'deep.png', '-o', out) == 0
  with Image.open(out / 'a.png') as image:
    assert image.size == (80, 128) and image.mode == 'RGBA' and image.getexif()[0x010F] == 'Maker'
    upright = Image.fromarray(np.rot90(alpha, 3)).resize((80, 128), Image.Resampling.BICUBIC)
    difference = np.asarray(image)[..., 3].astype(int) - np.asarray(upright)  # one pixel of the ramp has 8 levels
    assert 0 < np.abs(difference).max() <= 20 and np.ptp(np.asarray(image)[..., 3]) == 255
  with Image.open(out / 'gray.png') as image:
    assert image.mode == 'L'
  with Image.open(out / 'deep.png') as image:
    assert image.mode.startswith('I') and np.asarray(image).max() > 255


@pytest.mark.slow
def test_seeds_and_steps_reach_the_sampler(ssr, photos, tmp_path):
  images = []
  for index, options in enumerate((['--seed', 1], ['--seed', 1], ['--seed', 2], ['--seed', 1, '--steps', 1])):
    out = tmp_path / f'{index}.png'
    assert ssr(photos / 'cat.png', '-o', out, *options, steps=()) == 0
    images.append(io.read(out).rgb)
  np.testing.assert_array_equal(images[0], images[1])
  assert (images[0] != images[2]).any() and (images[0] != images[3]).any()


@pytest.mark.slow
def test_dtype_reaches_the_networks(ssr, photos, tmp_path, capsys):
  outs = [tmp_path / 'float32.png', tmp_path / 'bfloat16.png']
  for out in outs:
    assert ssr(photos / 'cat.png', '-o', out, '--dtype', out.stem) == 0
  a, b = (io.read(out).rgb.astype(int) for out in outs)
  assert 0 < np.abs(a - b).max() < 8
  assert ssr(photos / 'cat.png', '-o', tmp_path / 'c.png', '--dtype', 'half') == 2
  assert "invalid choice: 'half'" in capsys.readouterr().err


def test_ctrl_c_is_one_line_and_130(ssr, photos, tmp_path, capsys, monkeypatch):
  calls = []

  def read(*args, **kwargs):
    calls.append(args)
    if len(calls) == 2:
      raise KeyboardInterrupt
    return original(*args, **kwargs)

  original = io.read
  monkeypatch.setattr(io, 'read', read)
  assert ssr(photos, '-o', tmp_path / 'out', '-q') == 130
  assert capsys.readouterr().err == 'ssr: stopped; 1 of 3 images done\n'
  assert [p.name for p in (tmp_path / 'out').iterdir()] == ['cat.png']


def test_metrics_scores_pairs(tmp_path, capsys):
  hr, sr = tmp_path / 'hr', tmp_path / 'sr'
  for folder in (hr, sr):
    folder.mkdir()
  rng = np.random.default_rng(0)
  for index, name in enumerate(('a', 'b', 'c')):
    pixels = data.chelsea()[:64, 100 * index : 100 * index + 72]
    Image.fromarray(pixels).save(hr / f'{name}.png')
    if name != 'c':
      noisy = np.clip(pixels + rng.normal(0, 5 * (index + 1), pixels.shape), 0, 255).astype(np.uint8)
      Image.fromarray(noisy).save(sr / f'{name}.bmp')
  table = tmp_path / 'scores.csv'
  assert cli.main(['metrics', str(hr), str(sr), '--metrics', 'psnr,ssim', '--csv', str(table)]) == 1
  captured = capsys.readouterr()
  assert 'no image named c' in captured.err and captured.out.splitlines()[-1].startswith('mean')
  rows = list(csv.reader(table.open()))
  assert rows[0] == ['image', 'psnr', 'ssim'] and [row[0] for row in rows[1:]] == ['a', 'b', 'mean']
  values = np.array([row[1:] for row in rows[1:]], float)
  np.testing.assert_allclose(values[2], values[:2].mean(0), atol=1e-5)
  # Y weighs the channels by 0.257, 0.504, 0.098, so noise of 5 becomes 5 * 0.574 on Y: 38.97 dB; twice that, 6 dB less.
  np.testing.assert_allclose(values[:2, 0], [38.97, 32.95], atol=0.4)


@pytest.mark.parametrize(
  'arguments, words',
  [
    (['--metrics', 'nosuch'], 'nosuch'),
    (['--metrics', 'kernel_psnr'], 'leave it out'),
  ],
)
def test_metrics_wrong_usage(tmp_path, capsys, arguments, words):
  assert cli.main(['metrics', str(tmp_path), str(tmp_path), *arguments]) == 2
  assert words in capsys.readouterr().err


def test_weights_list_and_verify(tiny_model_dir, capsys):
  assert cli.main(['weights', 'list', str(tiny_model_dir)]) == 0
  assert 'dkenet' in capsys.readouterr().out
  assert cli.main(['weights', 'verify', str(tiny_model_dir)]) == 0
  assert capsys.readouterr().out.splitlines() == [f'{p}: ok' for p in ('depth', 'dkenet', 'nbsr', 'vae', 'unet')]
  assert cli.main(['weights', 'verify', 'nosuch']) == 2


def test_help_says_whose_an_option_is_that_is_not_every_systems(capsys):
  assert cli.main(['upscale', '--help']) == 0
  out = ' '.join(capsys.readouterr().out.split())
  assert '--guidance GUIDANCE ssr: how far each step is pulled' in out
  assert 'blinddiff: weight of the gradient' in out and 'cassr: weight of guidance away' in out
  assert '--iterations T ssr: rounds of SVKR' in out and '--operator NAME blinddiff: estimated' in out
  assert "--strength B how much of diffusion's detail" in out  # Python 3.13 says B once


def test_help_and_version(capsys):
  assert cli.main(['--help']) == 0
  assert 'examples:' in capsys.readouterr().out
  assert cli.main(['upscale', '--help']) == 0
  assert cli.main(['--version']) == 0
  assert cli.main([]) == 2 and cli.main(['upscale']) == 2 and cli.main(['nosuch']) == 2


def test_as_a_program(tmp_path):
  """One real process: no traceback, the right code, and Ctrl-C while it works."""
  environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
  command = [sys.executable, '-m', 'ssr_jax.cli', 'upscale', str(tmp_path / 'missing.png'), '-o', str(tmp_path / 'out')]
  done = subprocess.run([*command, '--model', 'nosuch'], capture_output=True, text=True, env=environment)
  assert done.returncode == 2 and done.stderr.count('\n') == 1 and "model 'nosuch'" in done.stderr
  wait = (
    'import sys, time\n'
    'from ssr_jax import cli\n'
    'from ssr_jax.cli import weights\n'
    'weights._list = lambda arguments: (print("up", flush=True), time.sleep(60))\n'
    'sys.exit(cli.main(["weights", "list"]))\n'
  )
  # A shell's background jobs ignore SIGINT, and pass that on: the suite must not depend on how it was started.
  process = subprocess.Popen(
    [sys.executable, '-c', wait],
    env=environment,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
  )
  assert process.stdout.readline() == 'up\n'
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=30)
  assert process.returncode == 130 and err == 'ssr: stopped\n'


@pytest.mark.slow
def test_sixteen_bits_reach_the_model_and_the_output(ssr, tmp_path):
  """Two images that differ in the low bytes alone have different results, by less than a level of 8 bits."""
  draw = np.random.default_rng(0)
  high = np.asarray(data.chelsea()[100:130, 100:140]).astype(np.uint16) << 8
  for name in ('a', 'b'):
    values = (high + draw.integers(0, 256, high.shape)).astype(np.float32) / 65535
    io.write(tmp_path / f'{name}.png', io.Picture(values, bits=16))
  assert ssr(tmp_path / 'a.png', tmp_path / 'b.png', '-o', tmp_path / 'out', '--format', 'tif') == 0
  a, b = (io.read(tmp_path / 'out' / f'{name}.tif') for name in ('a', 'b'))
  assert a.bits == b.bits == 16 and a.rgb.shape == (120, 160, 3) and not a.notes
  assert 1 / 65535 < np.abs(a.rgb - b.rgb).mean() < 1 / 255
  assert len(np.unique(np.rint(a.rgb * 65535) % 257)) > 200  # not 8 bits in a 16-bit file


def test_results_say_what_made_them_unless_asked_not_to(ssr, tiny_model_dir, tmp_path):
  exif = Image.Exif()
  exif[0x010F] = 'Maker'
  photo = Image.fromarray(data.chelsea()[100:130, 100:140])
  photo.save(tmp_path / 'a.jpg', exif=exif, icc_profile=b'profile', dpi=(300, 300), xmp=b'<x/>')
  for suffix in ('jpg', 'png', 'tif', 'webp', 'avif'):
    assert ssr(tmp_path / 'a.jpg', '-o', tmp_path / 'out' / f'a.{suffix}', '--seed', '5', '--overwrite', '-q') == 0
    with Image.open(tmp_path / 'out' / f'a.{suffix}') as image:
      tags = image.getexif()
    program, version, settings = tags[0x000B].split(' ', 2)
    settings = json.loads(settings)
    assert (tags[0x010F], program, settings['seed'], settings['steps']) == ('Maker', 'ssr_jax', 5, 0)
    assert version == ssr_jax.__version__ and set(settings['sha256']) == {'depth', 'dkenet', 'nbsr'}
    for part, digest in settings['sha256'].items():
      assert digest == hashlib.sha256((tiny_model_dir / f'{part}.safetensors').read_bytes()).hexdigest()
    assert io.read(tmp_path / 'out' / f'a.{suffix}').xmp

    assert ssr(tmp_path / 'a.jpg', '-o', tmp_path / 'out' / f'b.{suffix}', '--no-metadata', '-q') == 0
    bare = io.read(tmp_path / 'out' / f'b.{suffix}')
    assert (bare.exif, bare.xmp, bare.dpi, bare.icc) == (None, None, None, b'profile')


def test_results_of_any_size(ssr, photos, tmp_path, capsys):
  """--size keeps the aspect ratio; the alpha channel has the size of the colours."""
  alpha = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (30, 1))
  Image.fromarray(np.dstack([data.chelsea()[100:130, 100:140], alpha])).save(tmp_path / 'cat.png')
  for options, size in (
    (('--scale', '1'), (40, 30)),
    (('--scale', '2.5'), (100, 75)),
    (('--size', '200'), (200, 150)),
    (('--size', '1000x90'), (120, 90)),
  ):
    assert ssr(tmp_path / 'cat.png', '-o', tmp_path / 'out.png', '--overwrite', '-q', *options) == 0
    with Image.open(tmp_path / 'out.png') as image:
      assert image.size == size and image.mode == 'RGBA', options
  assert ssr(tmp_path / 'cat.png', '-o', tmp_path / 'new.png', '--size', '30') == 1
  assert 'size 30x22: must be 1 to 8 times the size of the image, 40x30' in capsys.readouterr().err
  for options, words in (
    (('--size', '4x'), 'give WIDTHxHEIGHT'),
    (('--size', 'x4'), 'give WIDTHxHEIGHT'),
    (('--scale', '9'), 'scale 9: must be from 1 to 8'),
    (('--scale', '2', '--size', '60'), 'exclude each other'),
  ):
    assert ssr(tmp_path / 'cat.png', '-o', tmp_path / 'new.png', *options) == 2
    assert words in capsys.readouterr().err
  assert not (tmp_path / 'new.png').exists()

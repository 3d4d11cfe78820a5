"""All that a user can get wrong: one clear line that names the file or field, the right code, nothing half-written."""

import io as iolib
import json
import os
import shutil

import numpy as np
from PIL import Image
import pytest

from ssr_jax import cli
from ssr_jax.image import io


def _run(capsys, *arguments):
  """Exit code and the lines of stderr; a traceback would be an exception here, or several lines."""
  code = cli.main([str(a) for a in arguments])
  return code, capsys.readouterr().err.splitlines()


def _save(path, pixels, **options):
  Image.fromarray(pixels).save(path, **options)
  return path


def _encoded(pixels, form, **options):
  buffer = iolib.BytesIO()
  Image.fromarray(pixels).save(buffer, form, **options)
  return buffer.getvalue()


_NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.mark.parametrize(
  'name, content, words',
  [
    ('a.png', b'', 'empty'),
    ('a.jpg', b'text', 'not an image'),
    ('a.png', _encoded(_NOISE, 'PNG')[:3000], 'truncated'),
    ('a.jpg', _encoded(_NOISE, 'JPEG')[:1500], 'truncated'),
    ('a.gif', _encoded(_NOISE, 'GIF', save_all=True, append_images=[Image.new('RGB', (64, 64))]), 'frames'),
    ('a.webp', _encoded(_NOISE, 'WEBP', save_all=True, append_images=[Image.new('RGB', (64, 64))]), 'frames'),
    ('a.tif', _encoded(np.full((8, 8), 200, np.float32), 'TIFF'), 'floating-point'),
    ('missing.png', None, 'cannot be read'),
  ],
)
def test_bad_files(tmp_path, capsys, tiny_model_dir, name, content, words):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  out = tmp_path / 'out'
  code, lines = _run(capsys, 'upscale', tmp_path / name, '-o', out, '--model', tiny_model_dir, '--restored-only')
  assert code == 1 and len(lines) == 1 and name in lines[0] and words in lines[0]
  assert not list(out.iterdir())


def test_too_many_pixels(tmp_path, capsys, tiny_model_dir):
  Image.new('L', (300, 300)).save(tmp_path / 'a.png')
  options = ('--model', tiny_model_dir, '--max-pixels', 300 * 300 - 1)
  code, lines = _run(capsys, 'upscale', tmp_path / 'a.png', '-o', tmp_path / 'o.png', *options)
  assert code == 1 and len(lines) == 1 and '300x300 pixels' in lines[0] and not (tmp_path / 'o.png').exists()


@pytest.mark.slow
def test_odd_sizes_work(tmp_path, capsys, tiny_model_dir):
  """One pixel is padded; a strip runs as tiles, and only a format that cannot hold it says no."""
  _save(tmp_path / 'dot.png', _NOISE[:1, :1])
  _save(tmp_path / 'strip.png', np.zeros((2, 500, 3), np.uint8))
  common = ('--model', tiny_model_dir, '--restored-only', '-q')
  code, lines = _run(capsys, 'upscale', tmp_path / 'dot.png', tmp_path / 'strip.png', '-o', tmp_path / 'out', *common)
  assert code == 0 and not lines
  assert io.read(tmp_path / 'out' / 'dot.png').rgb.shape == (4, 4, 3)
  assert io.read(tmp_path / 'out' / 'strip.png').rgb.shape == (8, 2000, 3)


def test_a_size_that_the_format_cannot_hold_is_told_before_the_work(tmp_path, capsys, tiny_model_dir, monkeypatch):
  from ssr_jax import runtime

  monkeypatch.setattr(runtime.Restorer, 'sample', lambda *_, **__: pytest.fail('must not run'))
  _save(tmp_path / 'strip.png', np.zeros((2, 20000, 3), np.uint8))
  out = tmp_path / 'o.jpg'
  code, lines = _run(capsys, 'upscale', tmp_path / 'strip.png', '-o', out, '--model', tiny_model_dir, '--restored-only')
  assert code == 1 and len(lines) == 1 and '80000x8 is too large for JPEG' in lines[0] and not out.exists()


def test_unwritable_output(tmp_path, capsys, tiny_model_dir):
  photo = _save(tmp_path / 'a.png', _NOISE)
  (tmp_path / 'file').write_bytes(b'x')
  model = ('--model', tiny_model_dir, '--restored-only')
  for out in (tmp_path / 'file', tmp_path / 'file' / 'out', tmp_path / 'file' / 'o.png'):
    code, lines = _run(capsys, 'upscale', photo, '-o', out, *model)
    assert code == 2 and len(lines) == 1 and str(tmp_path / 'file') in lines[0]
  if os.geteuid():  # root may write anywhere
    locked = tmp_path / 'locked'
    locked.mkdir(mode=0o500)
    code, lines = _run(capsys, 'upscale', photo, '-o', locked, *model)
    assert code == 2 and len(lines) == 1 and 'cannot be written' in lines[0]


@pytest.mark.parametrize(
  'options, words',
  [
    (['--model', 'nosuch'], 'unknown model; known: compact'),
    (['--scale', '9'], 'scale 9'),
    (['--steps', '-1'], 'steps -1'),
    (['--steps', '2', '--restored-only'], 'exclude each other'),
    (['--sampler', 'euler'], "sampler 'euler': unknown; known: ddpm, ddim, dpmpp_2m"),
    (['--colour-fix', 'x'], "colour_fix 'x'"),
    (['--strength', '2'], 'blend 2.0'),
    (['--start', '0'], 'start 0.0'),
    (['--tile', '100'], 'tile 100'),
    (['--quality', '0'], '--quality 0'),
  ],
)
def test_wrong_options_are_told_once(tmp_path, capsys, tiny_model_dir, options, words):
  photos = [_save(tmp_path / f'{i}.png', _NOISE) for i in range(2)]
  model = [] if '--model' in options else ['--model', tiny_model_dir]
  code, lines = _run(capsys, 'upscale', *photos, '-o', tmp_path / 'out', *model, *options)
  assert code == 2 and len(lines) == 1 and words in lines[0]


def test_several_inputs_need_a_folder(tmp_path, capsys):
  code, lines = _run(capsys, 'upscale', 'a.png', 'b.png', '-o', tmp_path / 'o.png')
  assert code == 2 and 'need a folder' in lines[0]
  (tmp_path / 'none').mkdir()
  code, lines = _run(capsys, 'upscale', tmp_path / 'none', '-o', tmp_path / 'out')
  assert code == 1 and len(lines) == 1 and 'no images' in lines[0]


def _flip(directory):
  data = bytearray((directory / 'nbsr.safetensors').read_bytes())
  data[-3] ^= 255
  (directory / 'nbsr.safetensors').write_bytes(data)


def _field(directory, part='nbsr', **fields):
  model = json.loads((directory / 'model.json').read_text())
  model['parts'][part]['config'].update(fields)
  (directory / 'model.json').write_text(json.dumps(model))


def _drop(directory):
  model = json.loads((directory / 'model.json').read_text())
  del model['parts']['unet']
  (directory / 'model.json').write_text(json.dumps(model))


@pytest.mark.parametrize(
  'damage, words',
  [
    (_flip, 'nbsr.safetensors: corrupted: sha256'),
    (lambda d: (d / 'vae.safetensors').unlink(), 'vae.safetensors: cannot be read'),
    (lambda d: (d / 'model.json').write_text('{'), 'model.json: not valid JSON'),
    (lambda d: _field(d, widht=3), "'widht'"),
    (lambda d: _field(d, features=16), 'does not fit the config'),
    (_drop, 'has no part unet; use steps=0 (--restored-only)'),
  ],
)
def test_damaged_models(tmp_path, capsys, tiny_model_dir, damage, words):
  directory = tmp_path / 'model'
  shutil.copytree(tiny_model_dir, directory)
  damage(directory)
  photo = _save(tmp_path / 'a.png', _NOISE)
  code, lines = _run(capsys, 'upscale', photo, '-o', tmp_path / 'out', '--model', directory)
  assert code == (2 if damage is _drop else 1) and len(lines) == 1 and words in lines[0]
  assert not list((tmp_path / 'out').iterdir())

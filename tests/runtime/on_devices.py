"""Runs a small model on one and on eight virtual devices and prints what differs, and which devices ran.

  python tests/runtime/on_devices.py MODEL_DIR FOLDER
  python tests/runtime/on_devices.py MODEL_DIR

One JSON object on stdout. Run by test_spread.py in a process of its own, for the number of devices is fixed when jax
starts. With a FOLDER the model of MODEL_DIR is only loaded, and what runs compiles in a second; without, it runs.
"""

import contextlib
import dataclasses
import io as iolib
import json
import os
import pathlib
import sys
from typing import Any

import jax

jax.config.update('jax_num_cpu_devices', 8)
# What one of the models here has compiled serves the others.
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from skimage import data  # noqa: E402

import ssr_jax  # noqa: E402
from ssr_jax import cli, runtime  # noqa: E402
from ssr_jax.cli import upscaling  # noqa: E402
from ssr_jax.evaluation import runner  # noqa: E402
from ssr_jax.evaluation.protocol import Settings  # noqa: E402
from ssr_jax.image import io  # noqa: E402
from ssr_jax.runtime import Restorer, spread  # noqa: E402
from ssr_jax.systems.base import Output, System  # noqa: E402
from tests.runtime import standins  # noqa: E402

K = 5


@dataclasses.dataclass(frozen=True)
class Plan(standins.Plan):
  given: tuple = ()


class Net(System):
  """Two convolutions, a view of the whole image that they depend on, noise, kernels that may be given, two passes."""

  name = 'net'
  outputs = (Output('kernels', 'kernels', 'kernels'), Output('image', 'image', 'result'))
  Options = standins.Options
  accepts = ('kernels',)

  def required(self, config, modules, options):
    return ('net',)

  def plan(self, config, modules, options):
    return Plan(parts=('net',))

  def view_size(self, modules, plan):
    return (8, 8)

  def passes(self, plan):
    return 2

  def prepare(self, modules, variables, view, plan):
    return {'tone': jnp.tanh(_conv(view, variables['net']['first'])).mean((1, 2))}

  def advance(self, modules, variables, context, view, plan):
    return {'tone': (context['tone'] + jnp.tanh(_conv(view, variables['net']['first'])).mean((1, 2))) / 2}

  def restore(self, modules, variables, lr, window, context, noise, plan, last=True, given=None):
    _, h, w, _ = lr.shape
    features = jax.nn.gelu(_conv(lr, variables['net']['first']))
    if context is not None:
      features = features * (1 + context['tone'][:, None, None])
    kernels = given['kernels'] if given else jax.nn.softmax(_conv(features, variables['net']['kernels']))
    drawn, _ = noise.window((h, w, 3), h)
    place = (window.origin / window.size).sum()
    lr = lr + 0.1 * jnp.tanh(_conv(features, variables['net']['last'])) + 0.05 * drawn + 0.01 * place
    image = (lr + kernels.std(-1, keepdims=True)).repeat(4, 1).repeat(4, 2)
    return {'image': image, 'kernels': kernels} if last else {'view': image}


def _conv(x, weights):
  return jax.lax.conv_general_dilated(x, weights, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def model(devices):
  draw = np.random.default_rng(0).standard_normal
  shapes = {'first': (3, 3, 3, 16), 'kernels': (3, 3, 16, K * K), 'last': (3, 3, 16, 3)}
  net = {name: draw(shape).astype(np.float32) / np.sqrt(np.prod(shape[:3])) for name, shape in shapes.items()}
  config = {'name': 'net', 'scale': 4, 'parts': {'net': {'sha256': ''}}}
  return Restorer(Net(), config, jax.device_put({'net': net}), {'net': None}, devices=spread.local(devices))


def photo(h, w, top=0):
  return np.ascontiguousarray(data.chelsea()[top : top + h, 40 : 40 + w])


@contextlib.contextmanager
def spied():
  """[[tiles, devices that have a result of each]] of every group that runs."""
  groups, call = [], spread.Spread.__call__

  def spy(self, tiles, *rest, **more):
    found = call(self, tiles, *rest, **more)
    groups.append([sorted({d.id for x in one.values() for d in x.devices()}) for one in found])
    return found

  spread.Spread.__call__ = spy
  try:
    yield groups
  finally:
    spread.Spread.__call__ = call


def compared(run, model=model):
  """Runs on one device and on all: whether the arrays are equal to the bit, and the groups of tiles on all."""
  with spied() as none:
    one = run(model(1))
  assert not none
  several = model(None)
  with spied() as groups:
    many = run(several)
  same = all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(one, many, strict=True))
  varied = all(np.ptp(x.astype(np.float32)) > 0 for x in one)
  return {'same': bool(same), 'varied': bool(varied), 'groups': groups, 'traces': dict(several.traces)}


def arrays(result):
  return [result.image, *(x for x in result.outputs.values() if x is not None)]


def tiles(restorer):
  ticks = []
  result = restorer.sample(photo(150, 130), seed=3, tile=64, progress=lambda *n: ticks.append(n), keep_defocus=0.5)
  assert ticks == [(i + 1, len(ticks)) for i in range(len(ticks))] and len(ticks) % 3 == 0
  again = np.concatenate([band['image'] for band in restorer.stream(photo(150, 130), seed=3, tile=64)])
  plain = restorer.sample(photo(150, 130), seed=3, tile=64)
  np.testing.assert_array_equal(again, plain.image)
  return [*arrays(result), *arrays(plain)]


def batch(restorer):
  return arrays(restorer.sample(np.stack([photo(20, 28, 5 * i) for i in range(11)]), seed=range(11)))


def together(restorer):
  """Two size classes, an image in tiles, another's kernels, and a call that is wrong."""
  known = np.broadcast_to(np.arange(K * K, dtype=np.float32) / np.arange(K * K).sum(), (30, 20, K * K))
  calls = [(photo(20 + i, 28, 5 * i), {'seed': i}) for i in range(4)]
  calls += [(photo(40, 40), {}), (photo(70, 70), {'tile': 64}), (photo(30, 20), {'given': {'kernels': known}})]
  calls += [(np.full((9, 9, 3), 7.0), {}), (photo(9, 9), {'scale': 2.5})]
  found = []
  for i, result in enumerate(restorer.together(calls)):
    try:
      found += arrays(result())
    except ssr_jax.SSRError as error:
      assert i == 7 and 'must lie in [0, 1]' in str(error), error
  return found


def files(folder, restorers):
  """`ssr upscale` of a folder of mixed sizes, one of them transparent, one animated, one damaged."""
  source = folder / 'photos'
  source.mkdir()
  sizes = [(20, 28), (32, 32), (40, 33), (17, 31), (150, 70), (9, 30), (30, 9)]
  for i, size in enumerate(sizes):
    Image.fromarray(photo(*size, 7 * i)).save(source / f'{i}.png')
  (source / '3b.png').write_bytes(b'damaged')
  Image.fromarray(np.dstack([photo(20, 20), photo(20, 20)[..., 0]])).save(source / '7.png')
  moving = [Image.fromarray(photo(16, 16, 9 * i)) for i in range(10)]
  moving[0].save(source / '8.png', save_all=True, append_images=moving[1:], duration=40)
  runtime.load = lambda name, *, dtype, devices: restorers.setdefault(devices, model(devices))
  found, codes, lines = {}, [], iolib.StringIO()
  for devices in (1, None, 3):
    out = folder / f'out{devices}'
    chosen = () if devices is None else ('--devices', str(devices))
    command = ['upscale', source, '-o', out, '--tile', 64, '--frames', '--jobs', 2, '--no-metadata', *chosen]
    with spied() as groups, contextlib.redirect_stdout(lines), contextlib.redirect_stderr(lines):
      codes.append(cli.main([str(word) for word in command]))
    found[devices] = {path.name: path.read_bytes() for path in out.iterdir()}, groups
  (one, none), (eight, groups), (three, fewer) = found.values()
  assert len(one) == 9 and not none, (lines.getvalue(), len(none))
  return {'same': one == eight == three, 'codes': codes, 'groups': groups, 'fewer': fewer, 'says': lines.getvalue()}


def small_memory():
  """The device's memory does not suffice for the images that run together: each runs again, in tiles of 128."""
  several, jobs = model(None), [upscaling.Job(pathlib.Path(f'{i}'), pathlib.Path(f'{i}.png')) for i in range(3)]
  call, asked = several.together, []
  broken = lambda: (_ for _ in ()).throw(RuntimeError('RESOURCE_EXHAUSTED: out of memory'))
  object.__setattr__(several, 'together', lambda calls: asked.append(len(calls)) or [broken] * len(calls))
  upscaler = upscaling.Upscaler(several, upscaling.Settings(), {}, None)
  upscaler.read = lambda job: upscaling.Work(job, io.Picture(photo(150, 40)), (600, 160), {}, False)
  upscaler.write = lambda work: None
  works: list[Any] = [work for _, work in upscaling.run(upscaler, jobs, 1, lambda *_: None, several.at_once)]
  object.__setattr__(several, 'together', call)
  wanted = several.sample(photo(150, 40), tile=128).image
  same = [bool(np.array_equal(work.result.image, wanted)) for work in works]
  return {'asked': asked, 'same': same, 'tile': upscaler.options['tile'], 'notes': [work.notes for work in works]}


def evaluated(folder):
  """Rows of an evaluation with failures, of two seeds, with columns that share estimates."""
  for name in ('hr', 'lr'):
    (folder / name).mkdir()
  for i, (h, w) in enumerate([(20, 28), (32, 32), (40, 33), (17, 31), (200, 40), (9, 30), (30, 9), (30, 30), (31, 30)]):
    hr = Image.fromarray(photo(4 * h if h < 75 else 300, 4 * w))
    hr.save(folder / 'hr' / f'{i}.png')
    small = (hr.width // 4, hr.height // 4) if i != 6 else (5, 5)
    hr.resize(small, Image.Resampling.BICUBIC).save(folder / 'lr' / f'{i}.png')
  columns = ('bicubic', 'result', 'result+kernels=mean', 'result+kernels=x2')
  dataset = f'paired:{folder / "hr"},{folder / "lr"}'
  settings = Settings(dataset, columns, ('psnr',), {}, (), 'net', seeds=(0, 1), pictures=3, sampling={'tile': 64})
  reports, spies = [], []
  for devices in (1, None):
    with spied() as groups:
      reports.append(runner.evaluate(settings, folder / f'run{devices}', model(devices)))
    spies.append(groups)
  bare = lambda report: [{**row, 'seconds': 0} for row in report.rows]
  pictures = [{p.name: p.read_bytes() for p in (folder / f'run{d}' / 'pictures').glob('*.png')} for d in (1, None)]
  one, many = reports
  positive = all(row['seconds'] > 0 for row in many.rows)
  return {
    'same': bare(one) == bare(many) and one.failures == many.failures and pictures[0] == pictures[1],
    'rows': len(many.rows),
    'failures': len(many.failures),
    'pictures': len(pictures[0]),
    'positive': positive,
    'says': [report.protocol['model'] for report in reports],
    'none': len(spies[0]),
    'groups': spies[1],
  }


def loaded(directory):
  """What `load` and `sample` make of `devices`."""
  counts = {str(n): len(ssr_jax.load(directory, devices=n).devices) for n in (None, 1, 3)}
  with jax.default_device(jax.devices()[2]):
    counts['named'] = len(ssr_jax.load(directory).devices)
  errors = []
  several = ssr_jax.load(directory, devices=3)
  for call in (
    lambda: ssr_jax.load(directory, devices=9),
    lambda: ssr_jax.load(directory, devices=0),
    lambda: ssr_jax.load(directory, devices='2'),  # pyright: ignore[reportArgumentType]
    lambda: ssr_jax.sample(photo(9, 9), several, devices=2),
  ):
    try:
      call()
    except ssr_jax.SSRError as error:
      errors.append(str(error))
  return {'counts': counts, 'errors': errors}


def whole(directory):
  """Images of one tile, with diffusion, of the model that is loaded."""
  batch = np.stack([photo(20, 28, 40 * i) for i in range(3)])
  run = lambda restorer: arrays(restorer.sample(batch, seed=[3, 4, 5]))
  return compared(run, lambda devices: ssr_jax.load(directory, devices=devices))


def main(directory, folder=None):
  """Prints the JSON object."""
  if folder is None:
    print(json.dumps(whole(directory)))
    return
  folder = pathlib.Path(folder)
  found = {'loaded': loaded(directory)}
  found |= {run.__name__: compared(run) for run in (tiles, batch, together)}
  found |= {'memory': small_memory(), 'evaluated': evaluated(folder), 'files': files(folder, {})}
  print(json.dumps(found))


if __name__ == '__main__':
  assert os.environ.get('JAX_PLATFORMS', 'cpu') == 'cpu'
  main(*sys.argv[1:])

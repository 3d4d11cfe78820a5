"""The floor rule of CONTRIBUTING, over every file; and that `import ssr_jax` stays light."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# A file imports only from lower floors, and from its own folder.
FLOORS = {
  'types': -1,
  'xla': -1,
  'image': 0,  # types and xla are the ground that everything stands on
  'degrade': 1,
  'nn': 1,
  'diffusion': 1,
  'systems': 2,
  'metrics': 2,  # LPIPS is a network
  'weights': 3,
  'data': 3,
  'runtime': 4,
  'training': 4,
  'evaluation': 5,
  'cli': 6,
  'app': 7,
}
FILES = sorted((ROOT / 'ssr_jax').rglob('*.py'))
SCRIPTS = sorted([*ROOT.glob('*.py'), *(ROOT / 'tools').glob('*.py')])


def _imports(path: pathlib.Path, roots: tuple[str, ...]) -> set[str]:
  """Dotted names below `roots` that a file imports anywhere, also inside functions."""
  return _imports_of(ast.parse(path.read_text()), roots)


def _imports_of(code: ast.Module, roots: tuple[str, ...]) -> set[str]:
  found = set()
  for node in ast.walk(code):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'relative import'
      found |= {f'{node.module}.{alias.name}' for alias in node.names}
  return {name for name in found if name.split('.')[0] in roots}


def _room(path: pathlib.Path) -> str:
  """'ssr_jax/image/blur.py' -> 'image', 'ssr_jax/xla.py' -> 'xla'."""
  return path.relative_to(ROOT / 'ssr_jax').parts[0].removesuffix('.py')


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_import_from_lower_floors_only(path):
  if path == ROOT / 'ssr_jax' / '__init__.py':
    # Names are imported when they are used; type checkers see them under TYPE_CHECKING.
    code = ast.parse(path.read_text())
    code.body = [node for node in code.body if not isinstance(node, ast.If)]
    assert _imports_of(code, ('ssr_jax',)) == set()
    return
  room = _room(path)
  assert room in FLOORS, f'{room} has no floor yet: add it here and to CONTRIBUTING'
  for name in _imports(path, ('ssr_jax', 'configs', 'train', 'evaluate', 'tools')):
    if name == 'ssr_jax' and FLOORS[room] >= FLOORS['cli']:  # the public face
      continue
    assert name.startswith('ssr_jax.'), f'{path} imports {name}, which lies above it'
    other = name.split('.')[1]
    assert other == room or FLOORS[other] < FLOORS[room], f'{path} (floor {FLOORS[room]}) imports {name}'


CONFIGS = sorted((ROOT / 'configs').rglob('*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_configs_know_nothing_of_the_package_but_the_systems_names_and_sizes(path):
  names = _imports(path, ('ssr_jax', 'configs', 'train', 'evaluate', 'tools'))
  known = {'configs.common', 'ssr_jax.types.SSRError'}  # the one error that a user sees
  if path == ROOT / 'configs' / 'common.py':
    known |= {'ssr_jax.systems', 'ssr_jax.cli.scripts.run'}  # the latter only scripts call
  shared = re.compile(r'configs\.\w+\.base|ssr_jax\.systems\.\w+\.sizes\.SIZES')
  assert {name for name in names if not shared.fullmatch(name)} <= known


SIZES = sorted((ROOT / 'ssr_jax' / 'systems').glob('*/sizes.py'))


@pytest.mark.parametrize('path', SIZES, ids=lambda p: p.parent.name)
def test_sizes_are_plain_values(path):
  nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
  others = {f'ssr_jax.systems.{file.parent.name}.sizes' for file in SIZES}
  assert {getattr(node, 'module', None) for node in nodes} <= {'typing', 'collections.abc', *others}


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda p: p.name)
def test_scripts_do_not_import_each_other(path):
  allowed = {'tools.attacks'} if path.name == 'fuzz.py' else set()  # its own package
  assert _imports(path, ('train', 'evaluate', 'tools')) == allowed


def test_importing_the_package_is_light():
  code = (
    'import sys, time; start = time.perf_counter(); import ssr_jax; took = time.perf_counter() - start\n'
    'heavy = [m for m in ("grain", "tensorflow_datasets", "orbax", "jax", "flax") if m in sys.modules]\n'
    'assert took < 2.5, took\n'
    'assert not heavy, heavy\n'
    'start = time.perf_counter(); ssr_jax.sample; ssr_jax.load\n'
    'heavy = [m for m in ("grain", "tensorflow_datasets", "orbax", "optax", "tensorflow") if m in sys.modules]\n'
    'assert not heavy, heavy\n'
  )
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


def test_public_names_are_there():
  import ssr_jax

  for name in ssr_jax.__all__:
    assert getattr(ssr_jax, name) is not None and name in dir(ssr_jax)
  with pytest.raises(AttributeError, match='nosuch'):
    ssr_jax.nosuch

"""What README and docs/ tell a reader to type works: commands exist with these options, links lead somewhere.

Commands of the guides for users run, with small photos and the bundled model, and those for researchers at a tiny size,
in the slow tests at the end. Those for TPU pods, whole data sets and downloads are checked by their programs' parsers.
"""

import ast
import contextlib
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

from PIL import Image
import pytest
import skimage.data

from ssr_jax import cli
from ssr_jax.cli import scripts, train

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'docs').glob('*.md')])
TARGETS = set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.M)) | set(
  re.search(r'^TABLES := (.*)$', (ROOT / 'Makefile').read_text(), re.M)[1].split()
)
PLACEHOLDERS = {'STAGE': 'nbsr', 'MODEL': 'compact'}


def _ids(path):
  return str(path.relative_to(ROOT))


def _blocks(path: pathlib.Path) -> list[tuple[str, str]]:
  """(language, text) of a document's code blocks; those that are indented have no language."""
  text = path.read_text()
  found = [(language, code) for language, code in re.findall(r'^```(\w*)\n(.*?)^```', text, re.S | re.M)]
  text = re.sub(r'^```.*?^```', '', text, flags=re.S | re.M)
  for block in re.findall(r'(?:(?<=\n\n)|\A)((?: {4}.*\n(?:\n(?= {4}))?)+)', text):
    found.append(('', ''.join(line[4:] + '\n' for line in block.splitlines())))
  return found


def _commands(path: pathlib.Path) -> list[list[str]]:
  """The commands of a document's code blocks, as words, without their comments."""
  commands = []
  for language, text in _blocks(path):
    if language in ('python', 'toml', 'json', 'mermaid'):
      continue
    text = re.sub(r'\\\n\s*', ' ', text)
    text = re.sub(r"<<'?(\w+)'?\n.*?^\1$", '', text, flags=re.S | re.M)  # what a shell passes on
    text = re.sub(r'python -c "\n.*?"$', '', text, flags=re.S | re.M)
    for line in text.splitlines():
      for part in re.split(r'&&|;\s(?=[a-z])|\|\s', re.sub(r'\s#.*', '', line)):
        with contextlib.suppress(ValueError):  # a quote that a line does not close
          if words := shlex.split(part):
            commands.append(words)
  return commands


def _program(words: list[str]) -> list[str]:
  """Words from the program on: without variables that are set for it."""
  while words and re.fullmatch(r'[A-Z_]+=.*', words[0]):
    words = words[1:]
  return words[words[0] in ('time', '/usr/bin/time') :] if words else []


@pytest.mark.parametrize('path', DOCUMENTS, ids=_ids)
def test_links_lead_somewhere(path):
  for target in re.findall(r'\]\(([^)\s]+)\)', re.sub(r'^```.*?^```', '', path.read_text(), flags=re.S | re.M)):
    if re.match(r'[a-z]+://', target):
      continue
    name, _, anchor = target.partition('#')
    file = (path.parent / name) if name else path
    assert file.exists(), target
    if anchor:
      headings = re.findall(r'^#+ (.*)$', file.read_text(), re.M)
      assert anchor in [_anchor(heading) for heading in headings], target


def _anchor(heading: str) -> str:
  """What GitHub makes of a heading; mkdocs joins neighbouring hyphens, so a heading with some cannot be linked to."""
  github = re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-')
  return github if github == re.sub('-+', '-', github).strip('-') else ''


# Those of add-a-system.md run in tests/systems/test_add_a_system.py.
@pytest.mark.parametrize('path', [path for path in DOCUMENTS if path.name != 'add-a-system.md'], ids=_ids)
def test_commands_exist_and_take_these_options(path, monkeypatch):
  monkeypatch.chdir(ROOT)
  seen = 0
  for words in map(_program, _commands(path)):
    seen += bool(words) and _checked(words)
  assert seen or 'ssr ' not in ''.join(text for _, text in _blocks(path))


def _checked(words: list[str]) -> bool:
  """Checks a command of this project; False for one of others."""
  line = ' '.join(words)
  if words[0] == 'make' and '=' not in words[0]:
    assert {w for w in words[1:] if '=' not in w and w.isascii() and not w.startswith('-')} <= TARGETS, line
    return True
  script = words[1] if words[0] in ('python', 'python3') and len(words) > 1 else ''
  if words[0] in ('ssr', 'ssr-jax') and len(words) > 1 and words[1] in ('train', 'evaluate'):
    _check_config(words[2:], line)
    return True
  if script in ('train.py', 'evaluate.py'):
    _check_config(words[2:], line)
    return True
  if words[0] in ('ssr', 'ssr-jax'):
    words = [word for word in words[1:] if word not in ('>', '2>')]
    try:
      cli.parser().parse_args(words)
    except SystemExit as stop:
      assert stop.code in (0, None), f'{line}: see the error above'
    return True
  if script.startswith('tools/'):
    text = (ROOT / script).read_text()
    for option in re.findall(r'(?<=\s)--([a-z-]+)', ' ' + line):
      known = f"'--{option}'" in text or f'{option.replace("-", "_")}:' in text or f"'{option}'" in text
      assert known or option == 'config', f'{line}: {script} has no --{option}'
    return True
  return False


def _check_config(words: list[str], line: str) -> None:
  """The config is there, has the stage, and has every field that is set."""
  words = [re.sub('|'.join(rf'\b{name}\b' for name in PLACEHOLDERS), lambda m: PLACEHOLDERS[m[0]], w) for w in words]
  given = [scripts._located(word) for word in words if word.startswith('--')]
  if not any(word.startswith('--config=') for word in given):
    assert '...' in line or '$' in line or '--help' in line, line
    return
  assert scripts._complaint(['program', *given]) is None, line


def test_the_check_of_commands_notices_what_does_not_exist(monkeypatch):
  monkeypatch.chdir(ROOT)
  for line in (
    'make nosuch',
    'ssr upscale a.png -o b.png --nosuch',
    'ssr nosuch',
    'ssr train --config=configs/compact.py:nosuch',
    'ssr train --config=configs/compact.py:nbsr --config.train.nosuch=1',
    'python tools/crops.py LR --nosuch',
    'python tools/nosuch.py',
  ):
    with pytest.raises((AssertionError, FileNotFoundError)):
      _checked(shlex.split(line))
  assert _blocks(ROOT / 'README.md')[0][0] in ('', 'python')
  assert ['ssr', 'weights', 'verify'] in _commands(ROOT / 'README.md')
  assert train.__doc__


@pytest.mark.parametrize('path', DOCUMENTS, ids=_ids)
def test_python_blocks_are_python(path):
  for language, text in _blocks(path):
    if language == 'python':
      ast.parse(text)


USERS = ('README.md', 'docs/upscale.md', 'docs/figures.md')
NOT_RUN = (
  'make',  # this is `make`
  'pip',
  'hf',
  'ssr app',  # tests/app
  'ssr weights import',  # tests/weights; needs files of others
)


@pytest.mark.slow
@pytest.mark.parametrize('name', USERS)
def test_what_the_guides_for_users_say_runs(name, tmp_path, monkeypatch, capfd):
  """In order, in a folder with photos of these names; every command ends with 0."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('SSR_WEIGHTS', str(tmp_path / 'home'))
  photo = skimage.data.astronaut()
  Image.fromarray(photo[:16, :16]).save('moving.gif', save_all=True, append_images=[Image.fromarray(photo[-16:, :16])])
  for file in ('photo.jpg', 'scan.tif', 'photos/b.jpg', 'more/a.png', 'hr/c.png'):
    pathlib.Path(file).parent.mkdir(exist_ok=True)
    size = 128 if file.startswith('hr') else 32
    Image.fromarray(photo[100 : 100 + size, 200 : 200 + size]).resize((size, size)).save(file)
  pathlib.Path('out').mkdir()
  shutil.copytree(ROOT / 'ssr_jax' / 'weights' / 'bundled', 'home/x4plus')
  ran = 0
  for words in map(_program, _commands(ROOT / name)):
    line = ' '.join(words)
    if words[:1] != ['ssr'] or line.startswith(NOT_RUN) or words[1] in ('train', 'evaluate'):
      continue
    words = [{'120,80': '12,8', '3840x2160': '120x68'}.get(word, word) for word in words[1:]]  # the photos are small
    if words[0] in ('upscale', 'inspect') and '--skip-existing' not in words:
      words.append('--overwrite')
    if words[:2] == ['metrics', 'hr/']:
      shutil.rmtree('out')
      shutil.copytree('hr', 'out')
    code = cli.main(words)
    assert code == 0, f'{line}: {capfd.readouterr().err}'
    ran += 1
  assert ran >= 3


RESEARCHERS = {
  # document: (lines that are not run, and why there is no file for them here; how many are)
  'docs/train.md': (('ssr data check div2k-train', 'ssr data list'), 7),  # names a set that is not here; --root DIR
  'docs/evaluation.md': ((), 1),
  'docs/weights.md': (
    ('ssr weights import', 'ssr weights verify', 'ssr upscale', 'ssr export-onnx compact compact.onnx'),
    2,
  ),
}
SMALLER = {
  '--config=configs/compact.py:STAGE': ['--config=configs/tiny.py:nbsr', '--config.parts_from=none'],
  '128': ['32'],
  '192x128': ['32'],
}


@pytest.mark.slow
@pytest.mark.parametrize('name', RESEARCHERS)
def test_what_the_guides_for_researchers_say_runs(name, tmp_path, monkeypatch):
  """As a program each, with photos of 128x128 in the folders that they name, one step of training, one image."""
  left_out, wanted = RESEARCHERS[name]
  photo = skimage.data.astronaut()
  for folder, count in (('PHOTOS', 3), ('HR_DIR', 1)):
    (tmp_path / folder).mkdir()
    for i in range(count):
      Image.fromarray(photo[100 * i : 100 * i + 128, 200:328]).save(tmp_path / folder / f'{i}.png')
  Image.fromarray(photo[:128, 200:328]).save(tmp_path / 'photo.jpg')
  environment = os.environ | {'SSR_WEIGHTS': str(tmp_path / 'home'), 'PYTHONPATH': str(ROOT)}
  short = {'train': ['--config.train.steps=1', '--config.data.patch=32', '--config.train.batch_size=2']}
  ran = 0
  for words in map(_program, _commands(ROOT / name)):
    line = ' '.join(words)
    if words[:1] != ['ssr'] or line.startswith(left_out):
      continue
    smaller = [small for word in words[1:] for small in SMALLER.get(word, [word])] + short.get(words[1], [])
    command = [sys.executable, '-m', 'ssr_jax.cli', *smaller]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f'{line}: {done.stderr}'
    ran += 1
  assert ran == wanted


@pytest.mark.slow
@pytest.mark.parametrize('name', USERS)
def test_the_python_of_the_guides_for_users_runs(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  Image.fromarray(skimage.data.astronaut()[100:132, 200:232]).save('photo.jpg')
  shutil.copytree(ROOT / 'ssr_jax' / 'weights' / 'bundled', 'path/to/a/model')
  names: dict = {}
  for language, text in _blocks(ROOT / name):
    if language == 'python':
      exec(compile(text, name, 'exec'), names)
  assert 'ssr_jax' in sys.modules

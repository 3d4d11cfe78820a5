"""Programs that a config describes, `train` and `evaluate`: their arguments, the package's configs, errors in one line.

The configs lie beside the package in a clone of the repository, and within it where a wheel was installed. They import
each other as `configs`, which is made importable here.
"""

from collections.abc import Callable, Mapping
import difflib
import importlib.util
import os
import pathlib
import sys
from typing import NoReturn

from ssr_jax.cli import terminal
from ssr_jax.types import SSRError

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent


def configs_folder() -> pathlib.Path:
  """The folder that holds `configs`: of the wheel (setup.py puts them there), else of the clone."""
  installed = _PACKAGE / 'installed'
  return installed if installed.is_dir() else _PACKAGE.parent


def _located(argument: str) -> str:
  """--config=PLACE with the path of the package's own config, where the working directory has none of that name."""
  name, _, value = argument.partition('=')
  place, colon, stage = value.partition(':')
  if name == '--config' and not pathlib.Path(place).exists() and (configs_folder() / place).is_file():
    return f'--config={configs_folder() / place}{colon}{stage}'
  return argument


def _make_importable() -> None:
  """Puts the folder of `configs` on the path, unless they can be imported already."""
  try:
    found = importlib.util.find_spec('configs.common') is not None
  except ImportError:
    found = False
  if not found and str(configs_folder()) not in sys.path:
    sys.path.insert(0, str(configs_folder()))
    sys.modules.pop('configs', None)  # another package of this name


def run(
  main: Callable[..., int | None],
  doc: str,
  argv: list[str] | None = None,
  options: Mapping[str, str | bool | None] | None = None,
) -> NoReturn:
  """Parses --config and other options, runs `main(config, **options)` and exits.

  A wrong config file, stage, field or value prints one line with the known ones to stderr and exits with 2; an
  `SSRError` from `main` prints its line and exits with 1. Ctrl-C at any moment exits with 130, as in the command `ssr`.

  Args:
    main: the program; returns the exit code, None meaning 0.
    doc: printed by --help.
    argv: the arguments; default sys.argv.
    options: {name: default}, strings and booleans; None for a required one. Default: --workdir, required.
  """
  argv = list(sys.argv if argv is None else argv)
  program = os.path.basename(argv[0])
  terminal.leave(
    terminal.run(program, lambda: parsed(main, doc, argv, {'workdir': None} if options is None else options))
  )


def parsed(main: Callable[..., int | None], doc: str, argv: list[str], options: Mapping[str, str | bool | None]) -> int:
  """`run` without its surroundings, for a command of `ssr`; returns the exit code."""
  _make_importable()
  from absl import flags
  from ml_collections import config_flags

  if '--config' in argv[:-1]:
    i = argv.index('--config')
    argv[i : i + 2] = [f'--config={argv[i + 1]}']
  argv = [_located(argument) for argument in argv]
  values = flags.FlagValues()
  config_flags.DEFINE_config_file(
    'config', None, 'The config: FILE.py:STAGE.', lock_config=True, flag_values=values, sys_argv=argv
  )
  for name, default in options.items():
    if isinstance(default, bool):
      flags.DEFINE_boolean(name, default, '', flag_values=values)
    else:
      flags.DEFINE_string(name, default, '', flag_values=values)

  def fail(code: int, line: str) -> int:
    print(f'error: {line}', file=sys.stderr)
    return code

  if {'-h', '--help'} & set(argv[1:]):
    print(doc.strip())
    return 0
  complaint = _complaint(argv)
  if complaint:
    return fail(2, complaint)
  argv = [_quoted(argument) for argument in argv]
  try:
    rest = values(argv)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    return fail(2, ' '.join(str(error).split()))
  if len(rest) > 1:
    return fail(2, f'unexpected argument {rest[1]!r}; every option reads --name=value')
  for name in ('config', *options):
    if values[name].value is None:
      return fail(2, f'--{name} is missing; see --help')

  try:
    return main(values['config'].value, **{name: values[name].value for name in options}) or 0
  except SSRError as error:
    return fail(1, str(error))


def _quoted(argument: str) -> str:
  """An argument as ml_collections takes it: it would read the directories in 'bicubic,DIR:restored' as Python."""
  name, _, value = argument.partition('=')
  if name != '--config.eval.models' or value.lstrip()[:1] in ('(', '[', '"', "'"):
    return argument
  return f'{name}={value!r}'


def _complaint(argv: list[str]) -> str | None:
  """One line about an error in the config file, its stage or the fields on the command line; None if there is none.

  ml_collections reports the same errors, but over several lines and without the known names.
  """
  from ml_collections import ConfigDict

  given = [a.partition('=')[2] for a in argv[1:] if a.startswith('--config=')]
  if not given:
    return None
  place, _, stage = given[-1].partition(':')
  if not pathlib.Path(place).is_file():
    return f'--config={place}: no such file; configs are in configs/'
  spec = importlib.util.spec_from_file_location('_config_to_check', place)
  if spec is None or spec.loader is None:
    return f'--config={place}: no Python file; configs end in .py'
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  try:
    config = module.get_config(stage)
  except ValueError as error:
    return f'--config={given[-1]}: {error}'

  for argument in argv[1:]:
    if not argument.startswith('--config.'):
      continue
    node, walked = config, 'config'
    for name in argument[len('--config.') :].split('=')[0].split('.'):
      if not isinstance(node, ConfigDict) or name not in node:
        known = sorted(node) if isinstance(node, ConfigDict) else []
        close = difflib.get_close_matches(name, known, 1)
        hint = f'; did you mean {close[0]!r}?' if close else ';'
        return f'{walked} has no field {name!r}{hint} known: {", ".join(known) or "none, it is a value"}'
      node, walked = node[name], f'{walked}.{name}'
  return None

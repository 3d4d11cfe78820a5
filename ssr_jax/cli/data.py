"""`ssr data`: lists, checks and packs image sets."""

import argparse
import pathlib
from typing import Any

from ssr_jax.cli import console
from ssr_jax.types import SSRError


def add(commands: Any, common: argparse.ArgumentParser) -> None:
  """Adds `data` and its actions to the parsers of `ssr`; `common` has the options of all commands."""
  data = commands.add_parser('data', help='list, check and pack image sets')
  actions = data.add_subparsers(title='actions', required=True, metavar='ACTION')
  root = argparse.ArgumentParser(add_help=False)
  root.add_argument('--root', metavar='DIR', help='folder of the known sets (default: $SSR_DATA, else data)')
  work = argparse.ArgumentParser(add_help=False)
  work.add_argument('--workers', type=int, metavar='N', help='threads (default: one for each core)')
  work.add_argument('-q', '--quiet', action='store_true', help='no progress bar')
  source = (
    "a source such as folder:DIR; paired:HR_DIR,LR_DIR; rgbd:DIR; tfds:NAME; array_record:GLOB; join several with ';'"
  )

  ready = actions.add_parser(
    'list',
    parents=[common, root],
    help='list the known sets: contents, count, place',
    description='Lists the sets that are known by name, where each is expected below the root, and how much is there.',
  )
  ready.set_defaults(command=_list)
  check = actions.add_parser(
    'check',
    parents=[common, root, work],
    help='find unreadable, small, duplicate and missing images',
    description='Decodes every image; lists those that are unreadable, too small, or the same as an earlier one. '
    'For a set that is known by name, it also says what is missing.',
  )
  check.add_argument('source', metavar='SRC', help=f'{source}; or the name of a known set')
  check.add_argument('--min-side', type=int, default=0, metavar='N', help='smallest side of an image (default: any)')
  check.set_defaults(command=_check)
  pack = actions.add_parser(
    'pack',
    parents=[common, work],
    help='write ArrayRecord shards',
    description='Packs image files, byte for byte, into ArrayRecord shards with a manifest of sha256. After an '
    'interruption, the same command continues. Files that cannot be read are left out and listed.',
  )
  pack.add_argument('source', metavar='SRC', help=source)
  pack.add_argument('dest', metavar='DEST', help='a folder; with --tfds, the tfds data directory')
  pack.add_argument('--tfds', metavar='NAME', help="make a tfds set, which 'tfds:NAME' reads without TensorFlow")
  pack.add_argument('--split', default='train', metavar='NAME', help='split of the tfds set (default: train)')
  pack.add_argument('--shard-records', type=int, default=128, metavar='N', help='records per shard (default: 128)')
  pack.set_defaults(command=_pack)


def _list(arguments: argparse.Namespace) -> int:
  from ssr_jax.data import catalog, check

  root = catalog.root_of(arguments.root)
  print(f'{"set":20}{"count":>6}  {"found":14}contents')
  for name, definition in catalog.DEFINITIONS.items():
    status = check.status(name, root)
    found = 'complete' if not status.problem else 'absent' if status.place is None else f'{status.found}, incomplete'
    print(f'{name:20}{definition.count:6}  {found:14}{definition.contents}')
    print(f'{"":28}{" or ".join(definition.places)}')
    print(f'{"":28}{definition.url}  (licence: {definition.licence or "see there"})')
  console.tell(f"below {root}; use a set as 'set:NAME'; 'ssr data check NAME' says what it lacks")
  return 0


def _check(arguments: argparse.Namespace) -> int:
  from ssr_jax.data import catalog, check, sources

  problems, spec = 0, arguments.source
  name = spec.removeprefix('set:')
  if ':' not in name:
    if name not in catalog.DEFINITIONS and pathlib.Path(name).is_dir():
      raise SSRError(f"source '{name}': to check a folder, write 'folder:{name}'")
    status = check.status(name, arguments.root)
    if status.problem:
      problems += 1
      console.say(f'{name}: {status.problem}; get it from {status.definition.url}')
    if not status.found or status.place is None:
      return 1
    spec = status.place
  source = sources.from_spec(spec)
  _check_workers(arguments)
  with console.progress_bar(len(source), arguments) as progress:
    found = check.check(source, arguments.min_side, arguments.workers, progress)
  for line in found.problems:
    console.say(line)
  if len(found.sizes):
    (low_h, low_w), (high_h, high_w) = found.sizes.min(0), found.sizes.max(0)
    print(
      f'{found.records} records, {len(found.sizes)} readable, {len(found.problems)} problems; heights {low_h} to '
      f'{high_h}, widths {low_w} to {high_w}'
    )
  return 1 if problems or found.problems else 0


def _pack(arguments: argparse.Namespace) -> int:
  from ssr_jax.data import pack, sources

  _check_workers(arguments)
  total = len(sources.from_spec(arguments.source))
  try:
    with console.progress_bar(total, arguments) as progress:
      done = pack.pack(
        arguments.source,
        arguments.dest,
        tfds_name=arguments.tfds,
        split=arguments.split,
        shard_records=arguments.shard_records,
        workers=arguments.workers,
        progress=progress,
      )
  except pack.WriteError as error:  # not a usage error, which would exit with 2
    return console.say(str(error), 1)
  for line in done.left_out:
    console.say(f'left out {line}')
  console.tell(
    f'{done.records} records, {done.size / 1e6:.1f} MB, {done.shards} shards in {done.directory}'
    + (f', {done.kept} of them from an earlier run' if done.kept else '')
    + (f'; {done.recoded} images stored as PNG' if done.recoded else '')
  )
  console.tell(f"read it as '{done.spec}'" + (f' with TFDS_DATA_DIR={arguments.dest}' if arguments.tfds else ''))
  return 1 if done.left_out else 0


def _check_workers(arguments: argparse.Namespace) -> None:
  if arguments.workers is not None and arguments.workers < 1:
    raise SSRError(f'--workers {arguments.workers}: must be 1 or more')

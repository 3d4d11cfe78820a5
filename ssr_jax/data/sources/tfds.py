"""`tfds:`, sets that were prepared for TensorFlow Datasets in ArrayRecord format, read without TensorFlow."""

import os
import pathlib
import re
from typing import Any

from ssr_jax.data.sources.array_record import ArrayRecord
from ssr_jax.image.opening import first_line
from ssr_jax.types import SSRError


def open_split(place: str) -> ArrayRecord:
  """A split of a prepared set, below $TFDS_DATA_DIR or ~/tensorflow_datasets; the newest version of the set.

  Args:
    place: NAME[/CONFIG][:SPLIT]; the split may have tfds' slices, such as train[:10%]. Without a split it is 'train',
      or the first split of a set that has no 'train'.

  Raises:
    SSRError: the set is not prepared, is in another format, or has no such split.
  """
  name, _, split = place.partition(':')
  root = pathlib.Path(os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')).expanduser()
  versions = [path.parent for path in (root / name).glob('*/dataset_info.json')]
  versions = [path for path in versions if re.fullmatch(r'\d+\.\d+\.\d+', path.name)]
  if not versions:
    raise SSRError(
      f"tfds:{place}: '{name}' is not prepared below {root} (set TFDS_DATA_DIR for another folder). Prepare it, with "
      f"TensorFlow installed: 'tfds build {name} --file_format=array_record --data_dir={root}'; or from images that "
      f"you have, without TensorFlow: 'ssr data pack folder:DIR {root} --tfds {name.replace('/', '_')}'"
    )

  import tensorflow_datasets as tfds

  directory = max(versions, key=lambda path: [int(number) for number in path.name.split('.')])
  builder: Any = tfds.builder_from_directory(directory)
  splits = list(builder.info.splits or ())
  split = split or ('train' if 'train' in splits else next(iter(splits), ''))
  base = split.partition('[')[0]
  if base not in splits:
    raise SSRError(f"tfds:{place}: no split '{base}'; there are {', '.join(splits)}")
  try:
    # Examples stay encoded: `Source` decodes them.
    store = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
  except NotImplementedError as error:
    raise SSRError(
      f'tfds:{place}: {directory} is in the format {builder.info.file_format.value}, which only TensorFlow reads; '
      f"run 'python -m tensorflow_datasets.scripts.cli.main convert_format --root_data_dir={root} "
      f"--out_file_format=array_record'"
    ) from error
  except (ValueError, AssertionError) as error:
    raise SSRError(f'tfds:{place}: {first_line(error)}') from error
  return ArrayRecord(store, f'tfds:{place}')

"""Dimension letters, array aliases and the error that users see.

Letters used in shapes throughout: b batch, h w LR size, H W = s*h, s*w HR size, hl wl latent size, R C resolution of
the depth net, s scale, k kernel side (21), t number of PCA components or time, c channels. Arrays are NHWC; images are
float in [0, 1] at every public boundary.

`Array` is JAX's array, `ArrayLike` one of JAX or NumPy. `AnyArray` is a type variable for the two: a function from
`AnyArray` to `AnyArray` returns the kind of array that it was given.

`Float[ArrayLike, 'b H W 3']` and the like are shapes in annotations. They are jaxtyping's types if the program has
imported jaxtyping, as the tests do to check them at run time. Otherwise they are plain arrays: jaxtyping is not a
dependency.
"""

import sys
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
  from typing import Annotated as Bool
  from typing import Annotated as Float
  from typing import Annotated as Int
  from typing import Annotated as Num

  import jax
  import numpy as np

  Array = jax.Array
  ArrayLike = jax.Array | np.ndarray
  AnyArray = TypeVar('AnyArray', jax.Array, np.ndarray)

__all__ = ['AnyArray', 'Array', 'ArrayLike', 'Bool', 'Float', 'Int', 'Num', 'SSRError', 'one_line']

_SHAPED = ('Bool', 'Float', 'Int', 'Num')


class SSRError(ValueError):
  """An error that the user can correct: one line that names the file or field and says what to do."""

  def __str__(self) -> str:
    return one_line(super().__str__())


def one_line(text: str) -> str:
  r"""Text that is safe to print: a name of a file may hold line breaks, escape codes, and bytes that are not UTF-8.

  Returns:
    the text with such characters as \n, \x1b or \xff.
  """
  return text if text.isprintable() else ''.join(map(_escaped, text))


def _escaped(character: str) -> str:
  if character.isprintable():
    return character
  if '\udc80' <= character <= '\udcff':  # Python's stand-in for a byte of a name that is not UTF-8
    return f'\\x{ord(character) - 0xDC00:02x}'
  return character.encode('unicode_escape').decode()


class _Unchecked:
  """Replaces jaxtyping's types: `_Unchecked[Array, 'b h']` is Array."""

  def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
    return item[0]


def __getattr__(name: str) -> Any:
  # Looked up at use, because the command line shows its help without importing JAX.
  if name in _SHAPED:
    return getattr(sys.modules.get('jaxtyping'), name, _Unchecked)
  if name not in ('AnyArray', 'Array', 'ArrayLike'):
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  import jax
  import numpy as np

  made = {
    'Array': jax.Array,
    'ArrayLike': jax.Array | np.ndarray,
    'AnyArray': TypeVar('AnyArray', jax.Array, np.ndarray),
  }
  return made[name]

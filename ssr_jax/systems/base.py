"""What a system is made of: its parts, what it returns, its options and its training stages.

A system lives in a folder of its own and is known to the rest of the house by its line in `systems/__init__.py`. All
that the floors above need to know of it is what these classes say.
"""

from collections.abc import Callable, Mapping
import dataclasses
import importlib
from typing import Any

from ssr_jax.types import SSRError

Tree = Any


@dataclasses.dataclass(frozen=True)
class Part:
  """A network of a system that is trained, stored and loaded by itself.

  Attributes:
    families: {family: 'module:Class'}; the first one is what a config without the field 'family' means.
    example: module -> arguments that initialise it, zeros of small sizes; shapes of variables do not depend on them.
    optional: prefixes of variables, such as 'params/heads/', that only training uses; a file may leave them out.
  """

  families: Mapping[str, str]
  example: Callable[[Any], tuple[Any, ...]]
  optional: tuple[str, ...] = ()

  def build(self, name: str, family: str | None = None, **config: Any) -> Any:
    """Makes the Flax module.

    Args:
      name: of the part, for messages.
      family: which network; None takes the first.
      **config: the module's attributes; lists become tuples, so that values read from JSON work.

    Raises:
      SSRError: an unknown family or attribute; the message lists the known ones.
    """
    family = next(iter(self.families)) if family is None else family
    if family not in self.families:
      raise SSRError(f'{name}: unknown family {family!r}; known: {", ".join(self.families)}')
    module, _, cls = self.families[family].partition(':')
    cls = getattr(importlib.import_module(module), cls)
    known = [field.name for field in dataclasses.fields(cls) if field.name not in ('parent', 'name')]
    unknown = [field for field in config if field not in known]
    if unknown:
      raise SSRError(f'{name}: unknown field {unknown[0]!r}; known: {", ".join(known)}')
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})

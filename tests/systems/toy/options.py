"""What a caller may choose of the toy's sampling. Imports nothing heavy: the command line reads it at its start."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of `sample`; None takes the model's own.

  Attributes:
    amount: share of the residual that is added, 0 to 1.
  """

  amount: float | None = dataclasses.field(
    default=None, metadata={'help': "how much of the residual to add, 0 to 1 (default: the model's)", 'metavar': 'A'}
  )

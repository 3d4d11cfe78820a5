"""Options of ESRGAN's sampling: there is nothing to choose."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
  """No options: the network has no steps, no noise and no conditions."""

"""`python -m ssr_jax.cli`: the command `ssr`."""

import sys

from ssr_jax import cli

sys.exit(cli.main())

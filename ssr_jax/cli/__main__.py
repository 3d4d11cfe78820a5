"""`python -m ssr_jax.cli`: the command `ssr`."""

from ssr_jax import cli

cli.run()

"""Trains one stage of a system.

  python train.py --config=configs/compact.py:STAGE --workdir=DIR [--config.path.to.field=value ...]

SSR's stages: depth, kernel, nbsr, svkr, vae, diffusion, distill. The same command continues a stopped run from its last
checkpoint, with the same result as without the stop. It writes to DIR: model/, the averaged weights of
the trained parts, as `ssr_jax.load` reads them; scalars.jsonl and tensorboard/; pictures/. On SIGTERM it saves a
checkpoint and exits with 75; run the command again to continue. A workdir has one
run at a time, and a run is not continued with other photos, another loss or another batch size.
"""

from configs import common


def main(config, workdir: str) -> int:
  """Runs one stage; returns the exit code."""
  from ssr_jax.training import trainer

  return trainer.train(config, workdir)


if __name__ == '__main__':
  common.run(main, __doc__)

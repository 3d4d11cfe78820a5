"""Trains one stage of a system.

  python train.py --config=configs/compact.py:STAGE --workdir=DIR [--config.path.to.field=value ...]

SSR's stages: depth, kernel, nbsr, svkr, vae, diffusion, distill. Running the same command again goes on from the last
checkpoint in the workdir, to the same weights as if it had never stopped. The trained part's weights (the moving
average) are written to DIR/model, in the format that `ssr_jax.load` reads; scalars to DIR/scalars.jsonl and
DIR/tensorboard, pictures to DIR/pictures. SIGTERM saves a checkpoint and ends with exit code 75: run the command again.
"""

from configs import common


def main(config, workdir: str) -> int:
  """Runs one stage; returns the exit code."""
  from ssr_jax.training import trainer

  return trainer.train(config, workdir)


if __name__ == '__main__':
  common.run(main, __doc__)

"""Writes golden/outputs.npz: some outputs of PyTorch's networks with the weights of conftest.

  python tests/parity/make_golden.py      (needs torch, diffusers and transformers)
"""

import pathlib
import sys

import numpy as np

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[2])]

import conftest  # noqa: E402

KEPT = 256  # values of each output


def main():
  arrays = {}
  for name, make in conftest.CASES.items():
    case = make()
    out = conftest.nhwc(case.torch_run(case.torch_module()))
    places = np.sort(np.random.default_rng(0).choice(out.size, min(KEPT, out.size), replace=False))
    arrays |= {f'{name}/shape': np.array(out.shape), f'{name}/places': places, f'{name}/values': out.reshape(-1)[places]}
    print(f'{name}: {out.shape}, deviation {out.std():.3f}')
  conftest.GOLDEN.mkdir(exist_ok=True)
  np.savez_compressed(conftest.GOLDEN / 'outputs.npz', **arrays)


if __name__ == '__main__':
  main()

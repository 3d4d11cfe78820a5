"""Writes golden/outputs.npz and golden/tokens.json: some outputs of PyTorch's networks, and tokens.

The networks have the weights of conftest.

  python tests/parity/make_golden.py      (needs torch, diffusers and transformers)
"""

import json
import pathlib
import sys

import numpy as np
import transformers

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[2])]

import conftest  # noqa: E402

KEPT = 256  # values of each output


def main():
  arrays = {}
  for name, make in conftest.CASES.items():
    case = make()
    out = conftest.nhwc(case.torch_run(case.torch_module()))
    places = np.sort(np.random.default_rng(0).choice(out.size, min(KEPT, out.size), replace=False))
    arrays |= {
      f'{name}/shape': np.array(out.shape),
      f'{name}/places': places,
      f'{name}/values': out.reshape(-1)[places],
    }
    print(f'{name}: {out.shape}, deviation {out.std():.3f}')
  conftest.GOLDEN.mkdir(exist_ok=True)
  np.savez_compressed(conftest.GOLDEN / 'outputs.npz', **arrays)

  vocabulary, merges = conftest.vocabulary()
  theirs = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token='!', model_max_length=77)
  tokens = [theirs(text, padding='max_length', truncation=True).input_ids for text in conftest.TEXTS]
  (conftest.GOLDEN / 'tokens.json').write_text(json.dumps(tokens) + '\n')


if __name__ == '__main__':
  main()

"""Every network and the tokenizer against stored outputs of PyTorch's: a machine without torch compares as well."""

import json

import numpy as np
import pytest

from ssr_jax.weights.importers import tokenizer


@pytest.fixture
def helpers(request):
  """The conftest beside this file, which is no module to import."""
  return next(p for p in request.config.pluginmanager.get_plugins() if getattr(p, 'CASES', None))


def test_outputs_are_those_of_pytorch(case, helpers, request):
  name = request.node.callspec.params['case']
  golden = np.load(helpers.GOLDEN / 'outputs.npz')
  out, _ = case.ours()
  assert tuple(golden[f'{name}/shape']) == out.shape
  helpers.assert_close(out.reshape(-1)[golden[f'{name}/places']], golden[f'{name}/values'], what=name)


def test_tokens_are_those_of_transformers(helpers):
  vocabulary, merges = helpers.vocabulary()
  ours = tokenizer.Tokenizer(vocabulary, merges, '!')
  golden = json.loads((helpers.GOLDEN / 'tokens.json').read_text())
  assert len(golden) == len(helpers.TEXTS)
  for text, tokens in zip(helpers.TEXTS, golden, strict=True):
    assert ours(text).tolist() == tokens, text

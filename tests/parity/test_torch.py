"""Every network against PyTorch's, module by module, and the way back to their names."""

import numpy as np
import pytest

from ssr_jax.weights.importers import tokenizer

torch = pytest.importorskip('torch')


@pytest.fixture
def helpers(request):
  """The conftest beside this file, which is no module to import."""
  return next(p for p in request.config.pluginmanager.get_plugins() if getattr(p, 'CASES', None))


def test_every_module_gives_what_theirs_gives(case, helpers):
  """The outputs of all modules within the network, from the whole down to single convolutions and norms."""
  module = case.torch_module()
  theirs = {}

  def keep(name):
    def hook(_, inputs, output):
      output = output[0] if isinstance(output, (tuple, list)) else output
      output = getattr(output, 'sample', output)
      if isinstance(output, torch.Tensor):
        theirs[name] = output.clone()

    return hook

  for name, inner in module.named_modules():
    inner.register_forward_hook(keep(name))
  whole = case.torch_run(module)
  out, ours = case.ours(case.double)
  helpers.assert_close(out, helpers.nhwc(whole), case.tolerance, 'the whole')

  # A module of ours is the one of theirs that has the same tensors; there can be several, one around the other.
  today = {
    name.removeprefix('params/'): case.today(known, module)
    for name, known in zip(case.expected, case.state, strict=True)
  }
  assert set(module.state_dict()).issuperset(today.values())
  used = set(today.values())
  compared = 0
  for path, value in ours.items():
    tensors = {known for name, known in today.items() if name.startswith(f'{path}/')}
    parent = path.rpartition('/')[0]
    if not path or (parent.endswith(TRANSPOSED) and path.endswith('/conv')):
      continue
    same = [name for name in theirs if tensors == {known for known in used if known.startswith(f'{name}.')}]
    assert same, path
    errors = {name: _error(helpers, value, theirs[name].detach(), case.tolerance, f'{path} = {name}') for name in same}
    assert None in errors.values(), errors
    compared += 1
  assert compared > 8


TRANSPOSED = ('resize_0', 'resize_1', 'image_up')  # a matrix product, then depth_to_space: only the whole is theirs


def _error(helpers, value, reference, tolerance, what):
  reference = reference.movedim(1, -1) if reference.ndim == 4 else reference
  if reference.ndim == 3 and value.ndim == 4 and reference.shape[-1] != value.shape[-1]:
    reference = reference.movedim(1, -1)  # channels first over flattened pixels
  try:
    helpers.assert_close(value, reference.numpy().reshape(value.shape), tolerance, what)
  except (AssertionError, ValueError) as error:
    return str(error)


def test_back_to_their_names_is_their_state_dict(case):
  state = case.state
  ours = case.table.to_ours(state, case.expected, 'drawn')
  back = case.table.to_theirs(ours)
  assert back.keys() == state.keys()
  for name in state:
    np.testing.assert_array_equal(back[name], state[name], err_msg=name)
  module = case.torch_module()  # and it is what torch loads: names and shapes of both are compared in there
  assert sum(array.size for array in back.values()) <= sum(p.numel() for p in module.parameters())


def test_tokens_are_those_of_transformers(helpers):
  transformers = pytest.importorskip('transformers')
  vocabulary, merges = helpers.vocabulary()
  theirs = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token='!', model_max_length=77)
  ours = tokenizer.Tokenizer(vocabulary, merges, '!')
  for text in helpers.TEXTS:
    assert ours(text).tolist() == theirs(text, padding='max_length', truncation=True).input_ids, text

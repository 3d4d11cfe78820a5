"""Models on the Hugging Face hub: 'org/model' or 'org/model@revision' is a directory in huggingface_hub's cache.

A repository holds what a model directory holds, at its top. All files are of one commit, and no file is read whose
sha256 is not the one in model.json; a revision that is a commit fixes model.json too. Without a network the cache is
used, as huggingface_hub does.
"""

import functools
import pathlib
import re

from ssr_jax.types import SSRError
from ssr_jax.weights import envelope

_NAME = re.compile(r'(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?')
_TEXTS = ('LICENSE', 'README.md', 'MODEL_CARD.md')
"""Files that are kept beside the weights, where a repository has them: the terms that they come with."""


def is_name(name: str) -> bool:
  """Whether a model's name is that of a repository, with or without a revision."""
  return _NAME.fullmatch(name) is not None


@functools.lru_cache(maxsize=16)
def fetch(name: str) -> pathlib.Path:
  """The directory of a model on the hub, downloaded unless it is in the cache; one look at the hub in a process.

  Args:
    name: 'org/model', or 'org/model@revision'; a branch, a tag or a commit. The default is the branch main.

  Raises:
    SSRError: no such repository, revision or file; no network and no copy; no valid model.json; no huggingface_hub.
  """
  found = _NAME.fullmatch(name)
  assert found, name
  repository, revision = found['repository'], found['revision'] or 'main'
  try:
    import huggingface_hub
    from huggingface_hub import errors
  except ImportError as error:
    raise SSRError(
      f"model '{name}': no such directory; models on the hub need huggingface_hub: pip install 'ssr-jax[hub]'"
    ) from error

  def get(file: str, commit: str) -> pathlib.Path | None:
    try:
      return pathlib.Path(huggingface_hub.hf_hub_download(repository, file, revision=commit))
    except errors.EntryNotFoundError as error:
      if file in _TEXTS:
        return None
      if isinstance(error, errors.LocalEntryNotFoundError):
        raise SSRError(f"model '{name}': the hub cannot be reached, and there is no copy in its cache") from error
      raise SSRError(f"model '{name}': no model of ssr_jax: {file} is missing on the hub") from error

  try:
    model_file = get(envelope.MODEL_FILE, revision)
    assert model_file is not None
    directory = model_file.parent
    config = envelope.read(model_file)
    commit = directory.name  # the cache names a snapshot by its commit
    for entry in config['parts'].values():
      get(entry['file'], commit)
    for text in _TEXTS:
      get(text, commit)
  except SSRError:
    raise
  except errors.RevisionNotFoundError as error:
    raise SSRError(f"model '{name}': the hub's {repository} has no revision {revision!r}") from error
  except errors.GatedRepoError as error:
    raise SSRError(
      f"model '{name}': accept its terms at https://huggingface.co/{repository}, then run `hf auth login`"
    ) from error
  except errors.RepositoryNotFoundError as error:
    raise SSRError(
      f"model '{name}': not on the hub, or private: `hf auth login` shows you what is yours; no such directory either"
    ) from error
  except Exception as error:  # those of the HTTP library, and of the file system
    what = f'{type(error).__name__}: {(str(error).splitlines() or [""])[0]}'
    raise SSRError(f"model '{name}': cannot be fetched from the hub ({what})") from error
  return directory

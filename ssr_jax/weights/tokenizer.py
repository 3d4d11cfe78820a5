"""CLIP's tokenizer: byte-level byte-pair encoding of lowercased text, from a checkpoint's vocab.json and merges.txt."""

from collections.abc import Iterator
import itertools
import json
import pathlib
import re
from typing import Any
import unicodedata

import numpy as np

from ssr_jax.types import SSRError

START, END = '<|startoftext|>', '<|endoftext|>'
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
_WORD_END = '</w>'


def _byte_letters() -> list[str]:
  """The letter that stands for each byte: itself where it prints, else one from 256 on, so that no byte is a blank."""
  printing = {*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(ord('®'), ord('ÿ') + 1)}
  others = iter(range(256, 512))
  return [chr(byte) if byte in printing else chr(next(others)) for byte in range(256)]


_LETTERS = _byte_letters()


class Tokenizer:
  """Text to token numbers, as CLIP was trained with.

  Attributes:
    start: number of the token that begins every sequence.
    end: number of the token that ends it, which also stands for what is not in the vocabulary.
    pad: number that fills up to the full length: SD 1.5 repeats `end`, SD 2.1 has '!'.
    length: tokens in a full sequence.
  """

  def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]], pad: str = END, length: int = 77):
    """Builds it.

    Args:
      vocabulary: token -> number.
      merges: pairs of tokens, the one to be merged first in front.
      pad: the token that fills up.
      length: tokens in a full sequence.

    Raises:
      SSRError: start, end or pad is not in the vocabulary.
    """
    for token in (START, END, pad):
      if token not in vocabulary:
        raise SSRError(f"the vocabulary has no token '{token}'; is this CLIP's vocab.json?")
    # Found in a text before anything else, as in transformers: SD 2.1, whose padding is '!', reads '!!' as two tokens.
    self._special = (START, END, pad)
    self._vocabulary = vocabulary
    self._ranks = {pair: rank for rank, pair in enumerate(merges)}
    self.start, self.end, self.pad, self.length = vocabulary[START], vocabulary[END], vocabulary[pad], length

  @classmethod
  def read(cls, folder: pathlib.Path) -> 'Tokenizer':
    """Reads vocab.json, merges.txt and, where there, tokenizer_config.json and special_tokens_map.json.

    Raises:
      SSRError: a file that is missing or damaged.
    """
    vocabulary = _json(folder / 'vocab.json')
    try:
      lines = (folder / 'merges.txt').read_text(encoding='utf-8').split('\n')
    except (OSError, UnicodeDecodeError) as error:
      raise SSRError(f'{folder / "merges.txt"}: cannot be read ({error}); fetch it again') from error
    merges = [tuple(line.split()) for line in lines if line and not line.startswith('#version')]
    if not isinstance(vocabulary, dict) or not all(len(pair) == 2 for pair in merges):
      raise SSRError(f"{folder}: vocab.json and merges.txt are not those of CLIP's tokenizer; fetch them again")
    options: dict[str, Any] = {}
    for name in ('tokenizer_config.json', 'special_tokens_map.json'):
      if (folder / name).is_file():
        options.update(_json(folder / name))
    pad = options.get('pad_token') or END
    pad = pad['content'] if isinstance(pad, dict) else pad
    length = options.get('model_max_length', 77)
    return cls(vocabulary, merges, pad, length if isinstance(length, int) and length <= 4096 else 77)

  def __call__(self, text: str) -> np.ndarray:
    """A full sequence, int32 [length]: start, the text's tokens cut to what fits, end, padding."""
    tokens = self.encode(text)[: self.length - 2]
    tokens = [self.start, *tokens, self.end]
    return np.array(tokens + [self.pad] * (self.length - len(tokens)), np.int32)

  def encode(self, text: str) -> list[int]:
    """Numbers of the text's tokens alone."""
    numbers = []
    for part in re.split(f'({"|".join(map(re.escape, self._special))})', text):
      if part in self._special:
        numbers.append(self._vocabulary[part])
        continue
      text = re.sub(r'\s+', ' ', unicodedata.normalize('NFC', part)).lower()
      for word in _words(text):
        numbers += [self._vocabulary.get(token, self.end) for token in self._merge(word)]
    return numbers

  def _merge(self, word: str) -> list[str]:
    """Tokens of one word: its bytes, the pair of lowest rank merged wherever it stands, until none is left."""
    tokens = [_LETTERS[byte] for byte in word.encode('utf-8')]
    tokens[-1] += _WORD_END
    while len(tokens) > 1:
      pair = min(itertools.pairwise(tokens), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
      if pair not in self._ranks:
        break
      merged, i = [], 0
      while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
          merged.append(tokens[i] + tokens[i + 1])
          i += 2
        else:
          merged.append(tokens[i])
          i += 1
      tokens = merged
    return tokens


def _words(text: str) -> Iterator[str]:
  """CLIP's words: a contraction's end, a run of letters, one digit, or a run of anything else but blanks."""
  i = 0
  while i < len(text):
    fixed = next((piece for piece in _CONTRACTIONS if text.startswith(piece, i)), None)
    if fixed:
      yield fixed
      i += len(fixed)
      continue
    kind = _kind(text[i])
    end = i + 1
    if kind in 'LO':
      while end < len(text) and _kind(text[end]) == kind:
        end += 1
    if kind != ' ':
      yield text[i:end]
    i = end


def _kind(letter: str) -> str:
  """'L' a letter, 'N' a digit, ' ' a blank, 'O' other."""
  category = unicodedata.category(letter)[0]
  if category in 'LN':
    return category
  return ' ' if letter.isspace() else 'O'


def _json(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise SSRError(f'{path}: cannot be read ({error}); fetch it again') from error

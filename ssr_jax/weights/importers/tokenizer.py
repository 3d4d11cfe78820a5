"""CLIP's tokenizer: byte-level byte-pair encoding of lowercase text, with a checkpoint's vocab.json and merges.txt."""

from collections.abc import Iterator, Sequence
import itertools
import pathlib
import re
from typing import Any
import unicodedata

import numpy as np

from ssr_jax.types import SSRError
from ssr_jax.weights.importers.fields import read_json

START, END = '<|startoftext|>', '<|endoftext|>'
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
_WORD_END = '</w>'


def _byte_letters() -> list[str]:
  """The letter for each byte: itself if it is printable, else one from code point 256 on; none is a space."""
  printing = {*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(ord('®'), ord('ÿ') + 1)}
  others = iter(range(256, 512))
  return [chr(byte) if byte in printing else chr(next(others)) for byte in range(256)]


_LETTERS = _byte_letters()


class Tokenizer:
  """Converts text to the token numbers that CLIP was trained on.

  Attributes:
    start: number of the first token of every sequence.
    end: number of the token after the text; also used for tokens that are not in the vocabulary.
    pad: number of the padding token: `end` in SD 1.5, '!' in SD 2.1.
    length: number of tokens in a sequence.
  """

  def __init__(self, vocabulary: dict[str, int], merges: Sequence[tuple[str, str]], pad: str = END, length: int = 77):
    """Builds a tokenizer.

    Args:
      vocabulary: {token: number}.
      merges: pairs of tokens to merge, in order of priority.
      pad: the padding token.
      length: number of tokens in a sequence.

    Raises:
      SSRError: the start, end or padding token is not in the vocabulary.
    """
    for token in (START, END, pad):
      if token not in vocabulary:
        raise SSRError(f"the vocabulary has no token '{token}'; is this CLIP's vocab.json?")
    # As in transformers, these are split off before words are: with padding '!' (SD 2.1), '!!' is two tokens.
    self._special = (START, END, pad)
    self._vocabulary = vocabulary
    self._ranks = {pair: rank for rank, pair in enumerate(merges)}
    self.start, self.end, self.pad, self.length = vocabulary[START], vocabulary[END], vocabulary[pad], length

  @classmethod
  def read(cls, folder: pathlib.Path) -> 'Tokenizer':
    """Builds a tokenizer from a folder.

    Args:
      folder: holds vocab.json and merges.txt, and optionally tokenizer_config.json and special_tokens_map.json.

    Raises:
      SSRError: a file is missing or damaged.
    """
    vocabulary = read_json(folder / 'vocab.json')
    try:
      lines = (folder / 'merges.txt').read_text(encoding='utf-8').split('\n')
    except (OSError, UnicodeDecodeError) as error:
      raise SSRError(f'{folder / "merges.txt"}: cannot be read ({error}); fetch it again') from error
    pairs = [line.split() for line in lines if line and not line.startswith('#version')]
    if not all(len(pair) == 2 for pair in pairs):
      raise SSRError(f"{folder / 'merges.txt'}: not the merges of CLIP's tokenizer; fetch it again")
    merges = [(first, second) for first, second in pairs]
    options: dict[str, Any] = {}
    for name in ('tokenizer_config.json', 'special_tokens_map.json'):
      if (folder / name).is_file():
        options.update(read_json(folder / name))
    pad = options.get('pad_token') or END
    pad = pad['content'] if isinstance(pad, dict) else pad
    length = options.get('model_max_length', 77)
    return cls(vocabulary, merges, pad, length if isinstance(length, int) and length <= 4096 else 77)

  def __call__(self, text: str) -> np.ndarray:
    """The sequence for a text, int32 [length]: start, the text's tokens (truncated to fit), end, padding."""
    tokens = self.encode(text)[: self.length - 2]
    tokens = [self.start, *tokens, self.end]
    return np.array(tokens + [self.pad] * (self.length - len(tokens)), np.int32)

  def encode(self, text: str) -> list[int]:
    """The numbers of the text's tokens, without start, end and padding."""
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
    """The tokens of a word: its bytes, with the pair of highest priority merged until no pair is in the list."""
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
  """Splits text into words: the end of a contraction, a run of letters, one digit, or a run of other non-spaces."""
  i = 0
  while i < len(text):
    contraction = next((piece for piece in _CONTRACTIONS if text.startswith(piece, i)), None)
    if contraction:
      yield contraction
      i += len(contraction)
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
  """'L' for a letter, 'N' for a digit, ' ' for white space, 'O' for anything else."""
  category = unicodedata.category(letter)[0]
  if category in 'LN':
    return category
  return ' ' if letter.isspace() else 'O'

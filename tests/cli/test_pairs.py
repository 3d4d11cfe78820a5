"""Which image belongs to which original."""

import pathlib

import pytest

from ssr_jax.cli import pairs
from ssr_jax.types import SSRError


def _match(originals, images):
  """pairs.match for names, without folders and suffixes."""
  paths = [
    [pathlib.Path(folder, f'{name}.png') for name in names] for folder, names in (('hr', originals), ('sr', images))
  ]
  found = pairs.match(*paths)
  stems = lambda files: [path.stem for path in files]
  return [(a.stem, b.stem) for a, b in found.matched], stems(found.originals), stems(found.images)


@pytest.mark.parametrize(
  'original, image',
  [
    ('0801', '0801x4'),
    ('0801', '0801_SR'),
    ('0801', '0801_x4'),
    ('0801', '0801-x4'),
    ('0801', '0801x4_out'),
    ('0801', '0801_X4_SR'),
    ('img_001_SRF_4_HR', 'img_001_SRF_4_LR'),
    ('img_001_SRF_4_HR', 'img_001_SRF_4_out'),
    ('img_001', 'img_001_SRF_4_SR'),
    ('Canon_001_HR', 'Canon_001_LR4'),
    ('Canon_10_x1', 'Canon_10_x1'),
    ('Canon_10_x1', 'Canon_10_x1_out'),
    ('a_gt', 'a'),
    ('photo.v2', 'photo.v2.x4'),
  ],
)
def test_usual_suffixes(original, image):
  assert _match([original, 'other'], ['different', image]) == ([(original, image)], ['other'], ['different'])


@pytest.mark.parametrize('a, b', [('0801', '0802'), ('box2', 'bo'), ('flour', 'fl'), ('img_1', 'img_12'), ('x4', 'hr')])
def test_other_names_do_not_match(a, b):
  assert _match([a], [b]) == ([], [a], [b])


def test_a_whole_name_goes_before_one_without_suffix():
  assert _match(['a', 'a_x4'], ['a_x4', 'a']) == ([('a', 'a'), ('a_x4', 'a_x4')], [], [])
  assert _match(['a'], ['a_SR', 'a', 'a_x4']) == ([('a', 'a')], [], ['a_SR', 'a_x4'])


@pytest.mark.parametrize(
  'originals, images, words',
  [
    (['a'], ['a_SR', 'a_x4'], 'sr/a_SR.png and sr/a_x4.png both fit hr/a.png'),
    (['a_HR', 'a_GT'], ['a'], 'hr/a_HR.png and hr/a_GT.png both fit sr/a.png'),
  ],
)
def test_two_that_could_be_meant_are_named(originals, images, words):
  with pytest.raises(SSRError, match=words):
    _match(originals, images)
  with pytest.raises(SSRError, match='a.jpg and sr/a.png both fit hr/a.png'):
    pairs.match([pathlib.Path('hr/a.png')], [pathlib.Path('sr/a.jpg'), pathlib.Path('sr/a.png')])

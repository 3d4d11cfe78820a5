"""Figures: the colour map's promise, the field's numbers, and where the panels lie."""

import numpy as np
import pytest

from ssr_jax.evaluation.report import figures
from ssr_jax.image import kernels as kernel_maths
from ssr_jax.runtime import Result
from ssr_jax.systems.base import Output
from ssr_jax.systems.ssr.system import SYSTEM


def _result(depth, kernels, restored, image):
  return Result(image, {'depth': depth, 'kernels': kernels, 'restored': restored})


def test_other_systems_have_other_panels():
  """A map is shown from its lowest to its highest mean; an output that was not kept is left out."""
  outputs = (Output('edges', 'map', 'edges'), Output('kernels', 'kernels', 'kernels'), Output('image', 'image', 'out'))
  edges = np.linspace(-2, 3, 40 * 64, dtype=np.float32).reshape(40, 64, 1)
  result = Result(np.full((40, 64, 3), 200, np.uint8), {'edges': edges, 'kernels': None})
  sheet = np.asarray(figures.figure(np.zeros((10, 16, 3), np.uint8), outputs, result))
  assert sheet.shape == (32 + 40 + 8, 3 * 96 + 4 * 8, 3)
  shown = sheet[32:72, 8 + 104 : 8 + 104 + 64]
  np.testing.assert_array_equal(shown[0, 0], figures.colour_map(np.array(0.0)))
  np.testing.assert_array_equal(shown[-1, -1], figures.colour_map(np.array(1.0)))
  assert (sheet[32:72, 8 + 208 : 8 + 208 + 64] == 200).all()


def test_colour_map_grows_in_lightness():
  colours = figures.colour_map(np.linspace(0, 1, 256)).astype(float) / 255
  linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
  luminance = linear @ [0.2126, 0.7152, 0.0722]
  assert (np.diff(luminance) > 0).mean() > 0.97 and (np.diff(luminance) > -1e-3).all()
  assert luminance[0] < 0.05 and luminance[-1] > 0.7
  np.testing.assert_array_equal(figures.colour_map(np.array([np.nan, -1, 2])), figures.colour_map(np.array([0, 0, 1])))


def test_kernel_variance_is_the_eigenvalues_mean():
  kernels = np.asarray(kernel_maths.gaussian_kernels(np.array([1.0, 4.0]), np.array([1.0, 2.0]), np.array([0.0, 0.5])))
  np.testing.assert_allclose(figures.kernel_variance(kernels), [1.0, 3.0], rtol=0.02)


def test_kernel_field_shows_variance_and_kernels():
  eigenvalues = np.repeat(np.linspace(1, 6, 24, dtype=np.float32)[None], 12, 0)  # grows to the right
  kernels = np.asarray(kernel_maths.gaussian_kernels(eigenvalues, eigenvalues, np.zeros_like(eigenvalues)))
  picture, (low, high) = figures.kernel_field(kernels, (96, 192), grid=4)
  assert picture.shape == (96, 192, 3) and low == pytest.approx(1, rel=0.05) and high == pytest.approx(6, rel=0.05)
  edge = picture[0].astype(float).mean(-1)  # between the kernels
  assert edge[-1] > edge[0] + 60
  assert picture[:48, 144:].min(-1).max() > 225 > picture[0].min(-1).max()  # a kernel's centre is white


def test_figure_has_five_panels_in_order():
  h, w = 10, 16
  rng = np.random.default_rng(0)
  lr = rng.integers(0, 256, (h, w, 3), np.uint8)
  kernels = np.full((h, w, 441), 1 / 441, np.float32)
  depth = np.full((40, 64, 1), 1.0, np.float32)
  restored, image = np.full((40, 64, 3), 0.25, np.float32), np.full((40, 64, 3), 200, np.uint8)
  sheet = np.asarray(figures.figure(lr, SYSTEM.outputs, _result(depth, kernels, restored, image)))
  pitch = 96 + 8  # narrow panels stand in columns that hold their labels
  panels = [sheet[32:72, 8 + i * pitch : 8 + i * pitch + 64] for i in range(5)]
  np.testing.assert_array_equal(panels[0], np.repeat(np.repeat(lr, 4, 0), 4, 1))
  np.testing.assert_array_equal(panels[1][5, 5], figures.colour_map(np.array(1.0)))
  assert (panels[3] == 64).all() and (panels[4] == 200).all()
  assert (sheet[:32, 8 : 8 + 96] < 128).any()  # its label


def test_large_images_are_scaled_down_and_labels_cut():
  panel = np.zeros((30, 100, 3), np.uint8)
  sheet = figures.side_by_side([panel, panel], ['a label that is far longer than its panel is wide', 'b'])
  assert sheet.size == (8 * 3 + 200, 32 + 30 + 8)
  big = figures.figure(
    np.zeros((300, 200, 3), np.uint8),
    SYSTEM.outputs,
    _result(np.zeros((1200, 800, 1)), np.full((300, 200, 9), 1 / 9), *[np.zeros((1200, 800, 3))] * 2),
    side=120,
  )
  assert big.height == 32 + 120 + 8
  assert figures.stack([big, sheet]).size == (max(big.width, sheet.width), big.height + sheet.height)
  with pytest.raises(ValueError, match='2 panels'):
    figures.side_by_side([panel, panel], ['a'])

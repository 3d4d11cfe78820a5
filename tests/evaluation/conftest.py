"""Photos to evaluate on."""

from PIL import Image
import pytest
from skimage import data


@pytest.fixture
def photos(tmp_path):
  """Two photos, one of a size that is no multiple of 4; both are cropped to 48x64."""
  folder = tmp_path / 'hr'
  folder.mkdir()
  Image.fromarray(data.astronaut()[100:148, 150:214]).save(folder / 'astronaut.png')
  Image.fromarray(data.chelsea()[100:151, 150:217]).save(folder / 'chelsea.png')
  return folder

"""Puts the configs, which lie beside the package, into wheels as ssr_jax/installed/configs; see pyproject.toml."""

import pathlib

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
  """Copies the configs too, except for an editable installation, which finds them in the clone."""

  def run(self) -> None:
    """Builds the package, then copies."""
    super().run()
    if not self.editable_mode:
      for path in sorted(pathlib.Path('configs').rglob('*.py')):
        target = pathlib.Path(self.build_lib, 'ssr_jax', 'installed', path)
        self.mkpath(str(target.parent))
        self.copy_file(str(path), str(target))


setup(cmdclass={'build_py': BuildWithConfigs})

"""Drives the page of `ssr app` with a photo, and writes what it looks like afterwards.

    python tools/app_screenshot.py PHOTO docs/app.jpg

It needs the extras app and browser, and a Chromium: Playwright's own, one of the system, or $SSR_CHROMIUM.
"""

import argparse
from collections.abc import Sequence
import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

from PIL import Image

from ssr_jax.image import io as image_io

CHROMIUM_NAMES = ('chromium-headless-shell', 'chromium', 'chromium-browser', 'google-chrome', 'headless_shell')
"""What a Chromium of the system is called."""


def main(argv: Sequence[str] | None = None) -> int:
  """Writes the screenshot."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('photo', metavar='PHOTO')
  parser.add_argument('output', metavar='OUT', help='a .jpg or .png file')
  parser.add_argument('--model', default='compact')
  arguments = parser.parse_args(argv)
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  command = [sys.executable, '-m', 'ssr_jax.cli', 'app', '--model', arguments.model, '--port', str(port)]
  server = subprocess.Popen(command)
  try:
    address = f'http://127.0.0.1:{port}'
    while server.poll() is None:
      with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
        break
      time.sleep(0.5)
    picture = _driven(address, arguments.photo)
  finally:
    server.terminate()
    server.wait()
  buffer = io.BytesIO()
  picture.convert('RGB').save(buffer, 'PNG' if arguments.output.endswith('.png') else 'JPEG', quality=88)
  image_io.write_bytes(arguments.output, buffer.getvalue())
  return 0


def _driven(address: str, photo: str) -> Image.Image:
  from playwright import sync_api  # pyright: ignore[reportMissingImports]

  path = os.environ.get('SSR_CHROMIUM') or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=path)
    tab = browser.new_page(viewport={'width': 1280, 'height': 900})
    tab.goto(address)
    tab.wait_for_selector('#start', timeout=120_000)
    tab.set_input_files('#photo input[type=file]', photo)
    tab.wait_for_timeout(2000)
    tab.click('#start')
    tab.wait_for_function("document.querySelector('#words')?.innerText.includes('became')", timeout=600_000)
    tab.wait_for_timeout(2000)  # until the pictures are there
    tab.click('#kernels img', position={'x': 120, 'y': 60})
    tab.wait_for_function("document.querySelector('#told').innerText.includes('Pixel')", timeout=60_000)
    tab.wait_for_timeout(1000)
    shot = tab.screenshot(full_page=True)
    browser.close()
  return Image.open(io.BytesIO(shot))


if __name__ == '__main__':
  sys.exit(main())

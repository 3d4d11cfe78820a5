"""Prints the files of slow tests that guard what a change touches, one a line; `make test-changed` runs them.

  python tools/slow_tests.py          # changes since origin's branch, or in the last commit if origin has that already
  python tools/slow_tests.py COMMIT   # since a commit

Files that differ in the working tree count as changed. Where git or the history is missing, as in a clone of depth 1,
nothing is printed: `make test-all` runs every slow test.
"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

_NETWORKS = ('ssr_jax/diffusion', 'ssr_jax/nn', 'ssr_jax/systems/ssr', 'ssr_jax/xla.py')
_STEP = ('configs/common.py', 'configs/ssr', 'configs/tiny.py', 'ssr_jax/training/state.py')

# Every stage on every mesh takes long, so it is asked for by what splits a step alone.
GUARDS = {
  'tests/golden/test_compact.py': ('configs/compact.py', 'ssr_jax/weights/bundled', 'tests/golden'),
  'tests/golden/test_golden.py': (*_NETWORKS, *_STEP, 'ssr_jax/degrade', 'ssr_jax/image', 'tests/golden'),
  'tests/test_bad_input.py': ('ssr_jax/cli/upscaling.py', 'ssr_jax/runtime/bands.py', 'ssr_jax/runtime/restorer.py'),
  'tests/test_bundled.py': ('ssr_jax/nn', 'ssr_jax/systems/ssr', 'ssr_jax/weights/bundled'),
  'tests/test_doctests.py': ('ssr_jax/runtime/restorer.py',),
  'tests/test_documents.py': (
    'README.md',
    *(f'docs/{guide}.md' for guide in ('evaluation', 'figures', 'train', 'upscale', 'weights')),
    'ssr_jax/cli/upscale.py',
  ),
  'tests/test_evaluate.py': ('evaluate.py', 'ssr_jax/evaluation'),
  'tests/test_improve.py': ('ssr_jax/training/start.py', 'tools/improve.py'),
  'tests/test_leaves_nothing.py': ('tests/conftest.py',),
  'tests/test_packaging.py': ('MANIFEST.in', 'pyproject.toml', 'setup.py', 'ssr_jax/cli/scripts.py'),
  'tests/test_xla.py': ('ssr_jax/runtime/restorer.py', 'ssr_jax/xla.py'),
  'tests/app/test_page_browser.py': ('ssr_jax/app',),
  'tests/app/test_session.py': ('ssr_jax/app', 'ssr_jax/runtime/restorer.py'),
  'tests/cli/test_cli.py': ('ssr_jax/cli/upscale.py', 'ssr_jax/cli/upscaling.py', 'ssr_jax/runtime/restorer.py'),
  'tests/cli/test_degrade.py': ('ssr_jax/cli/degrade.py', 'ssr_jax/degrade/realesrgan.py'),
  'tests/cli/test_info.py': (
    'configs/sd15.py',
    'configs/sd21.py',
    'ssr_jax/nn/unet.py',
    'ssr_jax/systems/ssr/sizes.py',
  ),
  'tests/cli/test_inspect.py': ('ssr_jax/cli/inspect.py', 'ssr_jax/runtime/restorer.py'),
  'tests/cli/test_trust.py': ('ssr_jax/runtime/bands.py', 'ssr_jax/runtime/trust.py'),
  'tests/configs/test_full_size.py': (
    'configs/sd21.py',
    'ssr_jax/nn/unet.py',
    'ssr_jax/systems/ssr/sizes.py',
    'configs/sd15.py',
    'ssr_jax/nn/depth',
  ),
  'tests/data/test_loader.py': ('ssr_jax/data/loader.py',),
  'tests/data/test_pack.py': ('ssr_jax/data/pack.py',),
  'tests/degrade/test_isp.py': ('ssr_jax/degrade/isp.py',),
  'tests/degrade/test_mixture.py': ('ssr_jax/degrade',),
  'tests/degrade/test_realesrgan.py': ('ssr_jax/degrade/realesrgan.py',),
  'tests/degrade/test_recipes.py': ('ssr_jax/degrade',),
  'tests/hostile/test_api.py': ('ssr_jax/runtime/restorer.py', 'ssr_jax/xla.py'),
  'tests/hostile/test_attacks.py': ('ssr_jax/weights', 'tools/attacks'),
  'tests/hostile/test_training_processes.py': ('ssr_jax/training/checkpoint.py', 'ssr_jax/training/manifest.py'),
  'tests/hostile/test_training_runs.py': ('ssr_jax/training',),
  'tests/metrics/test_pyiqa.py': ('ssr_jax/metrics/iqa.py',),
  'tests/nn/test_controlnet.py': ('ssr_jax/nn/controlnet.py', 'ssr_jax/nn/unet.py', 'ssr_jax/nn/blocks.py'),
  'tests/nn/test_dpt.py': ('ssr_jax/nn/depth',),
  'tests/nn/test_lpips.py': ('ssr_jax/nn/lpips.py',),
  'tests/nn/test_remat.py': ('ssr_jax/nn/remat.py', 'ssr_jax/nn/unet.py'),
  'tests/nn/test_rrdb.py': ('ssr_jax/nn/rrdb.py',),
  'tests/nn/test_unet.py': ('ssr_jax/nn/blocks.py', 'ssr_jax/nn/unet.py'),
  'tests/nn/test_vae.py': ('ssr_jax/nn/vae.py', 'ssr_jax/nn/blocks.py'),
  'tests/parity/test_golden.py': (
    'ssr_jax/nn/attention.py',
    'ssr_jax/nn/blocks.py',
    'ssr_jax/nn/unet.py',
    'ssr_jax/weights/importers',
    'tests/parity',
  ),
  'tests/parity/test_torch.py': (
    'ssr_jax/nn/attention.py',
    'ssr_jax/nn/blocks.py',
    'ssr_jax/nn/unet.py',
    'ssr_jax/weights/importers',
    'tests/parity',
  ),
  'tests/runtime/test_dtype.py': ('ssr_jax/nn', 'ssr_jax/runtime/restorer.py'),
  'tests/runtime/test_exporting.py': ('ssr_jax/runtime/exporting.py',),
  'tests/runtime/test_given.py': ('ssr_jax/runtime/restorer.py', 'ssr_jax/systems/ssr'),
  'tests/runtime/test_restorer.py': (
    'ssr_jax/runtime/restorer.py',
    'ssr_jax/systems/ssr',
    'ssr_jax/image/tiles.py',
    'ssr_jax/runtime/bands.py',
  ),
  'tests/runtime/test_spread.py': ('ssr_jax/runtime/restorer.py', 'ssr_jax/runtime/spread.py'),
  'tests/systems/blinddiff/test_core.py': ('ssr_jax/systems/blinddiff',),
  'tests/systems/blinddiff/test_mcformer.py': ('ssr_jax/systems/blinddiff',),
  'tests/systems/blinddiff/test_system.py': (
    'configs/blinddiff',
    'ssr_jax/systems/blinddiff',
    'ssr_jax/training',
    'tools/kernel_steps.py',
  ),
  'tests/systems/cassr/test_networks.py': ('ssr_jax/nn/controlnet.py', 'ssr_jax/systems/cassr'),
  'tests/systems/cassr/test_stages.py': ('configs/cassr', 'ssr_jax/systems/cassr', 'ssr_jax/training'),
  'tests/systems/cassr/test_system.py': ('ssr_jax/runtime/restorer.py', 'ssr_jax/systems/cassr'),
  'tests/systems/ssr/test_amf.py': ('ssr_jax/systems/ssr',),
  'tests/systems/ssr/test_dkenet.py': ('ssr_jax/systems/ssr/dkenet.py',),
  'tests/systems/ssr/test_generation_wiring.py': ('ssr_jax/systems/ssr',),
  'tests/systems/ssr/test_guidance.py': ('ssr_jax/systems/ssr/core.py', 'ssr_jax/systems/ssr/system.py'),
  'tests/systems/ssr/test_perceptual.py': ('ssr_jax/nn/lpips.py', 'ssr_jax/systems/ssr/stages'),
  'tests/systems/ssr/test_student_wiring.py': ('ssr_jax/systems/ssr',),
  'tests/systems/ssr/test_svkr.py': ('ssr_jax/systems/ssr/svkr.py',),
  'tests/tools/test_benchmark.py': ('tools/benchmark.py',),
  'tests/tools/test_compile_for.py': ('ssr_jax/training/compiled.py', 'ssr_jax/xla.py', 'tools/compile_for.py'),
  'tests/tools/test_crops.py': ('tools/crops.py',),
  'tests/tools/test_demo.py': ('tools/demo.py',),
  'tests/training/test_checkpoint.py': ('ssr_jax/training/checkpoint.py', 'ssr_jax/training/manifest.py'),
  'tests/training/test_distill.py': ('ssr_jax/nn/discriminator.py', 'ssr_jax/systems/ssr/stages'),
  'tests/training/test_learning.py': (*_NETWORKS, *_STEP),
  'tests/training/test_processes.py': ('ssr_jax/data/loader.py', 'ssr_jax/training'),
  'tests/training/test_sharding.py': ('ssr_jax/training/sharding.py', 'ssr_jax/training/state.py'),
  'tests/training/test_stages.py': ('ssr_jax/systems/ssr/stages',),
  'tests/training/test_train.py': ('ssr_jax/data/loader.py', 'ssr_jax/systems/ssr/stages', 'ssr_jax/training'),
  'tests/weights/importers/test_import.py': ('ssr_jax/weights/importers',),
  'tests/weights/importers/test_ncnn.py': ('ssr_jax/nn/rrdb.py', 'ssr_jax/weights/importers/ncnn.py'),
  'tests/weights/test_hub.py': ('ssr_jax/weights/hub.py',),
}
"""{file with slow tests: files and folders whose change asks for them}, beside the file itself."""


def guarding(changed: list[str]) -> list[str]:
  """The files of slow tests for changed files; all are paths from the root of the tree."""
  touches = lambda place: any(path == place or path.startswith(f'{place}/') for path in changed)
  return [tests for tests, places in GUARDS.items() if any(map(touches, (tests, *places)))]


def changed_files(root: pathlib.Path = ROOT, since: str = '') -> list[str] | None:
  """What differs between a commit and the working tree; None if there is no such commit to compare with.

  Args:
    root: of the tree.
    since: the commit; '' for the last one that HEAD shares with origin's branch, or HEAD's parent if that is HEAD.
  """

  def git(*arguments: str) -> str | None:
    try:
      return subprocess.run(['git', *arguments], cwd=root, capture_output=True, check=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
      return None

  base = since or git('merge-base', 'origin/HEAD', 'HEAD') or git('merge-base', 'origin/main', 'HEAD')
  if not since and base in (None, '', git('rev-parse', 'HEAD')):
    base = git('rev-parse', '--verify', '--quiet', 'HEAD^')
  listed = git('diff', '--name-only', '--no-renames', '-z', base, '--') if base else None
  return None if listed is None else [name for name in listed.split('\0') if name]


def main(since: str = '') -> int:
  """Prints the files; says on stderr why there are none."""
  changed = changed_files(since=since)
  if changed is None:
    print('slow_tests: there is no earlier commit to compare with; no slow tests', file=sys.stderr)
  for tests in guarding(changed or []):
    print(tests)
  return 0


if __name__ == '__main__':
  sys.exit(main(*sys.argv[1:]))

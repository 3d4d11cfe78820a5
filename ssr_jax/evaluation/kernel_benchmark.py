"""A benchmark of kernel estimation: MANet's six spatially variant modes and nine invariant kernels, on BSD100.

LR-PSNR compares the LR image before noise with HR blurred by the estimated kernels; kernel PSNR compares the taps; the
PSNR of the restored image says what an error costs, beside true kernels, the mean of the estimate, and bicubic.
"""

from ssr_jax.degrade import fields
from ssr_jax.evaluation import paper

_MODES = {'no_noise': 'no noise', 'noise-15': 'noise 15', 'jpeg-75': 'JPEG 75'}

RECIPES = {
  f'{field}/{mode}': f'{field.removeprefix("invariant-")}, {words}'
  for mode, words in _MODES.items()
  for field in (*fields.MODES, *fields.NINE)
}
"""{recipe: what its rows are called}; the nine kernels by their variances and direction."""

EXPERIMENTS = {
  'kernels': paper.Experiment(
    'Estimated kernels: six variant modes and nine invariant kernels',
    (paper.Set('BSDS100', 'bsd100', tuple(RECIPES)),),
    {
      'SSR': 'restored',
      'true kernels': 'restored+kernels=true',
      'mean of the estimate': 'restored+kernels=mean',
      'bicubic': 'bicubic',
    },
    {},
    "LR-PSNR and kernel PSNR are those of the kernels that a row was restored with; true ones have no error. MANet's "
    'paper has an LR-PSNR of 40.6 to 45.5 dB for its estimates, without noise and by a network of another size. The '
    'JPEG quality is ours.',
    by_recipe=RECIPES,
    compare='restored+kernels=true,restored;restored,restored+kernels=mean;restored,bicubic',
    pictures=0,
    metrics=('psnr', 'lr_psnr', 'kernel_psnr'),
  ),
}

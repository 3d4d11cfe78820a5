"""Tables 1-3 of the CasSR paper (arXiv 2403.11451): `paper.run` makes them, ours beside the paper's rows.

The paper does not name the variants of its metrics, gives no PSNR, and its draw of degradations on DIV2K is not
published. docs/cassr.md names the slips of its tables.
"""

import dataclasses

from ssr_jax.evaluation.paper import Experiment, Set, Values

METRICS = ('fid', 'dists', 'lpips', 'musiq', 'maniqa', 'clipiqa', 'niqe', 'psnr', 'ssim')
"""The paper's metrics in the order of its tables, and two that it does not have."""

DIV2K = Set('DIV2K-val', 'div2k-val', ('realesrgan',), "Real-ESRGAN's chain; the paper's draw of it is not published")
DREALSR = Set('DRealSR', 'drealsr-crops', note='centre crops of 128x128, as in the paper')
REALSR = Set('RealSR', 'realsr-crops', note='centre crops of 128x128, as in the paper')


def _rows(title: str, *rows: tuple[str, tuple[float | None, ...]]) -> dict[tuple[str, str], Values]:
  return {(title, name): (*values, *[None] * (len(METRICS) - len(values))) for name, values in rows}


_TABLE_1: dict[tuple[str, str], Values] = {
  **_rows(
    'DIV2K-val',
    ('BSRGAN', (52.9180, 0.1899, 0.3516, 62.5478, 0.3489, 0.5623, 3.7414)),
    ('FeMaSR', (42.2293, 0.1617, 0.3272, 60.8010, 0.3334, 0.6167, 3.8060)),
    ('HAT', (41.7034, 0.1919, 0.3175, 57.0293, 0.3062, 0.4486, 4.1641)),
    ('DASR', (55.3689, 0.3068, 0.4505, 53.0613, 0.2933, 0.4603, 4.5046)),
    ('PASD', (31.6253, 0.1599, 0.3254, 65.7858, 0.3920, 0.5933, 3.6746)),
    ('StableSR', (31.2679, 0.1596, 0.3316, 55.9177, 0.2958, 0.5053, 4.5062)),
    ('DiffBIR', (39.4041, 0.1558, 0.3658, 67.0657, 0.4580, 0.7018, 2.9574)),
    ('SeeSR', (28.5568, 0.1601, 0.3050, 66.3587, 0.4393, 0.6277, 3.8750)),
    ('CasSR', (30.7808, 0.1531, 0.3225, 68.6242, 0.4927, 0.6861, 3.6026)),
  ),
  **_rows(
    'DRealSR',
    ('BSRGAN', (157.0340, 0.2352, 0.3600, 57.1217, 0.3420, 0.5084, 6.5994)),
    ('FeMaSR', (157.7239, 0.2270, 0.3255, 57.1217, 0.3155, 0.5625, 5.9545)),
    ('HAT', (141.8644, 0.2462, 0.3370, 50.3458, 0.3102, 0.3901, 7.2654)),
    ('DASR', (170.1904, 0.2697, 0.3705, 40.6016, 0.2700, 0.4700, 8.2681)),
    ('PASD', (151.7256, 0.2544, 0.3776, 54.9425, 0.3917, 0.5478, 7.0751)),
    ('StableSR', (145.6182, 0.2073, 0.2779, 51.5160, 0.3235, 0.5126, 7.5105)),
    ('DiffBIR', (170.5032, 0.2683, 0.4447, 60.8363, 0.4486, 0.6476, 6.1496)),
    ('SeeSR', (145.1622, 0.2342, 0.3301, 64.7460, 0.5048, 0.6883, 6.3751)),
    ('CasSR', (166.1467, 0.2868, 0.3067, 67.3450, 0.4985, 0.7142, 5.6890)),
  ),
  **_rows(
    'RealSR',
    ('BSRGAN', (143.3876, 0.2125, 0.2688, 63.2816, 0.3782, 0.5076, 5.7083)),
    ('FeMaSR', (140.2071, 0.2263, 0.2918, 58.5714, 0.3510, 0.5353, 5.6371)),
    ('HAT', (123.0671, 0.1996, 0.2469, 57.3266, 0.3364, 0.3793, 6.4163)),
    ('DASR', (163.8753, 0.2662, 0.3585, 46.8467, 0.2585, 0.3844, 6.9204)),
    ('PASD', (126.6657, 0.2066, 0.2788, 62.9266, 0.4080, 0.5190, 5.6479)),
    ('StableSR', (129.3065, 0.2034, 0.2657, 61.0109, 0.3667, 0.5218, 6.5735)),
    ('DiffBIR', (130.4431, 0.2313, 0.3644, 64.6228, 0.4545, 0.6521, 5.7470)),
    ('SeeSR', (126.9731, 0.2264, 0.3034, 69.7639, 0.5463, 0.6795, 5.2362)),
    ('CasSR', (139.0698, 0.2459, 0.3822, 70.4224, 0.5326, 0.6968, 5.3491)),
  ),
}

EXPERIMENTS = {
  'cassr-table1': Experiment(
    'CasSR, Table 1: synthetic and real sets, x4',
    (DIV2K, DREALSR, REALSR),
    {'bicubic': 'bicubic', 'reference image': 'restored', 'CasSR': 'result'},
    _TABLE_1,
    compare='result,restored;result,bicubic',
    metrics=METRICS,
    model='cassr',
  ),
  'cassr-table2': Experiment(
    'CasSR, Table 2: what makes the reference image',
    (DIV2K, dataclasses.replace(DREALSR, title='DRealSR (not in the paper)')),
    {'LR image': 'result+reference=lr', 'SVKR': 'result+reference=svkr', 'ControlNet': 'result+reference=controlnet'},
    _rows(
      'DIV2K-val',
      ('LR image', (33.1480, 0.1797, 0.3216, 63.4204, 0.4534)),
      ('ControlNet', (30.5114, 0.1534, 0.3207, 69.0435, 0.5037)),
      ('SCEdit', (30.7808, 0.1531, 0.3175, 68.6242, 0.4927)),
    ),
    'One trained model, given another reference image when it samples; the paper does not say whether it trains a '
    'model for each row. SCEdit is not built; SVKR is our default.',
    compare='result+reference=svkr,result+reference=lr',
    metrics=METRICS,
    model='cassr',
  ),
  'cassr-table3': Experiment(
    'CasSR, Table 3: prompt and guidance; and attention, of which the paper has a picture only',
    (DIV2K, dataclasses.replace(DREALSR, title='DRealSR (not in the paper)')),
    {
      'description, guidance': 'result',
      'neither': 'result+prompt=null+guidance=1',
      'guidance': 'result+prompt=null',
      'without attention': 'result+attention=False',
    },
    _rows(
      'DIV2K-val',
      ('description, guidance', (30.7808, 0.1531, 0.3225, 68.6242, 0.4927)),
      ('neither', (32.6440, 0.1844, 0.3141, 57.3091, 0.3260)),
      ('guidance', (32.4908, 0.1572, 0.3250, 68.5192, 0.4773)),
      ('description, guidance, caption', (30.6618, 0.1535, 0.3280, 68.2996, 0.5057)),
    ),
    'Captions need a text encoder and are not there.',
    compare='result,result+prompt=null+guidance=1;result,result+attention=False',
    metrics=METRICS,
    model='cassr',
  ),
}

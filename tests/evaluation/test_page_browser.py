"""The page in a real browser: the slider, the two sides, zoom, the sorted table, and that nothing is loaded or fails.

It needs Playwright and a Chromium: `pip install -e '.[browser]'`, then `playwright install chromium`, or one of the
system such as Debian's chromium-headless-shell; $SSR_CHROMIUM names another one.
"""

import io

import numpy as np
from PIL import Image
import pytest

from ssr_jax.evaluation.report import page
from ssr_jax.types import one_line
from tests.evaluation import report_cases
from tests.evaluation.report_cases import EVIL, HR, LR, MODELS, NAMES, PROTOCOL


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  """A page whose rows are more than the table shows at first."""
  folder = tmp_path_factory.mktemp('page')
  images = ('a.png', EVIL, 'a.png', *(f'{i}.png' for i in range(9, 89)))
  rows, cases = report_cases.write(folder, images)
  text = page.page('Evaluation', PROTOCOL, rows, report_cases.means(rows), NAMES, cases)
  (folder / 'index.html').write_text(text)
  return folder / 'index.html'


@pytest.fixture
def opened(browser, path):
  """Opens the page with settings of a context; at the end nothing may have been loaded or have failed."""
  contexts, wrong = [], []

  def open_(**settings):
    context = browser.new_context(**{'viewport': {'width': 1280, 'height': 900}, **settings})
    contexts.append(context)
    tab = context.new_page()
    tab.on('console', lambda message: wrong.append(f'console: {message.text}'))
    tab.on('pageerror', lambda error: wrong.append(f'error: {error}'))
    tab.on('dialog', lambda dialog: wrong.append('dialog'))
    tab.on('request', lambda request: request.url.startswith('data:') or asked.append(request.url))
    tab.goto(path.as_uri())
    return tab

  asked = []
  yield open_
  for context in contexts:
    context.close()
  assert wrong == []
  assert asked == [path.as_uri()] * len(contexts)


def _colour(tab, x, y=0.8):
  """The colour of the stage at a place, 0 to 1 from its left and top, away from labels and the divider's handle."""
  picture = np.asarray(Image.open(io.BytesIO(tab.locator('#stage').screenshot())).convert('RGB'))
  return tuple(int(v) for v in picture[int(y * (picture.shape[0] - 1)), int(x * (picture.shape[1] - 1))])


def _sides(tab):
  return tab.locator('#tag-left').inner_text(), tab.locator('#tag-right').inner_text()


def _column(tab, n):
  return tab.locator(f'#all tbody td:nth-child({n})').all_inner_texts()


def test_the_slider_parts_the_two_images(opened):
  tab = opened()
  assert _sides(tab) == ('bicubic', 'result')
  split = tab.locator('#split')
  assert [_colour(tab, x) for x in (0.1, 0.45, 0.55, 0.9)] == [MODELS['bicubic']] * 2 + [MODELS['result']] * 2
  split.fill('25')
  assert [_colour(tab, x) for x in (0.2, 0.3)] == [MODELS['bicubic'], MODELS['result']]
  split.focus()
  for _ in range(10):
    tab.keyboard.press('ArrowRight')
  assert (
    split.input_value() == '35' and _colour(tab, 0.3) == MODELS['bicubic'] and _colour(tab, 0.4) == MODELS['result']
  )
  box = tab.locator('#stage').bounding_box()
  tab.mouse.move(box['x'] + 0.35 * box['width'], box['y'] + 20)
  tab.mouse.down()
  tab.mouse.move(box['x'] + 0.8 * box['width'], box['y'] + 60, steps=4)
  tab.mouse.up()
  assert abs(float(split.input_value()) - 80) <= 1 and _colour(tab, 0.75) == MODELS['bicubic']
  tab.mouse.move(box['x'] + 0.1 * box['width'], box['y'] + 60)  # the button is up
  assert abs(float(split.input_value()) - 80) <= 1
  tab.locator('h1').click()
  tab.keyboard.press('b')
  assert _colour(tab, 0.05) == MODELS['result']
  tab.keyboard.press('b')
  assert _colour(tab, 0.95) == MODELS['bicubic']


def test_both_sides_are_chosen_by_mouse_and_keyboard(opened):
  tab = opened()
  tab.locator('#left').get_by_label('LR', exact=True).click()
  tab.locator('#right').get_by_label('HR', exact=True).click()
  assert _sides(tab) == ('LR', 'HR') and (_colour(tab, 0.2), _colour(tab, 0.8)) == (LR, HR)
  tab.locator('#left').get_by_label('LR', exact=True).press('ArrowRight')  # as radio buttons do
  assert _sides(tab) == ('bicubic', 'HR')
  tab.locator('#swap').click()
  assert _sides(tab) == ('HR', 'bicubic') and (_colour(tab, 0.2), _colour(tab, 0.8)) == (HR, MODELS['bicubic'])
  tab.locator('h1').click()
  tab.keyboard.press('3')
  tab.keyboard.press('Shift+Digit6')
  assert _sides(tab) == ('restored', 'depth') and _colour(tab, 0.2) == MODELS['restored']
  assert tab.locator('#right input:checked').get_attribute('value') == 'depth'
  captions = tab.locator('#figures figcaption').all_inner_texts()
  assert captions == ['depth bright is near', 'kernels variance 1.0-5.0 px²', 'true kernels variance 1.0-5.0 px²']

  tab.locator('#next').click()  # the sides stay
  assert _sides(tab) == ('restored', 'depth') and one_line(EVIL) in tab.locator('#about').inner_text()
  tab.locator('h1').click()
  tab.keyboard.press('n')
  assert tab.locator('#case').input_value() == '2' and tab.locator('#next').is_disabled()
  assert tab.locator('#scores td').all_inner_texts()[1:4] == ['28.00', '27.00', '30.00']
  tab.locator('#case').select_option('0')
  assert '1 of 3: a.png, 64x48, smooth/no_noise' in tab.locator('#about').inner_text()
  assert tab.locator('#scores td.best').all_inner_texts() == ['31.00', '4.000']


def test_zoom_enlarges_both_images_at_the_same_place(opened):
  tab = opened()
  place = lambda side: tab.evaluate(
    '(id) => { const [r, s] = [id, "stage"].map((id) => document.getElementById(id).getBoundingClientRect());'
    ' return [r.left - s.left, r.top - s.top, r.width, r.height].map(Math.round) }',
    f'image-{side}',
  )
  assert place('left') == place('right') == [0, 0, 128, 96]  # fits at twice its size, and no larger
  tab.get_by_role('button', name='4×').click()
  assert place('left') == place('right') == [-64, -48, 256, 192]
  assert tab.locator('[data-zoom="4"]').get_attribute('aria-pressed') == 'true'
  box = tab.locator('#stage').bounding_box()
  tab.mouse.move(box['x'] + 10, box['y'] + 10)
  tab.mouse.down()
  tab.mouse.move(box['x'] + 30, box['y'] + 500, steps=3)
  tab.mouse.up()
  assert place('left') == place('right') == [-44, 0, 256, 192]  # 20 to the right, and down as far as it goes
  assert tab.locator('#split').input_value() == '50'
  tab.locator('h1').click()
  tab.keyboard.press('-')
  assert place('left') == [0, 0, 128, 96]
  tab.keyboard.press('-')
  assert place('right') == [32, 24, 64, 48]
  tab.keyboard.press('0')
  assert place('left') == [0, 0, 128, 96]


def test_the_table_is_sorted_filtered_and_compared(opened):
  tab = opened()
  heads = tab.locator('#all thead th')
  assert heads.all_inner_texts() == ['image', 'recipe', 'model', 'PSNR-Y (dB) ↑', 'NIQE ↓', 's/image']
  assert len(_column(tab, 1)) == 200 and tab.locator('#count').inner_text() == '249 of 249 rows'
  tab.locator('#more').click()
  assert len(_column(tab, 1)) == 249 and tab.locator('#more').is_hidden()
  order = _column(tab, 4)

  head = heads.nth(3)
  head.get_by_role('button').click()
  up = [float(text) for text in _column(tab, 4)]
  assert up == sorted(up) and up != [float(text) for text in order] and head.get_attribute('aria-sort') == 'ascending'
  head.get_by_role('button').press('Enter')
  assert [float(text) for text in _column(tab, 4)] == up[::-1] and head.get_attribute('aria-sort') == 'descending'
  for _ in range(2):
    heads.nth(4).get_by_role('button').press('Space')
    niqe = _column(tab, 5)
    assert niqe[-83:] == ['–'] * 83 and '–' not in niqe[:-83]  # what has no value comes last either way
  assert head.get_attribute('aria-sort') is None
  heads.nth(0).get_by_role('button').click()
  names = _column(tab, 1)
  assert names.index('9.png') < names.index('10.png') < names.index('88.png') < names.index('a.png')

  tab.locator('#search').fill('A.PNG')
  assert set(_column(tab, 1)) == {'a.png'} and tab.locator('#count').inner_text() == '6 of 249 rows'
  tab.locator('#model').select_option('result')
  assert _column(tab, 4) == ['29.50', '30.00']
  tab.locator('#search').fill('')
  tab.locator('#model').select_option('')
  tab.locator('#recipe').select_option('smooth/<b>')
  assert set(_column(tab, 2)) == {'smooth/<b>'}
  tab.locator('#baseline').select_option('bicubic')
  tab.locator('#search').fill('script')
  assert _column(tab, 3) == ['restored', 'result'] and _column(tab, 5) == ['–', '–']
  assert _column(tab, 4) == ['0.00', '+0.75']
  assert [(cell.get_attribute('class')) for cell in tab.locator('#all tbody td:nth-child(4)').all()] == [
    'n',
    'n better',
  ]


def test_a_row_leads_to_its_images(opened):
  tab = opened()
  buttons = tab.locator('#all tbody button')
  assert buttons.count() == 9  # three images of three models have pictures
  buttons.nth(7).press('Enter')
  assert tab.locator('#case').input_value() == '2' and tab.locator('#scores td.best').first.inner_text() == '30.00'
  assert abs(tab.locator('#compare').bounding_box()['y']) < 60


def test_names_are_text_and_foreign_code_does_not_run(opened, browser, path):
  tab = opened()
  assert one_line(EVIL) in _column(tab, 1) and one_line(EVIL) in tab.locator('#case').inner_text()
  assert tab.evaluate('window.pwned') is None and tab.locator('main b').count() == 3  # those of the captions

  context = browser.new_context()
  tab = context.new_page()
  tab.goto(path.as_uri())
  stopped = tab.evaluate("""() => new Promise((resolve) => {
    const found = new Set();
    document.addEventListener('securitypolicyviolation', (event) => {
      found.add(event.effectiveDirective);
      if (found.size === 2) resolve([...found].sort());
    });
    setTimeout(() => resolve([...found].sort()), 5000);
    document.body.append(Object.assign(document.createElement('img'), { src: 'http://127.0.0.1:9/a.png' }));
    document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.pwned = 1' }));
  })""")
  assert stopped == ['img-src', 'script-src-elem'] and tab.evaluate('window.pwned') is None
  context.close()


def test_on_a_phone_it_fits_and_is_moved_by_touch(opened):
  phone = {'viewport': {'width': 360, 'height': 640}, 'has_touch': True, 'is_mobile': True, 'device_scale_factor': 2}
  tab = opened(**phone)
  assert tab.evaluate('document.documentElement.scrollWidth') == 360
  stage = tab.locator('#stage')
  stage.scroll_into_view_if_needed()
  box = stage.bounding_box()
  tab.touchscreen.tap(box['x'] + 0.2 * box['width'], box['y'] + 10)
  assert abs(float(tab.locator('#split').input_value()) - 20) <= 1
  tab.locator('#right').get_by_label('HR', exact=True).tap()
  assert _sides(tab) == ('bicubic', 'HR')
  for tapped in tab.locator('button:visible, select:visible, fieldset label:visible').all()[:20]:
    assert tapped.bounding_box()['height'] >= 24  # the least that WCAG 2.2 asks for


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_it_is_readable_in_light_and_dark(opened, scheme):
  tab = opened(color_scheme=scheme)

  def luminance(name, selector):
    value = tab.locator(selector).first.evaluate(f'(e) => getComputedStyle(e).{name}')
    rgb = np.array([float(v) for v in value[value.index('(') + 1 : -1].split(',')[:3]]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

  def contrast(front, back):
    low, high = sorted((front, back))
    return (high + 0.05) / (low + 0.05)

  back = luminance('backgroundColor', 'body')
  assert (back > 0.5) == (scheme == 'light')
  for selector in ('body', 'dt', '.note', '#all thead button', '#all td button', 'figcaption'):
    assert contrast(luminance('color', selector), back) >= 4.5, selector
  for selector in ('td.best', '#next', '#left input:checked + span', '#right input:not(:checked) + span'):
    assert contrast(luminance('color', selector), luminance('backgroundColor', selector)) >= 4.5, selector
  tab.locator('#baseline').select_option('bicubic')
  for selector in ('td.better', 'td.worse'):
    assert contrast(luminance('color', selector), back) >= 4.5, selector

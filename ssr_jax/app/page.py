"""The page, in Gradio.

It listens on this machine alone unless told otherwise, loads nothing from elsewhere, and runs one photo at a time: two
visitors wait for each other, and each gets what they would get alone.
"""

import os
import pathlib
import tempfile
from typing import Any

os.environ.setdefault('GRADIO_ANALYTICS_ENABLED', 'False')  # read when gradio is imported

import gradio as gr  # pyright: ignore[reportMissingImports]

from ssr_jax.app import session
from ssr_jax.cli import console, terminal
from ssr_jax.runtime import Restorer, trust
from ssr_jax.types import SSRError

_WAITING = 20
"""Visitors that may wait in the queue; others are told to come again."""
_PICTURE = {'interactive': False, 'format': 'png', 'buttons': ['fullscreen', 'download']}
_FONTS = {'font': ['system-ui', 'sans-serif'], 'font_mono': ['ui-monospace', 'monospace']}


def make(model: Restorer, *, max_pixels: int, folder: str | os.PathLike) -> Any:
  """The page of a model.

  Args:
    model: of `load`.
    max_pixels: of a photo, at most.
    folder: for the files of visitors, one folder each.

  Returns:
    `gradio.Blocks`, to be launched.
  """
  visitors: dict[str, session.Visitor] = {}
  controls = session.controls(model)
  outputs = [output for output in model.system.outputs[:-1] if output.kind in ('depth', 'kernels', 'map')]
  shown = [output.name for output in outputs] + ([trust.OUTPUT] if any(o.kind == 'kernels' for o in outputs) else [])
  place = pathlib.Path(folder)

  def upscale(values, request: gr.Request, progress=gr.Progress()):  # noqa: B008  Gradio looks for it there
    visitor = visitors.setdefault(request.session_hash, session.Visitor())
    photo, chosen = values[photo_widget], {c.name: values[w] for c, w in zip(controls, widgets, strict=True)}
    if not photo:
      raise _said('Drop a photo first.')
    progress(0, desc='Restoring; the first photo of a size takes some seconds longer')
    try:
      options = session.options_of(model, chosen)
      own = place / request.session_hash
      own.mkdir(exist_ok=True)
      found = visitor.run(
        model,
        photo,
        own,
        max_pixels=max_pixels,
        progress=lambda done, total: progress((done, total), desc='Restoring', unit='tiles'),
        seed=int(values[seed] or 0),
        **({'keep_defocus': values[defocus]} if defocus and values[defocus] else {}),
        **({} if values[scale] == model.config['scale'] else {'scale': values[scale]}),
        **options,
      )
    except session.Cancelled:
      raise _said('Cancelled.') from None
    except SSRError as error:
      raise _said(str(error).replace(str(photo), pathlib.Path(photo).name)) from None
    except Exception as error:  # a page shows words; the terminal has the rest
      terminal.check_stopped()
      console.say(f'{pathlib.Path(photo).name}: {console.first_line(error)}')
      raise _said(console.line_of(error, pathlib.Path(pathlib.Path(photo).name))) from None
    pictures = session.panels(found, model)
    h, w, _ = found.result.image.shape
    words = f'{found.size[1]} x {found.size[0]} became {w} x {h}.'
    words += '' if found.share is None else f' About {100 * found.share:.0f} % of the detail is invented.'
    words += ''.join(f' Note: {note}.' for note in found.notes)
    panels = [gr.update(value=pictures[n][0], label=pictures[n][1]) if n in pictures else None for n in shown]
    compared = (session.before(found), session.after(found))
    files = [gr.update(value=str(path), interactive=True) for path in (found.file, found.figure)]
    return [compared, words, *files, found, None, 'Click on the kernels to see one.', *panels]

  def cancel(request: gr.Request):
    if visitor := visitors.get(request.session_hash):
      visitor.cancel()

  def left(request: gr.Request):
    cancel(request)
    visitors.pop(request.session_hash, None)
    own = place / str(request.session_hash)
    for path in own.glob('*'):
      path.unlink(missing_ok=True)

  def clicked(found, event: gr.SelectData):
    if found is None:
      return None, 'Nothing was restored yet.'
    h, w = session.panel_size(found)
    kernel, words = session.kernel_at(found, event.index[0] / w, event.index[1] / h) or (None, 'No kernels.')
    return kernel, words

  with gr.Blocks(title='ssr-jax', analytics_enabled=False, delete_cache=(3600, 6 * 3600)) as page:
    gr.Markdown(f'# ssr-jax\nBlind super-resolution of photos, x{model.config["scale"]}; model {model.config["name"]}')
    found = gr.State(None, time_to_live=6 * 3600)
    with gr.Row():
      with gr.Column(scale=1, min_width=280):
        photo_widget = gr.File(label='Photo', file_types=['image'], type='filepath', elem_id='photo', height=120)
        with gr.Row():
          start = gr.Button('Restore', variant='primary', elem_id='start')
          stop = gr.Button('Cancel', elem_id='cancel')
        scale = gr.Slider(1, 8, value=model.config['scale'], step=0.5, label='scale', elem_id='scale')
        defocus = None
        if 'kernels' in shown:
          info = 'how much of the blur of what lies out of focus stays'
          defocus = gr.Slider(0, 1, value=0, step=0.05, label='keep defocus', info=info, elem_id='defocus')
        with gr.Accordion('Options', open=False, elem_id='options'):
          widgets = [_widget(control) for control in controls]
          seed = gr.Number(0, label='seed', info='of the noise', precision=0, minimum=0)
        words = gr.Markdown(elem_id='words')
        with gr.Row():
          file = gr.DownloadButton('Download the result', interactive=False, elem_id='file')
          sheet = gr.DownloadButton('Download the figures', interactive=False, elem_id='figure')
      with gr.Column(scale=3):
        slider = gr.ImageSlider(
          label='before (bicubic) and after', type='pil', format='png', max_height=640, elem_id='compare'
        )
        pictures = []
        with gr.Row():
          for name in shown:
            label = next((output.label for output in outputs if output.name == name), 'invented')
            pictures.append(gr.Image(label=label, elem_id=name, **_PICTURE))
        with gr.Row(visible='kernels' in shown):
          kernel = gr.Image(label='kernel', height=260, elem_id='kernel', scale=1, **_PICTURE)
          told = gr.Markdown(elem_id='told')
    results = [slider, words, file, sheet, found, kernel, told, *pictures]
    running = start.click(
      upscale, {photo_widget, seed, scale, *widgets, *([defocus] if defocus else [])}, results, concurrency_limit=1
    )
    stop.click(cancel, None, None, queue=False, cancels=[running])
    if 'kernels' in shown:
      pictures[shown.index('kernels')].select(clicked, [found], [kernel, told], queue=False)
    page.unload(left)
  page.queue(max_size=_WAITING, default_concurrency_limit=1, api_open=False)
  return page


def _said(words: str) -> Exception:
  """The error that shows words on the page, until they are closed, and no traceback in the terminal."""
  return gr.Error(words, duration=None, print_exception=False)


def _widget(control: session.Control) -> Any:
  how = {'label': control.label, 'info': control.help, 'elem_id': f'option_{control.name}'}
  if control.kind is bool:
    return gr.Checkbox(bool(control.default), **how)
  if control.choices:
    return gr.Dropdown(list(control.choices), value=control.default, **how)
  if control.kind is str:
    return gr.Textbox(control.default or '', **how)
  return gr.Number(control.default, precision=0 if control.kind is int else None, **how)


def serve(model: Restorer, *, host: str, port: int, max_pixels: int, max_upload: int) -> None:
  """Serves the page until the process is stopped.

  Args:
    model: of `load`.
    host: address to listen on; 127.0.0.1 is this machine alone.
    port: to listen on.
    max_pixels: of a photo, at most.
    max_upload: bytes of a file, at most.

  Raises:
    SSRError: the port is taken.
  """
  with tempfile.TemporaryDirectory(prefix='ssr_app_') as folder:
    page = make(model, max_pixels=max_pixels, folder=folder)
    try:
      page.launch(
        server_name=host,
        server_port=port,
        share=False,
        max_file_size=max_upload,
        allowed_paths=[folder],
        show_error=False,
        quiet=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        footer_links=[],
        enable_monitoring=False,
        theme=gr.themes.Base(**_FONTS),
        prevent_thread_lock=True,
      )
    except OSError as error:
      raise SSRError(f'--port {port}: cannot listen on {host}:{port}; choose another port') from error
    console.tell(f'http://{host}:{port}  (Ctrl-C ends it)')
    page.block_thread()

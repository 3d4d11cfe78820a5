'use strict';
// Text from the data enters the page as text nodes and attributes only, never as HTML.
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($('data').textContent);

  const element = (tag, properties = {}, children = []) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const option = (value, text) => element('option', { value, textContent: text });

  // -- Comparison of two images ---------------------------------------------------------------------------------------

  const cases = [...document.querySelectorAll('script[id^="case-"]')];
  const caseOfRow = new Map();
  const state = { index: 0, sides: {}, zoom: 'fit', split: 50, x: 0, y: 0 };
  let shown = null;
  let box = null; // the stage and the image in it: width, height, scale in CSS pixels per HR pixel

  function read(index) {
    return JSON.parse(cases[index].textContent);
  }

  function initialSides(views) {
    // The first and the last model; where there is one model, it and the HR image, or LR and it.
    const images = views.filter((view) => view.kind === 'image');
    const models = images.filter((view, i) => view.label !== 'HR' || i < images.length - 1);
    const [left, right] = models.length > 1 ? [models[0], models[models.length - 1]]
      : images.length > 1 ? images : [views[0], images[0]];
    return { left: left.label, right: right.label };
  }

  function show(index) {
    state.index = index;
    shown = read(index);
    if (!state.sides.left) state.sides = initialSides(shown.views);
    const labels = shown.views.map((view) => view.label);
    for (const side of ['left', 'right']) {
      // The case may lack what the last one showed, such as a model's depth.
      if (!labels.includes(state.sides[side])) state.sides[side] = initialSides(shown.views)[side];
      const radios = shown.views.map((view, i) => {
        const input = element('input', { type: 'radio', name: side, value: view.label, checked: view.label === state.sides[side] });
        input.addEventListener('change', () => choose(side, i));
        return element('label', {}, [input, element('span', { textContent: view.label })]);
      });
      $(side).replaceChildren($(side).firstElementChild, ...radios);
    }
    $('case').value = String(index);
    $('previous').disabled = index === 0;
    $('next').disabled = index === cases.length - 1;
    $('about').textContent = `${index + 1} of ${cases.length}: ${shown.part}${shown.image}, ${shown.size}, ${shown.recipe}`;
    state.x = state.y = 0;
    layOut();
    showScores();
    showFigures();
    for (const side of ['left', 'right']) choose(side, labels.indexOf(state.sides[side]));
  }

  function choose(side, i) {
    const view = shown.views[i];
    if (!view) return;
    state.sides[side] = view.label;
    const image = $(`image-${side}`);
    image.src = view.src;
    image.alt = view.label;
    image.dataset.kind = view.kind;
    $(`tag-${side}`).textContent = view.label;
    $(side).querySelectorAll('input')[i].checked = true;
    place();
  }

  function layOut() {
    const stage = $('stage');
    const viewer = stage.closest('.viewer');
    const beside = matchMedia('(min-width: 60rem)').matches ? 336 : 0; // room for the metrics, where they stand beside
    const fit = Math.min((viewer.clientWidth - beside) / shown.width, (0.8 * window.innerHeight) / shown.height, 2);
    const scale = state.zoom === 'fit' ? fit : Number(state.zoom);
    // The stage has the size at which the image fits, whatever the zoom.
    box = { scale, width: fit * shown.width, height: fit * shown.height };
    stage.style.width = `${box.width}px`;
    stage.style.height = `${box.height}px`;
    stage.parentElement.style.width = `${Math.max(box.width, Math.min(viewer.clientWidth, 320))}px`;
    $('split').style.width = `${box.width}px`;
    stage.classList.toggle('zoomed', isZoomed());
    for (const button of document.querySelectorAll('[data-zoom]')) {
      button.setAttribute('aria-pressed', String(button.dataset.zoom === state.zoom));
    }
    place();
  }

  function isZoomed() {
    return box.scale * shown.width > box.width + 1 || box.scale * shown.height > box.height + 1;
  }

  // Puts both images at the same place: (x, y) is how far the image's middle lies from the stage's, in CSS pixels.
  function place() {
    const [width, height] = [box.scale * shown.width, box.scale * shown.height];
    const limit = (value, room) => Math.min(Math.max(value, -Math.max(room, 0) / 2), Math.max(room, 0) / 2);
    state.x = limit(state.x, width - box.width);
    state.y = limit(state.y, height - box.height);
    for (const side of ['left', 'right']) {
      const image = $(`image-${side}`);
      image.style.width = `${width}px`;
      image.style.height = `${height}px`;
      image.style.left = `${(box.width - width) / 2 + state.x}px`;
      image.style.top = `${(box.height - height) / 2 + state.y}px`;
      image.classList.toggle('pixels', image.dataset.kind === 'lr' || box.scale >= 1.5);
    }
    $('over').style.clipPath = `inset(0 0 0 ${state.split}%)`;
    $('divider').style.left = `${state.split}%`;
    $('split').value = String(state.split);
  }

  function setSplit(percent) {
    state.split = Math.min(100, Math.max(0, percent));
    place();
  }

  function setZoom(zoom) {
    const before = box.scale;
    state.zoom = zoom;
    layOut();
    state.x *= box.scale / before;
    state.y *= box.scale / before;
    place();
  }

  function swap() {
    const { left, right } = state.sides;
    const labels = shown.views.map((view) => view.label);
    choose('left', labels.indexOf(right));
    choose('right', labels.indexOf(left));
  }

  // A row for each metric, because there may be many, a column for each model.
  function showScores() {
    const heads = shown.scores.map((cells) => element('th', { scope: 'col', className: 'n', textContent: cells[0][0] }));
    const rows = shown.heads.slice(1).map((text, i) => element('tr', {}, [
      element('th', { scope: 'row', textContent: text }),
      ...shown.scores.map((cells) => {
        const [value, place] = cells[i + 1];
        return element('td', { className: `n ${place}`.trim(), textContent: value });
      }),
    ]));
    const corner = element('td');
    $('scores').replaceChildren(element('thead', {}, [element('tr', {}, [corner, ...heads])]), element('tbody', {}, rows));
  }

  function showFigures() {
    const figures = shown.views.filter((view) => view.kind === 'figure');
    $('figures').replaceChildren(...figures.map((view) =>
      element('figure', {}, [
        element('img', { src: view.src, alt: view.label }),
        element('figcaption', {}, [element('b', { textContent: view.label }), ` ${view.caption}`]),
      ])));
  }

  function startViewer() {
    cases.forEach((_, i) => {
      const { image, recipe, rows } = read(i);
      $('case').append(option(String(i), `${image} · ${recipe}`));
      for (const row of rows) caseOfRow.set(row, i);
    });
    $('case').addEventListener('change', () => show(Number($('case').value)));
    const step = (by) => show(Math.min(cases.length - 1, Math.max(0, state.index + by)));
    $('previous').addEventListener('click', () => step(-1));
    $('next').addEventListener('click', () => step(1));
    $('swap').addEventListener('click', swap);
    $('split').addEventListener('input', () => setSplit(Number($('split').value)));
    for (const button of document.querySelectorAll('[data-zoom]')) {
      button.addEventListener('click', () => setZoom(button.dataset.zoom));
    }
    window.addEventListener('resize', layOut);

    const stage = $('stage');
    let drag = null;
    stage.addEventListener('pointerdown', (event) => {
      if (event.button !== 0) return;
      const area = stage.getBoundingClientRect();
      const fromDivider = Math.abs(event.clientX - area.left - (state.split / 100) * area.width);
      drag = { pan: isZoomed() && fromDivider > 24, x: event.clientX - state.x, y: event.clientY - state.y };
      stage.setPointerCapture(event.pointerId);
      move(event);
    });
    const move = (event) => {
      if (!drag) return;
      if (drag.pan) {
        state.x = event.clientX - drag.x;
        state.y = event.clientY - drag.y;
        place();
      } else {
        const area = stage.getBoundingClientRect();
        setSplit((100 * (event.clientX - area.left)) / area.width);
      }
    };
    stage.addEventListener('pointermove', move);
    for (const name of ['pointerup', 'pointercancel']) stage.addEventListener(name, () => { drag = null; });

    const zooms = ['fit', '1', '2', '4'];
    const keys = {
      n: () => step(1),
      p: () => step(-1),
      x: swap,
      b: () => setSplit(state.split > 50 ? 0 : 100),
      '+': () => setZoom(zooms[Math.min(zooms.length - 1, zooms.indexOf(state.zoom) + 1)]),
      '-': () => setZoom(zooms[Math.max(0, zooms.indexOf(state.zoom) - 1)]),
      0: () => setZoom('fit'),
      ArrowLeft: () => setSplit(state.split - 2),
      ArrowRight: () => setSplit(state.split + 2),
    };
    document.addEventListener('keydown', (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const focused = event.target.closest('input, select, textarea, .scroll');
      const moves = event.key.startsWith('Arrow');
      // Fields keep the keys that they use themselves: text and lists all of them, others the arrows.
      if (focused && (moves || focused.matches('select, textarea, input[type="search"]'))) return;
      const digit = /^Digit([1-9])$/.exec(event.code);
      if (digit) choose(event.shiftKey ? 'right' : 'left', Number(digit[1]) - 1);
      else if (keys[event.key]) keys[event.key]();
      else return;
      event.preventDefault();
    });
    show(0);
  }

  // -- Table of all images --------------------------------------------------------------------------------------------

  const STEP = 200;
  const WORDS = data.keys;
  const table = { sort: null, down: false, limit: STEP };
  const distinct = (i) => [...new Set(data.rows.map((row) => row[i]))];
  const compare = new Intl.Collator(undefined, { numeric: true }).compare;

  for (const row of data.rows) {
    for (let i = WORDS.length; i < row.length; i += 1) if (row[i] !== null) row[i] = Number(row[i]);
  }

  // The values of the rows: as they are, or how much they differ from another model's on the same image.
  function values() {
    const baseline = $('baseline').value;
    if (!baseline) return data.rows;
    const bases = new Map(); // of each image; with several seeds their mean
    data.rows.forEach((row, i) => {
      if (row[2] === baseline) bases.set(data.groups[i], [...(bases.get(data.groups[i]) ?? []), row]);
    });
    return data.rows.map((row, r) => row.map((value, i) => {
      if (i < WORDS.length) return value;
      const base = (bases.get(data.groups[r]) ?? []).map((other) => other[i]);
      if (value === null || !base.length || base.includes(null)) return null;
      const difference = value - base.reduce((sum, x) => sum + x, 0) / base.length;
      return Number.isNaN(difference) ? 0 : difference; // two infinities
    }));
  }

  function fill() {
    const all = values();
    const [search, recipe, model] = [$('search').value.toLowerCase(), $('recipe').value, $('model').value];
    const baseline = $('baseline').value;
    let order = all.map((_, i) => i).filter((i) => {
      const row = all[i];
      return row[0].toLowerCase().includes(search) && (!recipe || row[1] === recipe) && (!model || row[2] === model)
        && (!baseline || row[2] !== baseline);
    });
    if (table.sort !== null) {
      const [column, sign] = [table.sort, table.down ? -1 : 1];
      order.sort((a, b) => {
        const [x, y] = [all[a][column], all[b][column]];
        if (x === null || y === null) return (x === null) - (y === null) || a - b; // what has no value comes last
        return sign * (column < WORDS.length ? compare(x, y) : x - y) || a - b;
      });
    }
    const rows = order.slice(0, table.limit).map((i) => element('tr', {}, all[i].map((value, column) => {
      if (column < WORDS.length) return wordCell(value, column, i);
      const { digits, up } = data.columns[column - WORDS.length];
      return numberCell(value, digits, up, baseline);
    })));
    document.querySelector('#all tbody').replaceChildren(...rows);
    document.querySelectorAll('#all thead th').forEach((head, column) => {
      if (column === table.sort) head.setAttribute('aria-sort', table.down ? 'descending' : 'ascending');
      else head.removeAttribute('aria-sort');
      head.querySelector('.mark').textContent = column !== table.sort ? '' : table.down ? ' ▼' : ' ▲';
    });
    $('count').textContent = `${order.length} of ${data.rows.length} rows`;
    $('more').hidden = order.length <= table.limit;
  }

  function wordCell(value, column, row) {
    if (column > 0 || !caseOfRow.has(row)) return element('td', { textContent: value });
    const button = element('button', { type: 'button', textContent: value, title: 'Show the images' });
    button.addEventListener('click', () => {
      show(caseOfRow.get(row));
      $('compare').scrollIntoView();
      $('case').focus({ preventScroll: true });
    });
    return element('td', {}, [button]);
  }

  function numberCell(value, digits, up, signed) {
    if (value === null) return element('td', { className: 'n', textContent: '–' });
    const text = Number.isFinite(value) ? value.toFixed(digits) : value > 0 ? '∞' : '-∞';
    if (!signed) return element('td', { className: 'n', textContent: text });
    const better = up === null || Number(text) === 0 ? '' : value > 0 === up ? ' better' : ' worse';
    return element('td', { className: `n${better}`, textContent: (value > 0 && Number(text) !== 0 ? '+' : '') + text });
  }

  function startTable() {
    const arrow = { true: ' ↑', false: ' ↓', null: '' };
    const labels = [...WORDS, ...data.columns.map(({ label, up }) => label + arrow[up])];
    const heads = labels.map((label, column) => {
      const button = element('button', { type: 'button' }, [label, element('span', { className: 'mark' })]);
      button.addEventListener('click', () => {
        table.down = table.sort === column && !table.down;
        table.sort = column;
        fill();
      });
      return element('th', { scope: 'col', className: column < WORDS.length ? '' : 'n' }, [button]);
    });
    document.querySelector('#all thead').append(element('tr', {}, heads));
    $('recipe').append(option('', 'All recipes'), ...distinct(1).map((name) => option(name, name)));
    $('model').append(option('', 'All models'), ...distinct(2).map((name) => option(name, name)));
    $('baseline').append(option('', 'values'), ...distinct(2).map((name) => option(name, `difference to ${name}`)));
    for (const id of ['recipe', 'model', 'baseline']) $(id).addEventListener('change', restart);
    $('search').addEventListener('input', restart);
    $('more').addEventListener('click', () => { table.limit += STEP; fill(); });
    fill();
  }

  function restart() {
    table.limit = STEP;
    fill();
  }

  if (cases.length) startViewer();
  startTable();
})();

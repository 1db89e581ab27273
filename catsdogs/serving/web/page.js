/** The page: takes photos, passes them to a classifier (server.js or browser.js), shows the predictions. */

import createCamera from './camera.js';

const WORDS = { cat: 'Cat', dog: 'Dog', neither: 'Neither', unsure: 'Unsure' };
const BYTES_PER_BATCH = 20_000_000;

const find = (selector, root = document) => root.querySelector(selector);
const cards = find('#cards');
const live = find('#live');
for (const place of [live, find('#card').content]) { // both show a prediction
  find('.prediction', place).prepend(find('#prediction').content.cloneNode(true));
}
const files = new WeakMap(); // a card's file
let queue = []; // cards, in the order in which they are classified
let done = 0;
let classifier = null;
let working = false;
let chosen = []; // the names of the networks that classify; the first is the one that is shown large
const results = new WeakMap(); // a card's predictions, one per network: the name and the prediction

/* Adding photos */

for (const input of [find('#choose'), find('#take')]) {
  input.addEventListener('change', () => {
    add(input.files);
    input.value = ''; // so that choosing the same file again is a change
  });
}

addEventListener('paste', (event) => {
  if (event.clipboardData.files.length) add(event.clipboardData.files);
  else notice('Nothing was added: what you pasted is not an image.');
});

addEventListener('dragover', (event) => {
  event.preventDefault(); // otherwise the browser would leave the page and open the photo
  find('#drop').classList.add('over');
});
addEventListener('dragleave', (event) => {
  if (!event.relatedTarget) find('#drop').classList.remove('over');
});
addEventListener('drop', (event) => {
  event.preventDefault();
  find('#drop').classList.remove('over');
  if (event.dataTransfer.files.length) add(event.dataTransfer.files);
  else notice('Nothing was added: what you dropped is not a file. Save the image first.');
});

function add(list) {
  if (!list.length) return;
  const added = Array.from(list, makeCard);
  cards.prepend(...added);
  enqueue(added);
}

function enqueue(added) {
  for (const card of added) {
    card.dataset.state = 'queued';
    find('.word', card).textContent = 'Queued…';
    find('.confidence', card).hidden = find('.why', card).hidden = find('.others', card).hidden = true;
    find('.again', card).hidden = true;
  }
  queue.push(...added);
  find('#predictions').hidden = false;
  showProgress();
  work();
}

/** Of cards that were classified already. */
function enqueueAgain(some) {
  if (!some.length) return;
  done = Math.max(0, done - some.length); // they may be from before this count began
  enqueue(some);
}

function makeCard(file) {
  const card = find('#card').content.firstElementChild.cloneNode(true);
  const image = find('img', card);
  files.set(card, file);
  find('.name', card).textContent = file.name;
  image.alt = `The photo ${file.name}`;
  image.addEventListener('load', () => {
    find('.photo', card).style.setProperty('--ratio', image.naturalWidth / image.naturalHeight);
  });
  image.addEventListener('error', () => {
    find('.photo', card).hidden = true;
    find('.no-photo', card).hidden = false;
  });
  image.src = URL.createObjectURL(file);
  find('.again', card).addEventListener('click', () => enqueueAgain([card]));
  return card;
}

/* Classifying them */

async function work() {
  if (working || !classifier) return;
  working = true;
  cards.setAttribute('aria-busy', 'true');
  while (queue.length) {
    const [batch, networks] = [nextBatch(), chosen];
    for (const card of batch) {
      card.dataset.state = 'classifying';
      find('.word', card).textContent = 'Classifying…';
    }
    const found = await predict(batch.map((card) => files.get(card)), networks);
    const shown = batch.filter((card) => card.isConnected); // the others were cleared meanwhile
    if (networks !== chosen) { // a different choice was made meanwhile
      if (shown.length) enqueue(shown);
      continue;
    }
    batch.forEach((card, index) => show(card, found[index]));
    done += shown.length;
    announce(shown);
    showProgress();
  }
  working = false;
  done = 0;
  cards.removeAttribute('aria-busy');
  showProgress();
}

/** For each file, what each of `networks` predicts: its name and the prediction. */
async function predict(batch, networks) {
  const found = batch.map(() => []);
  for (const network of networks) {
    const predictions = await classify(batch, network);
    predictions.forEach((prediction, index) => found[index].push({ network, prediction }));
  }
  return found;
}

async function classify(batch, network) {
  if (classifier.isReady?.(network) === false) {
    const { bytes } = classifier.models.find((model) => model.name === network);
    notice(`Loading the network ${network}, ${megabytes(bytes)}…`);
    try {
      await classifier.prepare(network);
      showProgress();
    } catch (error) {
      console.error(error);
      return batch.map(() => ({ error: `the network ${network} could not be loaded: ${error.message}`, again: true }));
    }
  }
  try {
    return await classifier.classify(batch, network);
  } catch (error) {
    console.error(error);
    return batch.map(() => ({ error: 'something went wrong', again: true }));
  }
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

function nextBatch() {
  const batch = [];
  let bytes = 0;
  do {
    bytes += files.get(queue[0]).size;
    batch.push(queue.shift());
  } while (queue.length && batch.length < classifier.batchSize && bytes + files.get(queue[0]).size <= BYTES_PER_BATCH);
  return batch;
}

/* Showing the predictions */

function show(card, found) {
  results.set(card, found);
  const [{ prediction }, ...others] = found;
  find('.others', card).replaceChildren(...others.map(({ network, prediction: other }) => otherNetwork(network, other)));
  find('.others', card).hidden = !others.length;
  if (prediction.error) {
    card.dataset.state = 'failed';
    find('.confidence', card).hidden = true;
    find('canvas', card).width = 0;
    find('.word', card).textContent = 'No prediction';
    explain(card, sentence(prediction.error));
    if (card !== live) find('.again', card).hidden = !prediction.again; // the next frame is tried in any case
    return;
  }
  const { label, probability, confidence } = prediction;
  const percent = percentOf(prediction);
  Object.assign(card.dataset, { state: 'done', label, probability, confidence });
  find('.word', card).textContent = WORDS[prediction.label];
  const by = others.length ? ` (${found[0].network})` : '';
  find('.percent', card).textContent = `${percent}% confidence${by}`;
  find('.meter', card).setAttribute('aria-valuenow', percent);
  find('.meter', card).setAttribute('aria-valuetext', `${percent}% confidence`);
  find('.meter', card).style.setProperty('--percent', percent);
  find('.confidence', card).hidden = false;
  const likelier = probability >= 0.5 ? 'dog' : 'cat';
  if (label === 'unsure') explain(card, `More likely a ${likelier}, ${percent}%, but too close to call.`);
  else explain(card, label === 'neither' ? `Probably no cat and no dog. If it is one, more likely a ${likelier}.` : '');
  if (prediction.map) {
    drawHeatmap(find('canvas', card), prediction.map);
    if (card !== live) find('#heatmap-choice').hidden = false;
  } else find('canvas', card).width = 0; // that of another network
}

/** A line of a card: what a further network predicts. */
function otherNetwork(network, prediction) {
  const line = document.createElement('li');
  const word = document.createElement('strong');
  if (prediction.error) {
    line.append(`${network}: ${prediction.error}`);
    return line;
  }
  word.textContent = WORDS[prediction.label];
  line.dataset.label = prediction.label;
  line.append(`${network}: `, word, `, ${percentOf(prediction)}% confidence`);
  return line;
}

const percentOf = ({ label, confidence, neither }) => wholePercent(label === 'neither' ? neither : confidence);

/** Rounded down: no network is 100% certain, and a confidence just below the threshold must not look as if it reached it. */
function wholePercent(share) {
  return Math.min(Math.floor(share * 100 + 1e-6), 99);
}

function explain(card, text) {
  find('.why', card).textContent = text;
  find('.why', card).hidden = !text;
}

function sentence(words) {
  const text = words.charAt(0).toUpperCase() + words.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

/** Draws Grad-CAM values, 0 to 255, as a heatmap, stretched over the photo as the network's input was. */
function drawHeatmap(canvas, { width, height, values }) {
  const small = Object.assign(document.createElement('canvas'), { width, height });
  const pixels = new ImageData(width, height);
  values.forEach((value, index) => {
    const heat = value / 255;
    // From transparent over red to yellow, which stands out on any photo.
    pixels.data.set([255, 40 + 190 * heat ** 1.5, 60 * heat, 190 * heat ** 1.2], index * 4);
  });
  small.getContext('2d').putImageData(pixels, 0, 0);
  canvas.width = canvas.height = 256;
  const context = canvas.getContext('2d');
  context.imageSmoothingQuality = 'high';
  context.drawImage(small, 0, 0, 256, 256);
}

function showProgress() {
  const total = done + queue.length + cards.querySelectorAll('[data-state=classifying]').length;
  const busy = total > done;
  find('#bar').hidden = !busy || !classifier;
  find('#summary').textContent = summary([...cards.children]);
  find('#summary').hidden = cards.children.length < 2;
  if (!classifier) return;
  find('#progress').textContent = busy && total > 1 ? `${done} of ${total} photos classified` : busy ? 'Classifying…' : '';
  find('#bar').max = total || 1;
  find('#bar').value = done;
}

/** For example, "Of 40 photos: 21 cat, 15 dog, 3 unsure, 1 not read". */
function summary(some) {
  const counts = { cat: 0, dog: 0, neither: 0, unsure: 0, 'not read': 0, 'not classified': 0, queued: 0 };
  for (const card of some) counts[kind(card)] += 1;
  const found = Object.entries(counts).filter(([, count]) => count);
  return `Of ${some.length} photos: ${found.map(([name, count]) => `${count} ${name}`).join(', ')}`;
}

function kind(card) {
  const { state, label } = card.dataset;
  if (state === 'done') return label;
  if (state !== 'failed') return 'queued';
  return find('.again', card).hidden ? 'not read' : 'not classified'; // the latter can be tried again
}

function announce(batch) {
  say(batch.length > 3 ? `${summary(batch)}.` : batch.map(
    (card) => ['.name', '.word', '.percent', '.why', '.others'].map((part) => find(part, card).textContent).filter(Boolean).join(', '),
  ).join('; '));
}

/** For screen readers: what is visible on the page already. */
function say(text) {
  find('#said').textContent = text;
}

/** For everyone. */
function notice(text) {
  find('#progress').textContent = text;
  say(text);
}

find('#heatmap').addEventListener('change', toggleHeatmap);
function toggleHeatmap() {
  cards.classList.toggle('heatmap', find('#heatmap').checked);
}

find('#csv').addEventListener('click', () => {
  const rows = [['photo', 'network', 'label', 'probability', 'confidence', 'neither', 'error']];
  for (const card of cards.querySelectorAll('[data-state=done], [data-state=failed]')) {
    for (const { network, prediction } of results.get(card)) {
      const { label, probability, confidence, neither, error } = prediction;
      const scores = [probability, confidence, neither].map((score) => (score == null ? '' : decimals(score)));
      rows.push([find('.name', card).textContent, network, label ?? '', ...scores, error ? sentence(error) : '']);
    }
  }
  // The mark in front tells spreadsheets that it is UTF-8.
  const text = '\ufeff' + rows.map((row) => `${row.map(cell).join(',')}\r\n`).join('');
  const link = Object.assign(document.createElement('a'), { download: 'predictions.csv' });
  link.href = URL.createObjectURL(new Blob([text], { type: 'text/csv' }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the browser may still be asking where to save it
});

const decimals = (share) => Number(share).toFixed(6);

/** A cell of a CSV file. Text that a spreadsheet would run as a formula, such as a file's name may be, begins with '. */
function cell(text) {
  const safe = /^[\s]*[=+\-@\uff1d\uff0b\uff0d\uff20]|^[\t\r\n]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

find('#clear').addEventListener('click', () => {
  for (const image of cards.querySelectorAll('img')) URL.revokeObjectURL(image.src);
  cards.replaceChildren();
  queue = [];
  done = 0;
  find('#predictions').hidden = find('#heatmap-choice').hidden = true;
  showProgress();
  say('All photos were cleared.');
  find('#choose').focus(); // the button that had the focus is gone
});

/* Choosing the network */

function offer(models) {
  const names = models.map((model) => model.name);
  const options = names.map((name) => new Option(name, JSON.stringify([name])));
  if (names.length > 1) options.push(new Option(names.length > 2 ? 'All, side by side' : 'Both, side by side', JSON.stringify(names)));
  find('#network').replaceChildren(...options);
  find('#choice').hidden = names.length < 2;
  find('#network').addEventListener('change', use);
  use();
}

/** Classifies with what is chosen, from now on and the photos that are here already. */
function use() {
  chosen = JSON.parse(find('#network').value);
  const used = classifier.models.filter((model) => chosen.includes(model.name));
  find('#about').textContent = used.map(({ name, about }) => (used.length > 1 ? `${name}: ${about}` : about)).join(' ');
  enqueueAgain([...cards.querySelectorAll('[data-state=done], [data-state=failed]')]);
}

/* The camera */

const camera = createCamera({
  live,
  predict: async (file) => (await predict([file], chosen))[0],
  show(found) {
    const before = live.dataset.label;
    show(live, found);
    if (live.dataset.label !== before) say(find('.word', live).textContent); // several times a second would be too much
  },
  keep: (file) => add([file]),
  say: notice,
});
find('#camera').addEventListener('click', () => {
  if (classifier) camera.start();
});

/* Starting */

toggleHeatmap();
find('#progress').textContent = 'Loading the network…';
try {
  const { default: createClassifier } = await globalThis.parts.importPart(document.body.dataset.classifier, 'decode.js', 'resize.js');
  classifier = await createClassifier((text) => { find('#progress').textContent = text; });
  offer(classifier.models);
  find('#privacy').textContent = classifier.privacy;
  showProgress();
  work();
} catch (error) {
  console.error(error);
  notice(`The network could not be loaded: ${error.message}. Reload the page to try again.`);
  find('#progress').classList.add('wrong');
}

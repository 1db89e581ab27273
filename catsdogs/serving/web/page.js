/** The page: takes photos in, has them classified, shows the answers. How they are classified is not its business. */

const WORDS = { cat: 'Cat', dog: 'Dog', unsure: 'Not sure' };
const BYTES_AT_ONCE = 20_000_000;

const find = (selector, root = document) => root.querySelector(selector);
const cards = find('#cards');
const files = new WeakMap(); // a card's file
let waiting = []; // cards, in the order in which they are classified
let done = 0;
let classifier = null;
let working = false;

/* Taking photos in */

for (const input of [find('#choose'), find('#take')]) {
  input.addEventListener('change', () => {
    add(input.files);
    input.value = ''; // so that choosing the same file again is a change
  });
}

addEventListener('paste', (event) => {
  if (event.clipboardData.files.length) add(event.clipboardData.files);
  else notice('Nothing was added: what you pasted is not a picture.');
});

addEventListener('dragover', (event) => {
  event.preventDefault(); // or the browser would leave the page and open the photo
  find('#drop').classList.add('over');
});
addEventListener('dragleave', (event) => {
  if (!event.relatedTarget) find('#drop').classList.remove('over');
});
addEventListener('drop', (event) => {
  event.preventDefault();
  find('#drop').classList.remove('over');
  if (event.dataTransfer.files.length) add(event.dataTransfer.files);
  else notice('Nothing was added: what you dropped is not a file. Save the picture first.');
});

function add(list) {
  if (!list.length) return;
  const added = Array.from(list, makeCard);
  cards.prepend(...added);
  enqueue(added);
}

function enqueue(added) {
  for (const card of added) {
    card.dataset.state = 'waiting';
    find('.word', card).textContent = 'Waiting…';
  }
  waiting.push(...added);
  find('#answers').hidden = false;
  showProgress();
  work();
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
  find('.again', card).addEventListener('click', () => {
    find('.again', card).hidden = true;
    enqueue([card]);
  });
  return card;
}

/* Having them classified */

async function work() {
  if (working || !classifier) return;
  working = true;
  cards.setAttribute('aria-busy', 'true');
  while (waiting.length) {
    const group = nextGroup();
    for (const card of group) {
      card.dataset.state = 'looking';
      find('.word', card).textContent = 'Looking…';
    }
    const answers = await classify(group.map((card) => files.get(card)));
    const shown = group.filter((card) => card.isConnected); // the others were cleared away meanwhile
    group.forEach((card, index) => show(card, answers[index]));
    done += shown.length;
    announce(shown);
    showProgress();
  }
  working = false;
  done = 0;
  cards.removeAttribute('aria-busy');
  showProgress();
}

async function classify(group) {
  try {
    return await classifier.classify(group);
  } catch (error) {
    console.error(error);
    return group.map(() => ({ error: 'something went wrong', again: true }));
  }
}

function nextGroup() {
  const group = [];
  let bytes = 0;
  do {
    bytes += files.get(waiting[0]).size;
    group.push(waiting.shift());
  } while (waiting.length && group.length < classifier.atOnce && bytes + files.get(waiting[0]).size <= BYTES_AT_ONCE);
  return group;
}

/* Showing the answers */

function show(card, answer) {
  if (answer.error) {
    card.dataset.state = 'failed';
    find('.word', card).textContent = 'No answer';
    explain(card, sentence(answer.error));
    find('.again', card).hidden = !answer.again;
    return;
  }
  const percent = wholePercent(answer.confidence);
  Object.assign(card.dataset, { state: 'done', label: answer.label, probability: answer.probability });
  find('.word', card).textContent = WORDS[answer.label];
  find('.sure', card).textContent = `${percent}% sure`;
  find('.meter', card).setAttribute('aria-valuenow', percent);
  find('.meter', card).setAttribute('aria-valuetext', `${percent}% sure`);
  find('.meter', card).style.setProperty('--percent', percent);
  find('.confidence', card).hidden = false;
  explain(card, answer.label === 'unsure'
    ? `More likely a ${answer.probability >= 0.5 ? 'dog' : 'cat'}, ${percent}%, but that is too close to call.` : '');
  if (answer.map) {
    drawHeat(find('canvas', card), answer.map);
    find('#heat-choice').hidden = false;
  }
}

/** Rounded down: no network is 100% sure, and what is short of the threshold must not look as if it were not. */
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

/** Draws a map of values from 0 to 255 as a glow. It stretches over the photo, as the network saw it stretched. */
function drawHeat(canvas, { width, height, values }) {
  const small = Object.assign(document.createElement('canvas'), { width, height });
  const pixels = new ImageData(width, height);
  values.forEach((value, index) => {
    const heat = value / 255;
    // From nothing over red to yellow: what is bright stands out on any photo, and what is cold stays as it is.
    pixels.data.set([255, 40 + 190 * heat ** 1.5, 60 * heat, 190 * heat ** 1.2], index * 4);
  });
  small.getContext('2d').putImageData(pixels, 0, 0);
  canvas.width = canvas.height = 256;
  const context = canvas.getContext('2d');
  context.imageSmoothingQuality = 'high';
  context.drawImage(small, 0, 0, 256, 256);
}

function showProgress() {
  const total = done + waiting.length + cards.querySelectorAll('[data-state=looking]').length;
  const busy = total > done;
  find('#bar').hidden = !busy || !classifier;
  if (!classifier) return;
  find('#progress').textContent = busy && total > 1 ? `${done} of ${total} photos looked at` : busy ? 'Looking…' : '';
  find('#bar').max = total || 1;
  find('#bar').value = done;
}

function announce(group) {
  if (group.length > 3) {
    const count = (label) => group.filter((card) => card.dataset.label === label).length;
    const failed = group.filter((card) => card.dataset.state === 'failed').length;
    say(`${group.length} photos: ${count('dog')} dogs, ${count('cat')} cats, ${count('unsure')} not sure, `
      + `${failed} without an answer.`);
  } else {
    say(group.map((card) => ['.name', '.word', '.sure', '.why'].map((part) => find(part, card).textContent)
      .filter(Boolean).join(', ')).join('; '));
  }
}

/** Tells screen readers what is to be seen on the page already. */
function say(text) {
  find('#said').textContent = text;
}

/** Tells everyone. */
function notice(text) {
  find('#progress').textContent = text;
  say(text);
}

find('#heat').addEventListener('change', showHeat);
function showHeat() {
  cards.classList.toggle('heat', find('#heat').checked);
}

find('#clear').addEventListener('click', () => {
  for (const image of cards.querySelectorAll('img')) URL.revokeObjectURL(image.src);
  cards.replaceChildren();
  waiting = [];
  done = 0;
  find('#answers').hidden = find('#heat-choice').hidden = true;
  showProgress();
  say('All photos were cleared.');
  find('#choose').focus(); // the button that had the focus is gone
});

/* Starting */

showHeat();
find('#progress').textContent = 'Loading the network…';
try {
  const { default: createClassifier } = await import('./' + document.body.dataset.classifier);
  classifier = await createClassifier();
  find('#about').textContent = classifier.about;
  find('#privacy').textContent = classifier.privacy;
  showProgress();
  work();
} catch (error) {
  console.error(error);
  notice('The network could not be loaded. Check that you are online, and reload the page.');
  find('#progress').classList.add('wrong');
}

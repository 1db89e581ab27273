/** The classifier of the HTTP service: photos are uploaded, predictions come back. */

import { MAX_BYTES, TOO_MANY_BYTES } from './decode.js';

const PHOTOS_PER_REQUEST = 16;
const LONGEST_WAIT_SECONDS = 30;

/**
 * `models` are the networks, each with its name and a description; `classify` returns the prediction of one of them, or an
 * `error` in words, for each file.
 */
export default async function createClassifier() {
  let models = [{ name: '', about: '' }];
  try {
    models = (await (await fetch('models')).json()).models;
  } catch {
    // No error here: a server that cannot be reached is reported with the first photo.
  }
  return { models, privacy: 'Photos are uploaded to this server and classified there.', batchSize: PHOTOS_PER_REQUEST, classify };
}

async function classify(files, model) {
  const refusals = await Promise.all(files.map(refuse));
  const sent = files.filter((_, index) => !refusals[index]);
  const received = sent.length ? await send(sent, model) : [];
  return refusals.map((refusal) => refusal ?? received.shift());
}

/** An error for a file that would be refused anyway, so that it need not be uploaded; else null. */
async function refuse(file) {
  if (file.size > MAX_BYTES) return { error: TOO_MANY_BYTES };
  try {
    await file.slice(0, 1).arrayBuffer(); // otherwise `fetch` would fail as it does when offline
    return null;
  } catch {
    return { error: 'cannot be read: a folder, or a file that is no longer there' };
  }
}

async function send(files, model) {
  const all = (error, again = false) => files.map(() => ({ error, again }));
  let response, body;
  try {
    response = await post(files, model);
    if (response.status === 503) {
      const seconds = Number(response.headers.get('Retry-After')) || 2;
      await new Promise((go) => setTimeout(go, 1000 * Math.min(seconds, LONGEST_WAIT_SECONDS)));
      response = await post(files, model);
    }
    body = await response.json().catch(() => ({}));
  } catch {
    return all(navigator.onLine ? 'the server cannot be reached' : 'you are offline', true);
  }
  if (body.photos?.length === files.length) return body.photos;
  if (response.status === 503) return all('the server is busy: try again in a minute', true);
  // A single photo may be the reason why all were refused.
  if (files.length > 1 && response.status < 500) return (await oneByOne(files, model)).flat();
  const detail = typeof body.detail === 'string' ? body.detail : `the server responded with ${response.status}`;
  return all(detail, response.status === 408 || response.status >= 500);
}

async function oneByOne(files, model) {
  const predictions = [];
  for (const file of files) predictions.push(await send([file], model));
  return predictions;
}

function post(files, model) {
  const form = new FormData();
  for (const file of files) form.append('photos', file, file.name || 'photo');
  const choice = model ? `&model=${encodeURIComponent(model)}` : '';
  return fetch(`predict?map=1${choice}`, { method: 'POST', body: form });
}

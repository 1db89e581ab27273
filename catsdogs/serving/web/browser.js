/** The classifier in the visitor's browser: ONNX Runtime Web runs the network, and no photo leaves the device. */

import * as ort from './ort/ort.wasm.min.mjs';
import { decode, PhotoError } from './decode.js';

const here = (name) => new URL(name, import.meta.url).href;

// More threads would need memory that they share, which browsers allow to no page without headers that most web
// servers do not send.
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = here('./ort/');

/** `about` is a sentence on the network; `classify` gives an answer or an `error` in words for each file. */
export default async function createClassifier() {
  const settings = await (await load('model.json')).json();
  const model = await (await load(settings.file)).arrayBuffer();
  const session = await ort.InferenceSession.create(model, { executionProviders: ['wasm'] });
  return {
    about: settings.about,
    privacy: 'Photos never leave this device: the network runs in your browser.',
    atOnce: 1, // so that each answer shows as soon as it is there
    async classify(files) {
      const answers = [];
      for (const file of files) answers.push(await answer(session, settings, file));
      return answers;
    },
  };
}

async function load(name) {
  const response = await fetch(here(name));
  if (!response.ok) throw new Error(`${name}: the web server answered ${response.status}`);
  return response;
}

async function answer(session, settings, file) {
  try {
    const pixels = await decode(file, settings.size);
    const photos = new ort.Tensor('uint8', pixels, [1, settings.size, settings.size, 3]);
    const outputs = await session.run({ photos });
    return { ...decide(outputs.probability.data[0], settings), map: settings.has_map ? toMap(outputs.map) : null };
  } catch (error) {
    if (error instanceof PhotoError) return { error: error.message };
    console.error(error);
    return { error: 'this browser could not do it, perhaps for want of memory', again: true };
  }
}

/** The network is surer of itself than it is right; `temperature`, fitted on validation photos, takes that back. */
function decide(probability, { temperature, unsure_below: unsureBelow }) {
  const p = Math.min(Math.max(probability, 1e-7), 1 - 1e-7);
  const calibrated = 1 / (1 + Math.exp(-Math.log(p / (1 - p)) / temperature));
  const confidence = Math.max(calibrated, 1 - calibrated);
  const label = confidence < unsureBelow ? 'unsure' : probability >= 0.5 ? 'dog' : 'cat';
  return { label, probability, confidence };
}

/** From 0 to 1 to 0 to 255, as the server has it. */
function toMap({ dims, data }) {
  const [, height, width] = dims;
  return { width, height, values: Array.from(data, (value) => Math.round(value * 255)) };
}

/** Runs the networks of the static site in a worker, so that the page stays responsive; see browser.js, which starts it. */

import { decode, PhotoError } from './decode.js';

const sessions = new Map(); // by the network's name
let ort;

/** Every message has an `id`, which the response repeats, and names one of these. */
const TASKS = { startRuntime, startNetwork, classify };

onmessage = async ({ data: { id, task, given } }) => {
  try {
    postMessage({ id, result: await TASKS[task](given) });
  } catch (error) {
    postMessage({ id, failure: error.message, part: error.part });
  }
};

/** ONNX Runtime Web, from the addresses of its modules and the bytes of its WebAssembly. */
async function startRuntime({ runtime, glue, binary }) {
  ort = await importPart(runtime);
  await importPart(glue); // ONNX Runtime imports it again, but would not say why it cannot
  // More threads would need shared memory, which browsers grant only to pages served with headers that most web servers
  // do not send.
  Object.assign(ort.env.wasm, { numThreads: 1, wasmPaths: { mjs: glue }, wasmBinary: binary });
}

async function importPart(address) {
  try {
    return await import(address);
  } catch (error) {
    throw Object.assign(new Error(error.message), { part: address });
  }
}

async function startNetwork({ name, model }) {
  sessions.set(name, await ort.InferenceSession.create(model, { executionProviders: ['wasm'] }));
}

/** The prediction of a network for a file, or an `error` in words. */
async function classify({ settings, file }) {
  try {
    const { size, name } = settings;
    const pixels = await decode(file, size);
    const photos = new ort.Tensor('uint8', pixels, [1, size, size, 3]);
    const outputs = await sessions.get(name).run({ photos });
    const neither = outputs.neither?.data[0] ?? null;
    return { ...calibrated(outputs.probability.data[0], neither, settings), map: settings.has_map ? toMap(outputs.map) : null };
  } catch (error) {
    if (error instanceof PhotoError) return { error: error.message };
    console.error(error);
    return { error: 'this browser could not run the network: it may have run out of memory', again: true };
  }
}

/**
 * Label and confidence for a `probability` of dog and, unless null, a score for `neither`, as
 * catsdogs/analysis/calibration.py computes them: temperature scaling divides the logit by `temperature`, fitted on the
 * validation set, so that of the predictions with 90% confidence, about 90% are correct. Above 1, it makes an overconfident
 * network less confident; below 1, an underconfident one more.
 */
function calibrated(probability, neither, { temperature, unsure_below: unsureBelow }) {
  const p = Math.min(Math.max(probability, 1e-7), 1 - 1e-7);
  const scaled = 1 / (1 + Math.exp(-Math.log(p / (1 - p)) / temperature));
  const confidence = Math.max(scaled, 1 - scaled);
  const likelier = probability >= 0.5 ? 'dog' : 'cat';
  const label = neither >= 0.5 ? 'neither' : confidence < unsureBelow ? 'unsure' : likelier;
  return { label, probability, confidence, neither };
}

/** The Grad-CAM map, 0 to 1, in the form that the server sends: 0 to 255. */
function toMap({ dims, data }) {
  const [, height, width] = dims;
  return { width, height, values: Array.from(data, (value) => Math.round(value * 255)) };
}

/** The classifier of the static site: ONNX Runtime Web runs the network in the browser, and no photo leaves the device. */

import { decode, PhotoError } from './decode.js';

const { LoadError, load, importPart, address } = globalThis.parts;
let ort;

/**
 * `models` are the networks, each with its name, its size in bytes and a description. `prepare` fetches and starts one of
 * them, unless that has been done; `classify` returns its prediction, or an `error` in words, for each file.
 */
export default async function createClassifier() {
  if (!globalThis.WebAssembly) throw new LoadError('this browser has no WebAssembly, or it is turned off');
  const models = await loadModels();
  await loadRuntime();
  const sessions = new Map(); // by name: promises
  const settingsOf = (name) => models.find((model) => model.name === name);
  function prepare(name) {
    if (!sessions.has(name)) {
      const session = start(settingsOf(name).file);
      sessions.set(name, session);
      session.catch(() => sessions.delete(name)); // so that it can be tried again
    }
    return sessions.get(name);
  }
  await prepare(models[0].name);
  return {
    models,
    privacy: 'Photos never leave this device: the network runs in your browser.',
    batchSize: 1, // so that each prediction is shown as soon as there is one
    isReady: (name) => sessions.has(name),
    prepare,
    async classify(files, name) {
      const session = await prepare(name);
      const predictions = [];
      for (const file of files) predictions.push(await predict(session, settingsOf(name), file));
      return predictions;
    },
  };
}

async function loadModels() {
  const response = await load('models.json');
  try {
    return (await response.json()).models;
  } catch {
    throw new LoadError('the web server sends something else in place of models.json');
  }
}

/** ONNX Runtime Web. Its modules are named .js and its WebAssembly is fetched here: many servers know no .mjs and .wasm. */
async function loadRuntime() {
  const glue = 'ort/ort-wasm-simd-threaded.js';
  const binary = 'ort/ort-wasm-simd-threaded.wasm';
  ort = await importPart('ort/ort.wasm.min.js');
  await importPart(glue); // ONNX Runtime imports it again, but would not say why it cannot
  const bytes = new Uint8Array(await (await load(binary)).arrayBuffer());
  if (String.fromCharCode(...bytes.subarray(0, 4)) !== '\0asm') {
    throw new LoadError(`the web server sends something else in place of ${binary}`);
  }
  // More threads would need shared memory, which browsers grant only to pages served with headers that most web servers
  // do not send.
  Object.assign(ort.env.wasm, { numThreads: 1, wasmPaths: { mjs: address(glue) }, wasmBinary: bytes });
}

async function start(file) {
  const model = await (await load(file)).arrayBuffer();
  try {
    return await ort.InferenceSession.create(model, { executionProviders: ['wasm'] });
  } catch (error) {
    console.error(error);
    throw new LoadError(`this browser could not start the network (${error.message})`);
  }
}

async function predict(session, settings, file) {
  try {
    const pixels = await decode(file, settings.size);
    const photos = new ort.Tensor('uint8', pixels, [1, settings.size, settings.size, 3]);
    const outputs = await session.run({ photos });
    const neither = outputs.neither?.data[0] ?? null;
    return { ...calibrated(outputs.probability.data[0], neither, settings), map: settings.has_map ? toMap(outputs.map) : null };
  } catch (error) {
    if (error instanceof PhotoError) return { error: error.message };
    console.error(error);
    return { error: 'this browser could not run the network: it may have run out of memory', again: true };
  }
}

/**
 * Label and confidence for a `probability` of dog and, unless null, a score for `neither`, as catsdogs/analysis/calibration.py computes them: temperature scaling
 * divides the logit by `temperature`, fitted on the validation set, so that of the predictions with 90% confidence, about
 * 90% are correct. Above 1, it makes an overconfident network less confident; below 1, an underconfident one more.
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

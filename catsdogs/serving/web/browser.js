/** The classifier of the static site: the networks run in the browser, in worker.js, and no photo leaves the device. */

const { LoadError, load, diagnose, address } = globalThis.parts;

const RUNTIME = 'ort/ort.wasm.min.js';
const GLUE = 'ort/ort-wasm-simd-threaded.js';
const BINARY = 'ort/ort-wasm-simd-threaded.wasm';

/**
 * `models` are the networks, each with its name, its size in bytes and a description. `prepare` fetches and starts one of
 * them, unless that has been done; `classify` returns its prediction, or an `error` in words, for each file.
 */
export default async function createClassifier(say) {
  keepForOffline();
  if (!globalThis.WebAssembly) throw new LoadError('this browser has no WebAssembly, or it is turned off');
  const { models, bytes } = await loadModels();
  say(`Loading the network, ${(bytes / 1e6).toFixed(1)} MB…`);
  const ask = startWorker();
  await startRuntime(ask);
  const started = new Map(); // by the network's name: promises
  const settingsOf = (name) => models.find((model) => model.name === name);
  function prepare(name) {
    if (!started.has(name)) {
      const starting = startNetwork(ask, settingsOf(name));
      started.set(name, starting);
      starting.catch(() => started.delete(name)); // so that it can be tried again
    }
    return started.get(name);
  }
  await prepare(models[0].name);
  return {
    models,
    privacy: 'Photos never leave this device: the network runs in your browser.',
    batchSize: 1, // so that each prediction is shown as soon as there is one
    isReady: (name) => started.has(name),
    prepare,
    async classify(files, name) {
      await prepare(name);
      return Promise.all(files.map((file) => ask('classify', { settings: settingsOf(name), file })));
    },
  };
}

/** Has the service worker keep this version of the site, and offers a new one where there is. */
async function keepForOffline() {
  const workers = navigator.serviceWorker;
  if (!workers) return; // an insecure page, or a private window
  const replaced = Boolean(workers.controller);
  workers.addEventListener('controllerchange', () => {
    if (replaced) location.reload();
  });
  try {
    const registration = await workers.register(address('sw.js'));
    const offer = () => {
      const { waiting } = registration;
      if (!waiting || !workers.controller) return;
      const notice = document.querySelector('#version');
      notice.hidden = false;
      notice.querySelector('button').onclick = () => waiting.postMessage('replace');
    };
    offer();
    registration.addEventListener('updatefound', () => {
      registration.installing.addEventListener('statechange', offer);
    });
  } catch (error) {
    console.warn(error); // without it, the page works as long as there is a network
  }
}

async function loadModels() {
  const response = await load('models.json');
  try {
    return await response.json();
  } catch {
    throw new LoadError('the web server sends something else in place of models.json');
  }
}

/** A function that has the worker do a task, and returns its result. */
function startWorker() {
  const worker = new Worker(address('worker.js'), { type: 'module' });
  const waiting = new Map(); // by the message's id
  let last = 0;
  let broken = null;
  worker.onmessage = ({ data: { id, result, failure, part } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (failure === undefined) resolve(result);
    else reject(Object.assign(new Error(failure), { part }));
  };
  worker.onerror = (event) => {
    event.preventDefault(); // the page says it
    broken = new Error(event.message || 'no reason given');
    for (const { reject } of waiting.values()) reject(broken);
    waiting.clear();
  };
  return (task, given, transferred = []) => new Promise((resolve, reject) => {
    if (broken) return reject(broken);
    waiting.set(last += 1, { resolve, reject });
    return worker.postMessage({ id: last, task, given }, transferred);
  });
}

/** ONNX Runtime Web. Its modules are named .js and its WebAssembly is fetched here: many servers know no .mjs and .wasm. */
async function startRuntime(ask) {
  const binary = await (await load(BINARY)).arrayBuffer();
  if (String.fromCharCode(...new Uint8Array(binary, 0, 4)) !== '\0asm') {
    throw new LoadError(`the web server sends something else in place of ${BINARY}`);
  }
  try {
    await ask('startRuntime', { runtime: address(RUNTIME), glue: address(GLUE), binary }, [binary]);
  } catch (error) {
    const part = [RUNTIME, GLUE].find((name) => address(name) === error.part);
    await diagnose(error, ...(part ? [part] : ['worker.js', 'decode.js', 'resize.js']));
  }
}

async function startNetwork(ask, { name, file }) {
  const model = await (await load(file)).arrayBuffer();
  try {
    await ask('startNetwork', { name, model }, [model]);
  } catch (error) {
    console.error(error);
    throw new LoadError(`this browser could not start the network (${error.message})`);
  }
}

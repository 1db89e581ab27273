/**
 * The service worker of the static site: keeps all of one version in a cache, so that it opens and classifies without a
 * network. `catsdogs export` fills in the files.
 */

/** By name: the SHA-256 of the files of the page, and of the networks that are fetched once they are chosen. */
const { version, files, later } = { version: '', files: {}, later: {} };

const PREFIX = `catsdogs ${registration.scope} `;
const CACHE = PREFIX + version;

addEventListener('install', (event) => {
  event.waitUntil(Promise.all(Object.entries(files).map(async ([name, digest]) => {
    const { ok, status } = await fetched(name, digest);
    if (!ok) throw new Error(`the web server responded with status ${status} for ${name}`);
  })));
});

addEventListener('activate', (event) => event.waitUntil(activate()));
async function activate() {
  const old = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== CACHE);
  await Promise.all(old.map((name) => caches.delete(name)));
  if (!old.length) await clients.claim(); // the first visit: there is no page of another version
}

// A new version waits until no page of the old one is open, or until the page asks for it.
addEventListener('message', ({ data }) => {
  if (data === 'replace') skipWaiting();
});

addEventListener('fetch', (event) => {
  const url = new URL(event.request.url);
  const name = url.href.startsWith(registration.scope) ? url.href.slice(registration.scope.length).replace(/[?#].*/, '') : null;
  const file = name === '' ? 'index.html' : name;
  const digest = files[file] ?? later[file];
  if (event.request.method === 'GET' && digest) event.respondWith(cachedOrFetched(file, digest));
});

async function cachedOrFetched(name, digest) {
  const cache = await caches.open(CACHE);
  return (await cache.match(name)) ?? fetched(name, digest);
}

/**
 * The file `name`, which is in the cache from then on. A file of another version, as there may be for as long as a web
 * server is being given a new one, is an error.
 */
async function fetched(name, digest) {
  const response = await fetch(name, { cache: 'no-cache' });
  if (!response.ok) return response;
  const found = new Uint8Array(await crypto.subtle.digest('SHA-256', await response.clone().arrayBuffer()));
  const hex = Array.from(found, (byte) => byte.toString(16).padStart(2, '0')).join('');
  if (hex !== digest) throw new Error(`${name} is of a different version`);
  const cache = await caches.open(CACHE);
  await cache.put(name, response.clone());
  return response;
}

/**
 * Loads the page's parts, and says what failed where one of them cannot be loaded.
 *
 * A classic script, unlike all others: these are modules, which browsers refuse to run where the page was opened as a file
 * or the web server sends them with the wrong content type. The modules find it as `parts`.
 */

'use strict';

/** A part that cannot be loaded. Its message says which, and why. */
class LoadError extends Error {}

const address = (name) => new URL(name, document.baseURI).href;

/** The response for the file `name` of the page. */
async function load(name) {
  let response;
  try {
    response = await fetch(address(name));
  } catch {
    throw new LoadError(navigator.onLine
      ? `${name} could not be fetched, as the web server cannot be reached` : `${name} could not be fetched, as you are offline`);
  }
  if (response.status === 404) {
    throw new LoadError(`the web server has no ${name} (status 404), or does not serve files of this type`);
  }
  if (!response.ok) throw new LoadError(`the web server responded with status ${response.status} for ${name}`);
  return response;
}

/** The module `name`; `needed` are the modules that it imports, one of which may be what fails. */
async function importPart(name, ...needed) {
  try {
    return await import(address(name));
  } catch (error) {
    return diagnose(error, name, ...needed);
  }
}

/** Raises the reason why the module `name` could not be imported, which ended in `error`. */
async function diagnose(error, name, ...needed) {
  for (const part of [name, ...needed]) {
    const type = (await load(part)).headers.get('Content-Type') ?? 'a file of unknown type';
    if (!/\b(java|ecma)script\b/i.test(type)) {
      throw new LoadError(`the web server sends ${part} as ${type}, and browsers run text/javascript only`);
    }
  }
  throw new LoadError(`this browser could not run ${name} (${error.message})`);
}

globalThis.parts = { LoadError, load, importPart, diagnose, address };

if (location.protocol === 'file:') {
  fail('This page was opened as a file, and browsers run it from a web server only. '
    + 'In its folder, run python -m http.server, and open http://localhost:8000.');
} else {
  importPart('page.js', 'camera.js').catch((error) => {
    console.error(error);
    fail(`The page could not be loaded: ${error.message}.`);
  });
}

function fail(text) {
  const progress = document.querySelector('#progress');
  progress.textContent = text;
  progress.classList.add('wrong');
}

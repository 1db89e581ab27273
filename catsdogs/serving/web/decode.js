/**
 * Decodes a file into the network's input, as catsdogs/data/decode.py does, with the browser's decoders.
 *
 * In Chromium, the pixels are identical, including transparent ones, with two exceptions: it ignores the EXIF orientation
 * of WebP, and decodes transparent or animated AVIF a few levels darker. PNG without its end marker is refused here, while
 * Pillow accepts it.
 */

import { resizeBilinear } from './resize.js';

export const MAX_BYTES = 20_000_000;
const MAX_PIXELS = 50_000_000;
export const TOO_MANY_BYTES = `more than ${MAX_BYTES / 1e6} MB`;
const TILE = 2048; // pixels per side: phones refuse canvases as large as their own photos

/** A file that cannot be used as a photo. Its message says why, in a few words. */
export class PhotoError extends Error {}

/** A photo as size × size RGB pixels: upright, stretched, transparency on white; of an animation, the first frame. */
export async function decode(file, size) {
  const bytes = await read(file);
  const found = inspect(bytes);
  if (!found) throw new PhotoError('no photo: expected JPEG, PNG, WebP, GIF, AVIF or BMP');
  refuseTooManyPixels(found);
  // Browsers show as much as there is of a truncated photo; Pillow refuses it, and so do we.
  if (!found.whole) throw new PhotoError('damaged: the file is cut short');
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob([bytes], { type: found.type }), {
      imageOrientation: 'from-image', colorSpaceConversion: 'none', premultiplyAlpha: 'none',
    });
  } catch {
    throw new PhotoError(found.rare
      ? `a ${found.rare} photo, which this browser cannot read: save it as JPEG` : 'damaged: it cannot be decoded');
  }
  try {
    refuseTooManyPixels(bitmap);
    return resizeBilinear(toRgb(bitmap), bitmap.width, bitmap.height, size);
  } finally {
    bitmap.close(); // the garbage collector does not know how large it is, and would wait
  }
}

async function read(file) {
  if (file.size > MAX_BYTES) throw new PhotoError(TOO_MANY_BYTES);
  let bytes;
  try {
    bytes = new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new PhotoError('cannot be read: a folder, or a file that is no longer there');
  }
  if (!bytes.length) throw new PhotoError('empty file');
  return bytes;
}

function refuseTooManyPixels({ width = 0, height = 0 }) {
  if (width * height > MAX_PIXELS) {
    throw new PhotoError(`${width}×${height} pixels, more than ${MAX_PIXELS / 1e6} million`);
  }
}

function toRgb(bitmap) {
  const { width, height } = bitmap;
  const rgb = new Uint8Array(width * height * 3);
  const canvas = new OffscreenCanvas(Math.min(width, TILE), Math.min(height, TILE)); // there is no document in a worker
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.fillStyle = 'white';
  for (let top = 0; top < height; top += TILE) {
    for (let left = 0; left < width; left += TILE) {
      const columns = Math.min(width - left, TILE);
      const rows = Math.min(height - top, TILE);
      context.fillRect(0, 0, columns, rows);
      context.drawImage(bitmap, left, top, columns, rows, 0, 0, columns, rows);
      const { data } = context.getImageData(0, 0, columns, rows);
      for (let row = 0, from = 0; row < rows; row++) {
        let to = ((top + row) * width + left) * 3;
        for (let column = 0; column < columns; column++, from += 4) {
          rgb[to++] = data[from];
          rgb[to++] = data[from + 1];
          rgb[to++] = data[from + 2];
        }
      }
    }
  }
  canvas.width = canvas.height = 0;
  return rgb;
}

/**
 * The format of a file by its bytes, whatever its name and type: { type, width, height, whole }, or null for no photo.
 * Browsers would decode more than we want, such as SVG. Width and height are left out where they are costly to find.
 */
function inspect(bytes) {
  const view = new DataView(bytes.buffer);
  const text = (from, count) => String.fromCharCode(...bytes.subarray(from, from + count));
  const start = text(0, 12);
  try {
    if (start.startsWith('\xff\xd8\xff')) return inspectJpeg(view);
    if (start.startsWith('\x89PNG\r\n\x1a\n')) return inspectPng(view, text);
    if (/^GIF8[79]a/.test(start)) return inspectGif(view);
    if (/^RIFF[^]{4}WEBP/.test(start)) return inspectWebp(view, text);
    if (start.startsWith('BM')) return inspectBmp(view);
  } catch (error) {
    if (error instanceof RangeError) return { whole: false }; // the file ended within its header
    throw error;
  }
  if (start.slice(4, 8) === 'ftyp') {
    const brands = text(8, Math.min(view.getUint32(0), 256) - 8).match(/[^]{4}/g) ?? [];
    if (brands.some((brand) => /^avi[fs]$/.test(brand))) return { type: 'image/avif', whole: true };
    if (brands.some((brand) => /^(he[iv][cx]|mif1|msf1)$/.test(brand))) {
      return { type: 'image/heic', rare: 'HEIC', whole: true };
    }
  }
  if (/^(II\*\0|MM\0\*)/.test(start)) return { type: 'image/tiff', rare: 'TIFF', whole: true };
  return null;
}

function inspectJpeg(view) {
  const found = { type: 'image/jpeg', whole: false };
  let at = 2;
  while (at + 2 <= view.byteLength) {
    const marker = view.getUint8(at) === 0xff ? view.getUint8(at + 1) : 0;
    if (marker === 0xd9) return { ...found, whole: true };
    if (marker === 0 || marker === 0xff) at += 1; // pixels, or padding before a marker
    else if (marker === 0x01 || (marker >= 0xd0 && marker <= 0xd7)) at += 2; // markers without a segment
    else {
      if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
        found.height = view.getUint16(at + 5);
        found.width = view.getUint16(at + 7);
      }
      at += 2 + view.getUint16(at + 2);
    }
  }
  return found;
}

function inspectPng(view, text) {
  const found = { type: 'image/png', width: view.getUint32(16), height: view.getUint32(20), whole: false };
  for (let at = 8; at + 8 <= view.byteLength; at += 12 + view.getUint32(at)) {
    if (text(at + 4, 4) === 'IEND') found.whole = true;
  }
  return found;
}

function inspectGif(view) {
  const tableBytes = (flags) => (flags & 0x80 ? 3 * 2 ** ((flags & 7) + 1) : 0);
  const found = { type: 'image/gif', width: view.getUint16(6, true), height: view.getUint16(8, true), whole: false };
  let at = 13 + tableBytes(view.getUint8(10));
  for (;;) {
    const isFrame = view.getUint8(at) === 0x2c;
    if (!isFrame && view.getUint8(at) !== 0x21) return found;
    at += isFrame ? 11 + tableBytes(view.getUint8(at + 9)) : 2;
    while (at < view.byteLength && view.getUint8(at)) at += 1 + view.getUint8(at);
    if (isFrame) return { ...found, whole: at <= view.byteLength };
    at += 1;
  }
}

function inspectWebp(view, text) {
  const found = { type: 'image/webp', whole: view.getUint32(4, true) + 8 <= view.byteLength };
  const kind = text(12, 4);
  const in24 = (at) => view.getUint16(at, true) + (view.getUint8(at + 2) << 16);
  if (kind === 'VP8X') return { ...found, width: in24(24) + 1, height: in24(27) + 1 };
  if (kind === 'VP8 ') {
    return { ...found, width: view.getUint16(26, true) & 0x3fff, height: view.getUint16(28, true) & 0x3fff };
  }
  const bits = view.getUint32(21, true);
  return { ...found, width: (bits & 0x3fff) + 1, height: ((bits >> 14) & 0x3fff) + 1 };
}

function inspectBmp(view) {
  const old = view.getUint32(14, true) === 12;
  const width = old ? view.getUint16(18, true) : Math.abs(view.getInt32(18, true));
  const height = old ? view.getUint16(20, true) : Math.abs(view.getInt32(22, true));
  const bits = view.getUint16(old ? 24 : 28, true);
  const compressed = !old && ![0, 3].includes(view.getUint32(30, true));
  const end = view.getUint32(10, true) + Math.ceil((width * bits) / 32) * 4 * height;
  return { type: 'image/bmp', width, height, whole: compressed || end <= view.byteLength };
}

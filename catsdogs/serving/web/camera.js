/** The live camera: shows what it sees, and the prediction for it, several times a second. */

const LONGEST_SIDE = 480; // pixels: networks see fewer
const RATE_SECONDS = 2; // the rate is that of the last so many seconds

const SENTENCES = {
  NotAllowedError: 'The camera may not be used: allow it for this page in the browser, and try again.',
  NotFoundError: 'No camera was found.',
  NotReadableError: 'The camera could not be started: another program may be using it.',
  OverconstrainedError: 'No such camera was found.',
};

/**
 * A camera in the element `live`. `predict` returns what the networks predict for a file, and `show` shows it in `live`;
 * `keep` takes a file that is to stay; `say` is for messages.
 */
export default function createCamera({ live, predict, show, keep, say }) {
  const find = (selector) => live.querySelector(selector);
  const video = find('video');
  const canvas = document.createElement('canvas');
  let stream = null;
  let frozen = false;
  let frame = null; // the last one that was classified
  let devices = [];

  async function start(constraints = { facingMode: 'environment' }) {
    if (!navigator.mediaDevices?.getUserMedia) {
      say('The camera needs a secure page: open this one by https, or from localhost.');
      return;
    }
    let opened;
    try {
      opened = await navigator.mediaDevices.getUserMedia({ video: constraints, audio: false });
    } catch (error) {
      console.warn(error);
      stop();
      say(SENTENCES[error.name] ?? `The camera could not be started: ${error.message}.`);
      return;
    }
    close();
    stream = opened;
    stream.getVideoTracks()[0].addEventListener('ended', () => {
      if (opened !== stream) return;
      stop();
      say('The camera was disconnected.');
    });
    video.srcObject = stream;
    live.hidden = false;
    freeze(false);
    try {
      await video.play();
    } catch {
      return; // it was stopped meanwhile
    }
    if (opened !== stream) return;
    find('.photo').style.setProperty('--ratio', video.videoWidth / video.videoHeight);
    devices = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === 'videoinput');
    find('#switch').hidden = devices.length < 2;
    run(opened);
  }

  /** Classifies one frame after the other, for as long as this is the stream. */
  async function run(own) {
    const times = [];
    while (own === stream) {
      if (frozen || document.hidden || !video.videoWidth) {
        await new Promise((go) => setTimeout(go, 100));
        continue;
      }
      const file = await grab();
      const found = await predict(file);
      if (own !== stream) return;
      if (frozen) continue; // what is shown is the frame that is frozen
      frame = file;
      show(found);
      times.push(performance.now());
      while (times[0] < performance.now() - 1000 * RATE_SECONDS) times.shift();
      const seconds = (times.at(-1) - times[0]) / 1000;
      if (seconds > 0.5) find('.rate').textContent = `${((times.length - 1) / seconds).toFixed(0)} predictions per second`;
      await new Promise(requestAnimationFrame); // to let it be seen
    }
  }

  function grab() {
    const scale = Math.min(1, LONGEST_SIDE / Math.max(video.videoWidth, video.videoHeight));
    canvas.width = Math.round(video.videoWidth * scale);
    canvas.height = Math.round(video.videoHeight * scale);
    canvas.getContext('2d').drawImage(video, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => {
      canvas.toBlob((blob) => resolve(new File([blob], fileName(), { type: 'image/jpeg' })), 'image/jpeg', 0.92);
    });
  }

  async function freeze(wanted) {
    frozen = wanted;
    find('#freeze').setAttribute('aria-pressed', frozen);
    find('#freeze').textContent = frozen ? 'Go on' : 'Freeze';
    find('#keep').hidden = !frozen;
    if (!frozen) {
      if (stream) video.play().catch(() => {});
      return;
    }
    video.pause();
    find('.rate').textContent = '';
    const own = stream;
    const file = await grab(); // what is seen now, which may be later than what was classified last
    const found = await predict(file);
    if (own !== stream || !frozen) return;
    frame = file;
    show(found);
  }

  function close() {
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = video.srcObject = null;
  }

  function stop() {
    close();
    live.hidden = true;
  }

  find('#freeze').addEventListener('click', () => freeze(!frozen));
  find('#keep').addEventListener('click', () => {
    if (frame) keep(frame);
  });
  find('#switch').addEventListener('click', () => {
    const current = stream.getVideoTracks()[0].getSettings().deviceId;
    const next = (devices.findIndex(({ deviceId }) => deviceId === current) + 1) % devices.length;
    start({ deviceId: { exact: devices[next].deviceId } });
  });
  find('#stop').addEventListener('click', () => {
    stop();
    say('The camera was stopped.');
  });
  return { start };
}

/** For example, camera-14-05-33.jpg. */
function fileName() {
  return `camera-${new Date().toTimeString().slice(0, 8).replaceAll(':', '-')}.jpg`;
}

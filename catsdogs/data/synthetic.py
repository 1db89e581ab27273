"""The synthetic sample: cats and dogs to try notebooks, tests and CI on, without photos or network.

It stands in for the photos, with the same folders and file names. Coat, eye and nose colors,
backgrounds, light and noise come from the same distributions for both classes. What tells a cat
from a dog is the shape of its ears, muzzle, skull, pupils, legs and tail, its whiskers, and how
often the tongue shows. Every such trait is a number from 0 (the cat's) to 1 (the dog's), and now
and then an animal borrows one from the other class, so that a small network has much to learn and
still makes mistakes.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from catsdogs import CLASS_NAMES
from catsdogs.data import store
from catsdogs.parallel import map_in_threads

try:
    from tqdm.auto import tqdm
except ImportError:  # drawing needs no progress bar
    tqdm = None

#: Drawn this many times larger, then reduced: Pillow's own shapes have jagged edges.
SUPERSAMPLING = 2

#: How often a trait is the other class's, and how far traits spread around their own class's value:
#: with `hide` and `photographed` below, these two set how hard the task is.
BORROWED = 0.04
SPREAD = 0.12

COATS = (
    (38, 34, 36),
    (92, 90, 96),
    (140, 138, 142),
    (236, 230, 220),
    (226, 196, 150),
    (208, 134, 62),
    (150, 98, 58),
    (96, 62, 42),
    (186, 160, 130),
)
EYES = ((122, 160, 62), (206, 170, 50), (96, 156, 196), (176, 108, 42), (104, 64, 36))
NOSES = ((44, 36, 38), (34, 30, 34), (96, 60, 54), (214, 138, 136))
THINGS = (
    (176, 68, 60),
    (70, 108, 158),
    (90, 136, 84),
    (216, 180, 96),
    (136, 96, 146),
    (150, 118, 90),
    (220, 214, 204),
    (82, 86, 94),
    (206, 146, 130),
    (104, 164, 168),
)
INNER_EAR = (222, 164, 156)
TONGUE = (224, 112, 122)

# Outlines in units of the head's half width, y down, right half from top to bottom: cat's, dog's.
SKULLS = np.array(
    [
        [(0, -0.82), (0.5, -0.74), (0.9, -0.3), (1.0, 0.2), (0.72, 0.66), (0, 0.86)],
        [(0, -0.92), (0.46, -0.86), (0.72, -0.4), (0.64, 0.2), (0.5, 0.8), (0, 1.12)],
    ]
)


@dataclass
class Easel:
    """What is drawn on, with what coat, and where the animal's own units lie on it."""

    canvas: Image.Image
    coat: Image.Image  # as large as the canvas: the fur to paste through each part's outline
    shade: Image.Image  # the same fur in shadow
    light: tuple  # color of the muzzle, the paws and the bib
    line: tuple  # color of the outlines
    fluff: float  # how far hairs stick out of an outline, as a fraction of the outline's size
    matrix: np.ndarray  # 2x3: from the animal's units to the canvas's pixels
    rng: np.random.Generator


def draw(label: int, rng: np.random.Generator) -> Image.Image:
    """An RGB image of a cat (label 0) or a dog (label 1), 200 to 320 pixels per side."""
    width, height = (int(side) for side in rng.integers(200, 321, 2))
    size = width * SUPERSAMPLING, height * SUPERSAMPLING
    canvas = background(rng, size)
    coat, light = fur_coat(rng, size)
    line = tuple(int(c * 0.35) for c in light)
    easel = Easel(
        canvas,
        coat,
        coat.point(lambda c: int(c * 0.58)),
        light,
        line,
        rng.choice([0.0, 0.0, 0.02, 0.04]),
        np.eye(2, 3),
        rng,
    )
    names = "skull", "muzzle", "ears", "eyes", "whiskers", "tail", "legs"
    traits = {name: trait(label, rng) for name in names}
    poses = [face, sitting_front, sitting, lying]
    pose = poses[rng.choice(len(poses), p=[0.7, 0.15, 0.08, 0.07])]
    scale = min(size) * rng.uniform(0.9, 1.1) * POSE_SCALE[pose]
    middle = np.array(size) * rng.uniform(0.46, 0.54, 2)
    easel.matrix = placed(np.eye(2, 3), middle, rng.normal(0, 0.08), scale, flip=rng.random() < 0.5)
    pose(easel, traits)
    if rng.random() < 0.15:
        hide(easel)
    return photographed(canvas.reduce(SUPERSAMPLING), rng)


def save(photo: Image.Image, path: Path) -> None:
    """Save what `draw` returned as a JPEG that says of itself that it is synthetic."""
    photo.save(path, "JPEG", quality=85, comment=store.SYNTHETIC_MARK)


def write(folder: Path, per_class: int = 240, seed: int = 0, progress: bool = True) -> int:
    """Write ``Cat/1.jpg`` ... and ``Dog/1.jpg`` ... under ``folder``; return how many were written.

    An image depends on ``seed``, its class and its number alone: asking for more adds to those that
    exist and changes none.
    """
    folder = Path(folder)
    for name in CLASS_NAMES:
        (folder / name.title()).mkdir(parents=True, exist_ok=True)

    def write_one(job):
        label, number = job
        photo = draw(label, np.random.default_rng([seed, label, number]))
        save(photo, folder / CLASS_NAMES[label].title() / f"{number}.jpg")

    jobs = [
        (label, number) for label in range(len(CLASS_NAMES)) for number in range(1, per_class + 1)
    ]
    # Threads, not processes: Pillow and NumPy release the lock for most of the work, and a notebook
    # can start threads safely whatever it has imported.
    steps = map_in_threads(write_one, jobs, chunk=4)
    if progress and tqdm:
        steps = tqdm(steps, total=len(jobs), desc="Drawing", unit=" photos", disable=None)
    return sum(1 for _ in steps)


def trait(label: int, rng: np.random.Generator) -> float:
    """One trait from 0, a cat's, to 1, a dog's."""
    if rng.random() < BORROWED:
        label = 1 - label
    return float(np.clip(abs(label - abs(rng.normal(0, SPREAD))), 0, 1))


# Shapes: arrays of points (n, 2) in the animal's own units.


def placed(matrix, at, turn: float = 0.0, scale: float = 1.0, flip: bool = False) -> np.ndarray:
    """``matrix`` moved to ``at``, rotated by ``turn`` radians, scaled, flipped; 2x3."""
    cos, sin = np.cos(turn) * scale, np.sin(turn) * scale
    inner = np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if flip else 1.0, 1.0])
    return np.column_stack(
        [matrix[:, :2] @ inner, matrix[:, :2] @ np.asarray(at, float) + matrix[:, 2]]
    )


def smooth(points, steps: int = 7) -> np.ndarray:
    """A closed Catmull-Rom curve through the points, ``steps`` points for each given."""
    p = np.asarray(points, float)
    before, after, later = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = (q[:, None] for q in (before, p, after, later))
    curve = (
        b
        + t / 2 * (c - a)
        + t**2 * (a - 2.5 * b + 2 * c - d / 2)
        + t**3 * (1.5 * (b - c) + (d - a) / 2)
    )
    return curve.reshape(-1, 2)


def symmetric(half) -> np.ndarray:
    """The closed outline whose right half, from top to bottom, is ``half``."""
    half = np.asarray(half, float)
    return np.concatenate([half, half[-2:0:-1] * (-1, 1)])


def oval(x: float, y: float, rx: float, ry: float, steps: int = 28) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    return np.column_stack([x + rx * np.cos(angle), y + ry * np.sin(angle)])


def limb(points, start: float, end: float) -> np.ndarray:
    """A round-ended outline along an open curve, its half width going from ``start`` to ``end``."""
    points = np.asarray(points, float)
    t = np.linspace(0, 1, 14)[:, None]
    if len(points) == 2:
        spine = points[0] + t * (points[1] - points[0])
    else:
        a, b, c = points
        spine = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c
    along = np.gradient(spine, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    across = along[:, ::-1] * (-1, 1) * (start + t * (end - start))
    cap = np.linspace(-np.pi / 2, np.pi / 2, 7)[1:-1, None]
    tip = spine[-1] + end * np.cos(cap) * along[-1] - np.sin(cap) * across[-1]
    return np.concatenate([spine + across, tip, (spine - across)[::-1]])


# Paint.


def on_canvas(easel: Easel, points) -> np.ndarray:
    return np.asarray(points) @ easel.matrix[:, :2].T + easel.matrix[:, 2]


def ink(easel: Easel, points, color) -> None:
    """Fill a shape with one color."""
    ImageDraw.Draw(easel.canvas).polygon(
        [tuple(p) for p in on_canvas(easel, points)], fill=tuple(color)
    )


def stroke(easel: Easel, points, color, width: float) -> None:
    """An open line, ``width`` in the animal's units."""
    pixels = max(1, round(width * np.linalg.norm(easel.matrix[:, 0])))
    ImageDraw.Draw(easel.canvas).line(
        [tuple(p) for p in on_canvas(easel, points)],
        fill=tuple(color),
        width=pixels,
        joint="curve",
    )


def fur(easel: Easel, points, far: bool = False) -> None:
    """Fill a shape with the coat, lit from above: darker where it curves away, or if ``far``."""
    points = on_canvas(easel, points)
    if easel.fluff:
        middle = points.mean(0)
        points = np.concatenate([points, (points + np.roll(points, -1, 0)) / 2], 1).reshape(-1, 2)
        points[1::2] += (points[1::2] - middle) * easel.rng.uniform(
            0, 2 * easel.fluff, (len(points) // 2, 1)
        )
    low = np.maximum(np.floor(points.min(0)).astype(int) - 2, 0)
    high = np.minimum(np.ceil(points.max(0)).astype(int) + 3, easel.canvas.size)
    if (high <= low).any():
        return
    box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    mask = Image.new("L", (box[2] - box[0], box[3] - box[1]))
    outline = [tuple(p) for p in points - low]
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    easel.canvas.paste((easel.shade if far else easel.coat).crop(box), box, mask)
    if not far:
        shading = SHADING.resize(mask.size, Image.Resampling.BILINEAR)
        easel.canvas.paste(easel.shade.crop(box), box, ImageChops.multiply(mask, shading))
    closed = [tuple(p) for p in np.concatenate([points, points[:2]])]
    ImageDraw.Draw(easel.canvas).line(closed, fill=easel.line, width=SUPERSAMPLING, joint="curve")


def volume(side: int = 64) -> Image.Image:
    """How much shadow falls on each point of a round body lit from above: an L image."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    return Image.fromarray(np.uint8(255 * np.clip(np.hypot(x, y + 0.3) - 0.55, 0, 0.75)))


SHADING = volume()


# The animal. Heads are in units of half their width, bodies of about half their height. All face
# left.


def head(easel: Easel, traits: dict, at, size: float, profile: bool) -> None:
    """A head at ``at``, half as wide as ``size``, tilted at random."""
    turn = easel.rng.normal(0, 0.12)
    on_head = replace(easel, matrix=placed(easel.matrix, at, turn, size))
    (head_from_the_side if profile else head_from_the_front)(on_head, traits)


def head_from_the_front(easel: Easel, traits: dict) -> None:
    rng = easel.rng
    skull = mix(SKULLS[0], SKULLS[1], traits["skull"])
    look = rng.uniform(-0.2, 0.2)  # the face is turned a little: what protrudes moves most
    floppy = traits["ears"] > 0.5 and rng.random() < 0.9
    if not floppy:
        ears(easel, traits["ears"])
    fur(easel, smooth(symmetric(skull)))
    if floppy:
        ears(easel, traits["ears"], floppy=True)
    eyes(easel, traits["eyes"], [(-0.4 + look * 0.6, -0.1), (0.4 + look * 0.6, -0.1)])
    muzzle(easel, traits, look)


def ears(easel: Easel, t: float, floppy: bool = False) -> None:
    """Two ears: pointed (a cat's, some folded), or upright and blunt, or hanging (a dog's)."""
    rng = easel.rng
    long, wide, hidden = rng.uniform(0.8, 1.15), rng.uniform(0.85, 1.15), rng.random() < 0.06
    folded = not floppy and rng.random() < 0.08
    for side in (-1, 1):
        if hidden and side == 1:
            continue
        if floppy:
            ear = smooth(
                [
                    (0.34, -0.84),
                    (0.74, -0.82),
                    (1.06 * wide, -0.3),
                    (1.1 * wide, 0.55 * long),
                    (0.86, 0.85 * long),
                    (0.66, 0.3),
                    (0.6, -0.3),
                ]
            )
            fur(easel, ear * (side, 1), far=True)
            continue
        tip = np.array((mix(0.88, 0.66, t) * wide, -0.55 - mix(0.85, 0.8, t) * long))
        if folded:
            tip = np.array((0.98, -0.62))
        base = np.array([(0.16, -0.7), (mix(0.92, 0.74, t), -0.2)])
        blunt = mix(0.05, 0.2, t)
        ear = np.array(
            [base[0], tip - (blunt, -blunt), tip, tip + (blunt * 0.6, blunt), base[1], (0.4, -0.1)]
        )
        if t > 0.5:
            ear = smooth(ear)
        fur(easel, ear * (side, 1))
        if not folded:
            inner = ear.mean(0) + (ear - ear.mean(0)) * 0.6
            ink(easel, inner * (side, 1), INNER_EAR)


def eyes(easel: Easel, t: float, places) -> None:
    """Large with upright slits (a cat's) or small with round pupils (a dog's); sometimes closed."""
    rng = easel.rng
    iris = EYES[rng.integers(len(EYES))]
    closed, radius, pupil = (
        rng.random() < 0.06,
        mix(0.24, 0.13, t),
        mix(rng.uniform(0.2, 0.45), 0.65, t),
    )
    for x, y in places:
        if closed:
            stroke(easel, [(x - radius, y), (x, y + radius / 2), (x + radius, y)], easel.line, 0.06)
            continue
        ink(easel, oval(x, y, radius * 1.15, radius * 1.05), easel.line)
        ink(easel, oval(x, y, radius, radius * 0.9), iris)
        ink(easel, oval(x, y, radius * pupil, radius * mix(0.85, 0.65, t)), (18, 16, 18))
        ink(
            easel,
            oval(x - radius * 0.3, y - radius * 0.35, radius * 0.2, radius * 0.2),
            (250, 250, 250),
        )


def muzzle(easel: Easel, traits: dict, look: float) -> None:
    """Muzzle, nose, mouth, whiskers and, sometimes, the tongue, seen from the front."""
    rng, t = easel.rng, traits["muzzle"]
    x, y = look, mix(0.26, 0.4, t)
    nose = NOSES[rng.integers(len(NOSES))]
    down = y + mix(0.2, 0.34, t)
    if rng.random() < mix(0.06, 0.4, t):
        ink(
            easel,
            limb([(x, down + 0.1), (x + 0.03, down + mix(0.25, 0.5, t))], 0.12, mix(0.09, 0.15, t)),
            TONGUE,
        )
    if t > 0.5:
        outline = symmetric([(0, -0.05), (0.26, 0.05), (0.42, 0.5), (0.3, 0.76), (0, 0.74)])
        ink(easel, smooth(outline + (x, y - 0.12)), easel.light)
    else:
        for side in (-1, 1):
            ink(easel, oval(x + side * 0.17, y + 0.19, 0.24, 0.18), easel.light)
    wide, tall = mix(0.11, 0.24, t), mix(0.08, 0.16, t)
    ink(
        easel,
        smooth(symmetric([(0, -1), (1, -1), (0.5, 0.6), (0, 1)]) * (wide, tall) + (x, y), 4),
        nose,
    )
    stroke(easel, [(x, y + tall), (x, down)], easel.line, 0.035)
    bow = mix(0.2, 0.34, t)
    for side in (-1, 1):
        lip = [(x, down), (x + side * bow * 0.5, down + 0.1), (x + side * bow, down + 0.03)]
        stroke(easel, lip, easel.line, 0.035)
    whiskers(easel, traits["whiskers"], [(x - 0.2, y + 0.16, -1), (x + 0.2, y + 0.16, 1)])


def whiskers(easel: Easel, t: float, roots) -> None:
    """Three long hairs from each ``(x, y, side)``, for cats only."""
    if t > 0.5:
        return
    color = (245, 245, 240) if sum(easel.light) < 540 else easel.line
    for x, y, side in roots:
        for slope in easel.rng.normal((-0.24, 0, 0.24), 0.04):
            hair = np.array([(0, 0.2 * slope), (0.5, 0.6 * slope), (1.05, 1.4 * slope + 0.05)])
            stroke(easel, hair * (side, 1) + (x, y), color, 0.03)


def head_from_the_side(easel: Easel, traits: dict) -> None:
    """A head looking left."""
    rng, t = easel.rng, traits["muzzle"]
    e = traits["ears"]
    tip = np.array((mix(-0.82, -1.5, t), mix(0.32, 0.34, t)))
    if rng.random() < mix(0.03, 0.35, t):
        ink(easel, limb([tip + (0.3, 0.2), tip + (0.2, 0.6)], 0.1, 0.12), TONGUE)
    upright = e <= 0.5 or rng.random() < 0.25
    if upright:
        ear = np.array(
            [(-0.2, -0.6), (mix(0.1, 0.2, e), -1.4), (mix(0.2, 0.4, e), -1.35), (0.62, -0.4)]
        )
        fur(easel, (ear if e <= 0.5 else smooth(ear)) + (0.12, 0), far=True)
    fur(easel, limb([(0.1, 0.2), tip], mix(0.5, 0.46, t), mix(0.26, 0.24, t)))
    fur(easel, oval(0.05, 0, mix(0.86, 0.78, traits["skull"]), mix(0.82, 0.74, traits["skull"])))
    ink(
        easel,
        limb([tip + (mix(0.2, 0.6, t), 0.08), tip], mix(0.18, 0.28, t), mix(0.2, 0.2, t)),
        easel.light,
    )
    wide = mix(0.09, 0.17, t)
    nose = NOSES[rng.integers(len(NOSES))]
    ink(easel, oval(tip[0] - mix(0.16, 0.14, t), tip[1] - 0.12, wide, wide * 0.8), nose)
    mouth = [tip + (-0.1, 0.1), tip + (mix(0.15, 0.3, t), 0.16), tip + (mix(0.35, 0.75, t), 0.08)]
    stroke(easel, mouth, easel.line, 0.035)
    eyes(easel, traits["eyes"], [(-0.36, -0.12)])
    if upright:
        fur(easel, ear if e <= 0.5 else smooth(ear))
        ink(easel, ear.mean(0) + (ear - ear.mean(0)) * 0.5, INNER_EAR)
    else:
        fur(
            easel,
            smooth([(0.0, -0.6), (0.5, -0.62), (0.78, 0), (0.66, 0.7), (0.36, 0.8), (0.2, 0.2)]),
        )
    whiskers(easel, traits["whiskers"], [(tip[0] + 0.12, tip[1] + 0.02, 1)])


def tail(easel: Easel, t: float, at, up: float) -> None:
    """From ``at`` to the right: long and thin (a cat's) or shorter and thicker (a dog's)."""
    x, y = at
    bend, reach = easel.rng.uniform(0.5, 0.9), mix(1.25, 0.8, t)
    end = (x + reach * easel.rng.uniform(0.2, 0.7), y - up * reach)
    fur(easel, limb([(x, y), (x + bend, y + 0.1), end], mix(0.11, 0.2, t), mix(0.08, 0.1, t)))


def paw(easel: Easel, x: float, y: float, light: bool) -> None:
    fur(easel, oval(x, y, 0.22, 0.13))
    if light:
        ink(easel, oval(x - 0.02, y + 0.01, 0.17, 0.09), easel.light)


def face(easel: Easel, traits: dict) -> None:
    """A close-up: shoulders and a head from the front or, less often, from the side."""
    fur(easel, smooth(symmetric([(0, 0.3), (0.6, 0.5), (0.95, 1.2), (1.1, 2.4), (0, 2.6)])))
    ink(easel, smooth(symmetric([(0, 0.7), (0.3, 0.9), (0.3, 1.4), (0, 1.9)])), easel.light)
    collar(easel, [(-0.62, 0.98), (0, 1.2), (0.62, 0.98)])
    profile = easel.rng.random() < 0.1
    head(easel, traits, (0.3 if profile else 0, 0), 1.0, profile)


def sitting(easel: Easel, traits: dict) -> None:
    """Seen from the side."""
    socks = easel.rng.random() < 0.4
    leg = mix(0.13, 0.17, traits["legs"])
    tail(easel, traits["tail"], (0.62, 0.82), easel.rng.uniform(-0.05, 0.9))
    fur(easel, limb([(-0.2, 0.1), (-0.26, 1.0)], leg, leg * 0.8), far=True)
    fur(
        easel,
        smooth(
            [
                (-0.3, -1.0),
                (-0.6, -0.5),
                (-0.5, 0.3),
                (-0.25, 0.95),
                (0.5, 1.0),
                (0.85, 0.6),
                (0.7, 0),
                (0.25, -0.7),
            ]
        ),
    )
    fur(easel, limb([(-0.36, 0), (-0.4, 0.98)], leg * 1.1, leg * 0.8))
    fur(easel, oval(0.42, 0.6, 0.44, 0.42))
    paw(easel, -0.48, 1.0, socks)
    paw(easel, 0.16, 1.0, socks)
    collar(easel, [(-0.58, -0.62), (-0.3, -0.5), (0.1, -0.72)])
    head(easel, traits, (-0.32, -1.1), 0.8, profile=easel.rng.random() < 0.5)


def sitting_front(easel: Easel, traits: dict) -> None:
    """Seen from the front."""
    socks = easel.rng.random() < 0.4
    leg = mix(0.13, 0.17, traits["legs"])
    tail(easel, traits["tail"], (0.5, 0.85), easel.rng.uniform(-0.05, 0.7))
    for side in (-1, 1):
        fur(easel, oval(side * 0.5, 0.68, 0.34, 0.36))
        paw(easel, side * 0.6, 1.0, socks)
    fur(
        easel,
        smooth(
            symmetric([(0, -0.9), (0.36, -0.8), (0.5, -0.1), (0.56, 0.7), (0.3, 0.95), (0, 0.95)])
        ),
    )
    ink(easel, smooth(symmetric([(0, -0.5), (0.2, -0.3), (0.16, 0.1), (0, 0.35)])), easel.light)
    for side in (-1, 1):
        fur(easel, limb([(side * 0.22, 0.05), (side * 0.2, 1.0)], leg, leg * 0.85))
        paw(easel, side * 0.2, 1.02, socks)
    collar(easel, [(-0.4, -0.6), (0, -0.42), (0.4, -0.6)])
    head(easel, traits, (0, -1.0), 0.86, profile=False)


def lying(easel: Easel, traits: dict) -> None:
    """Lying, its front legs stretched out."""
    socks = easel.rng.random() < 0.4
    leg = mix(0.13, 0.17, traits["legs"])
    tail(easel, traits["tail"], (1.15, 0.6), easel.rng.uniform(-0.1, 0.4))
    fur(easel, limb([(-0.3, 0.62), (-1.15, 0.72)], leg, leg * 0.8), far=True)
    fur(
        easel,
        smooth(
            [
                (-0.75, -0.1),
                (-0.8, 0.5),
                (-0.4, 0.85),
                (0.8, 0.88),
                (1.3, 0.6),
                (1.1, 0.05),
                (0.3, -0.1),
                (-0.3, -0.25),
            ]
        ),
    )
    fur(easel, oval(0.85, 0.5, 0.45, 0.38))
    fur(easel, limb([(-0.3, 0.7), (-1.05, 0.84)], leg * 1.1, leg * 0.8))
    paw(easel, -1.12, 0.84, socks)
    paw(easel, 0.55, 0.86, socks)
    head(easel, traits, (-0.72, -0.36), 0.8, profile=easel.rng.random() < 0.4)


#: The animal's unit as a fraction of the image's shorter side, by pose, so that each fills it.
POSE_SCALE = {face: 0.37, sitting: 0.28, sitting_front: 0.3, lying: 0.29}


def collar(easel: Easel, points) -> None:
    if easel.rng.random() < 0.3:
        stroke(easel, points, THINGS[easel.rng.integers(len(THINGS))], 0.12)


def mix(cat, dog, t):
    """Interpolate from the cat's value at ``t`` = 0 to the dog's at 1."""
    return cat + (dog - cat) * t


# Everything that does not depend on the class.


def smooth_noise(rng: np.random.Generator, size, cells: int) -> np.ndarray:
    """Soft blobs from 0 to 1, about ``cells`` of them across: (height, width) float32."""
    coarse = Image.fromarray(rng.random((cells + 1, cells + 1), dtype=np.float32))
    return np.clip(np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)), 0, 1)


def fur_coat(rng: np.random.Generator, size) -> tuple[Image.Image, tuple]:
    """A picture of fur as large as ``size``, and the light color that goes with it."""
    small = size[0] // 2, size[1] // 2
    chosen = rng.choice(len(COATS), 2, replace=False)
    base, second = (np.array(COATS[i]) + rng.normal(0, 8, 3) for i in chosen)
    second = mix(base, second, rng.uniform(0.3, 0.8))
    blobs = smooth_noise(rng, small, int(rng.integers(3, 7)))
    pattern = rng.choice(["plain", "stripes", "patches", "spots"])
    amount = np.zeros_like(blobs)
    if pattern == "stripes":
        y, x = np.mgrid[: small[1], : small[0]] / min(small)
        angle = rng.uniform(-0.6, 0.6)
        wave = np.sin(
            2 * np.pi * rng.uniform(7, 14) * (x * np.cos(angle) + y * np.sin(angle)) + 6 * blobs
        )
        amount = np.clip(wave * 2 - 0.3, 0, 1) * rng.uniform(0.4, 0.8)
    elif pattern == "patches":
        amount = np.clip((blobs - rng.uniform(0.4, 0.6)) * 25, 0, 1)
    elif pattern == "spots":
        amount = np.clip((smooth_noise(rng, small, 22) - 0.62) * 15, 0, 1) * rng.uniform(0.5, 1)
    hairs = 1 + 0.06 * rng.standard_normal(blobs.shape, dtype=np.float32)
    hairs *= 0.9 + 0.2 * smooth_noise(rng, small, 9)
    picture = mix(base, second, amount[..., None]) * hairs[..., None]
    light = color(mix(base, np.array((240, 234, 226)), rng.uniform(0.4, 0.9)))
    return Image.fromarray(np.uint8(np.clip(picture, 0, 255))).resize(
        size, Image.Resampling.BILINEAR
    ), light


def tint(rng: np.random.Generator) -> np.ndarray:
    """A color for a thing or a wall: (3,) from 0 to 255."""
    pure = np.array(THINGS[rng.integers(len(THINGS))]) * rng.uniform(0.7, 1.1)
    return np.clip(mix(pure, pure.mean(), rng.uniform(0.1, 0.7)) + rng.normal(0, 8, 3), 0, 255)


def background(rng: np.random.Generator, size) -> Image.Image:
    """A wall, a floor, grass, a sofa or a blur, with things lying about."""
    width, height = size
    small = width // 4, height // 4
    ramp = np.linspace(0, 1, small[1])[:, None, None] + 0.5 * (
        smooth_noise(rng, small, 5)[..., None] - 0.5
    )
    picture = mix(tint(rng), tint(rng), ramp)
    canvas = Image.fromarray(np.uint8(np.clip(picture, 0, 255))).resize(
        size, Image.Resampling.BILINEAR
    )
    pen = ImageDraw.Draw(canvas)
    kind, horizon = rng.choice(["wall", "floor", "grass", "sofa"]), rng.uniform(0.45, 0.8) * height
    if kind == "floor":
        pen.rectangle((0, horizon, width, height), fill=color(tint(rng)))
        dark = color(tint(rng) * 0.7)
        for x in np.arange(-width, 2 * width, rng.uniform(60, 140)):
            pen.line((width / 2 + (x - width / 2) * 0.5, horizon, x, height), fill=dark, width=2)
    for _ in range(rng.integers(0, 4)):
        thing(pen, rng, rng.random(2) * (width, horizon), rng.uniform(0.06, 0.2) * height)
    if kind == "grass":
        green = np.array((88, 128, 60)) * rng.uniform(0.6, 1.3)
        pen.rectangle((0, horizon, width, height), fill=color(green))
        for x, y, lean, long, bright in rng.random((350, 5)):
            x, y = x * width, horizon + y * (height - horizon)
            blade = (x, y, x + (lean - 0.5) * 20, y - 12 - 30 * long)
            pen.line(blade, fill=color(green * (0.7 + 0.6 * bright)), width=3)
    elif kind == "sofa":
        fabric, seat, arm = tint(rng), horizon + 0.12 * height, rng.uniform(0.08, 0.2) * width
        top, third, bottom = horizon - 0.15 * height, (width - 2 * arm) / 3, height + 40
        cushions = [
            (arm + k * third, horizon - 0.35 * height, arm + (k + 1) * third, seat)
            for k in range(3)
        ]
        arms = [(left, top, left + 2 * arm, bottom) for left in (-arm, width - arm)]
        for box, shade in zip(
            [*cushions, (0, seat - 20, width, bottom), *arms], (0.9, 0.9, 0.9, 1, 1.08, 1.08)
        ):
            pen.rounded_rectangle(
                box, 28, fill=color(fabric * shade), outline=color(fabric * 0.7), width=3
            )
    if rng.random() < 0.75:  # out of focus, as behind most portraits
        canvas = canvas.reduce(4).filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.5)))
        canvas = canvas.resize(size, Image.Resampling.BILINEAR)
    return canvas


def color(rgb) -> tuple:
    return tuple(int(c) for c in np.clip(rgb, 0, 255))


def thing(pen: ImageDraw.ImageDraw, rng: np.random.Generator, at, radius: float) -> None:
    """A ball, a box, a book or a cone about ``radius`` pixels large."""
    turn, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.5)
    corners = rng.choice([3, 4, 4, 28, 28])
    angle = turn + np.linspace(0, 2 * np.pi, corners, endpoint=False)
    points = np.column_stack(
        [at[0] + radius * stretch * np.cos(angle), at[1] + radius * np.sin(angle)]
    )
    paint = tint(rng)
    pen.polygon([tuple(p) for p in points], fill=color(paint), outline=color(paint * 0.7), width=3)


def hide(easel: Easel) -> None:
    """Occlude the animal: by a thing, or by a board along the lower edge."""
    rng, (width, height) = easel.rng, easel.canvas.size
    pen = ImageDraw.Draw(easel.canvas)
    if rng.random() < 0.5:
        thing(
            pen, rng, rng.uniform(0.15, 0.85, 2) * (width, height), rng.uniform(0.1, 0.2) * height
        )
    else:
        top, paint = rng.uniform(0.7, 0.85) * height, tint(rng)
        board = [(0, top), (width, top + rng.normal(0, 40)), (width, height), (0, height)]
        pen.polygon(board, fill=color(paint))


def photographed(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The image as from a cheap camera: blur, exposure, color cast, vignette, light, noise."""
    width, height = picture.size
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.6)))
    pixels = np.asarray(picture, np.float32)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    light = 1 - rng.uniform(0, 0.3) * (x * x + y * y) / 2
    light *= 1 + rng.uniform(-0.2, 0.2) * x + rng.uniform(-0.2, 0.2) * y
    if rng.random() < 0.2:  # a shadow falls across it
        slope, edge = rng.uniform(-1, 1), rng.uniform(-0.6, 0.6)
        light *= 1 - rng.uniform(0.2, 0.45) / (1 + np.exp(-12 * (x + slope * y - edge)))
    pixels = (pixels - 128) * rng.uniform(0.85, 1.2) + 128 + rng.normal(0, 10)
    pixels = pixels * light[..., None] * (1 + rng.normal(0, 0.05, 3)).astype(np.float32)
    pixels += rng.uniform(1, 6) * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Image.fromarray(np.uint8(np.clip(pixels, 0, 255)))

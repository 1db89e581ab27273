"""The command-line interface, ``catsdogs run | predict | serve | export``.

``python -m catsdogs`` is the same.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from catsdogs import paths

#: The notebooks that train, evaluate and use the CNN, in order; each of the others is optional.
DEFAULT_NOTEBOOKS = ("01", "02", "03", "04")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="catsdogs", description="Cats vs dogs: train, evaluate, predict and serve."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser(
        "run", help="download the photos if there are none, and run notebooks into build/"
    )
    running.add_argument(
        "numbers",
        nargs="*",
        metavar="NN",
        help="which notebooks to run, such as 06 09 (default: 01 to 04)",
    )
    predict = commands.add_parser(
        "predict",
        help="say of photos whether they show a cat or a dog",
        description="Prints a line a photo: its path, cat or dog or unsure, the probability of dog. Photos that cannot be read are "
        "named on stderr. Exit status 0: all were read, 1: some were not, 2: wrong usage, or no model to use.",
    )
    predict.add_argument(
        "photos", nargs="+", metavar="PHOTO_OR_FOLDER", help="folders with all folders in them"
    )
    predict.add_argument(
        "--model",
        metavar="PATH",
        help="a .keras, .onnx or .tflite file (models/cats_vs_dogs.keras)",
    )
    form = predict.add_mutually_exclusive_group()
    form.add_argument(
        "--json", dest="form", action="store_const", const="json", help="a JSON object a line"
    )
    form.add_argument(
        "--csv",
        dest="form",
        action="store_const",
        const="csv",
        help="comma-separated, with a header",
    )
    serve = commands.add_parser(
        "serve",
        help="answer over HTTP, with a page for photos",
        description="Needs only requirements-serve.txt. Ends on Ctrl-C "
        "or SIGTERM, once the requests in flight are answered. Exit status 2: no model to use, or no such port.",
    )
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen at; 0.0.0.0 is all of them (127.0.0.1: this machine only)",
    )
    serve.add_argument("--port", type=int, default=8000, help="0 takes a free one (8000)")
    serve.add_argument("--model", metavar="PATH", help="an .onnx file (models/cats_vs_dogs.onnx)")
    export = commands.add_parser(
        "export",
        help="write the model as ONNX and LiteRT, and a folder in which browsers classify",
        description="Writes NAME.onnx, NAME.tflite and NAME_int8.tflite beside the model, and the folder. The 8-bit file needs "
        "photos to measure by: training photos in data/. The folder needs npm.",
    )
    export.add_argument("--model", metavar="PATH", help="a .keras file (models/cats_vs_dogs.keras)")
    export.add_argument("--output", metavar="FOLDER", help="where the files go (beside the model)")
    export.add_argument("--web", metavar="FOLDER", help="where the page goes (build/web)")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "predict":
            return predict_command(chosen.photos, chosen.model, chosen.form)
        if chosen.command == "serve":
            return serve_command(chosen.host, chosen.port, chosen.model)
        if chosen.command == "export":
            return export_command(chosen.model, chosen.output, chosen.web)
        return run(chosen.numbers)
    except BrokenPipeError:  # whoever read the answers, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if chosen.command != "predict":
            raise
        # Photos' own errors are answers: this is about where the answers go, such as a full disk.
        print(f"cannot write the answers: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 2
    except KeyboardInterrupt:
        if chosen.command == "predict":
            return 130
        print("\nStopped. The same command resumes where this one was.", file=sys.stderr)
        return 130


def fetch() -> int:
    """Download the photos if there are none; returns the exit status.

    Where no source can be reached, the synthetic sample takes their place.
    """
    script = str(paths.PROJECT / "download_data.sh")
    if paths.photos().exists():
        return 0
    status = subprocess.run([script]).returncode
    if status == 3:
        print(
            "\nNo source of photos can be reached. Continuing with the synthetic sample: every\n"
            "figure and number of this run is marked as synthetic. If you have the real photos on\n"
            "disk: ./download_data.sh zip FILE\n",
            flush=True,
        )
        status = subprocess.run([script, "synthetic"]).returncode
    return status


def run(numbers: Sequence[str] = ()) -> int:
    """Run notebooks into ``build/`` and print where to look; returns the exit status.

    `numbers`, such as ``["06", "09"]``, chooses notebooks; none means `DEFAULT_NOTEBOOKS`. No file
    that is tracked by Git changes.
    """
    build = paths.PROJECT / "build"
    # The included model is left alone: this run's model goes beside its notebooks.
    os.environ["CATSDOGS_MODELS"] = str(build / "models")
    from catsdogs.data import dataset
    from catsdogs.training import records

    chosen = chosen_notebooks(numbers or DEFAULT_NOTEBOOKS)
    if chosen is None:
        return 2
    if numbers:
        # A notebook that runs alone may need what an earlier one makes: the included models and
        # records take its place.
        (build / "models").mkdir(parents=True, exist_ok=True)
        for included in (paths.PROJECT / "models").glob("*.*"):
            if (
                included.suffix in (".keras", ".json")
                and not (build / "models" / included.name).exists()
            ):
                shutil.copy(included, build / "models")
    if status := fetch() or execute(build, chosen):
        return status
    if numbers:
        print(
            f"\nThe executed notebooks, each also as .html: "
            f"{', '.join(paths.shown(build / path.name) for path in chosen)}"
        )
        return 0

    name = records.run_name("cats_vs_dogs")
    test = records.read(name)["metrics"]["test"]
    accuracy = test["accuracy"]
    print(
        f"\nOpen {paths.shown(build)}/03_read_the_results.html first; the other notebooks and the "
        f"model are beside it.\n{accuracy['value']:.1%} test accuracy, 95% CI "
        f"{100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f}, n = {test['photos']:,}"
        + (
            ", on the SYNTHETIC sample, which tells nothing about photos.\n"
            "For real ones: ./download_data.sh (see --help), then run this again."
            if dataset.is_synthetic()
            else ""
        )
    )
    return 0


def predict_command(given: list[str], model: str | None = None, form: str | None = None) -> int:
    """Print what the model says of the photos and folders `given`; returns the exit status.

    `form` is ``"json"``, ``"csv"`` or None for lines to read.
    """
    import csv
    import json

    from tqdm import tqdm

    from catsdogs.serving.predictor import ModelError, find_photos, load_predictor, predict_photos
    from catsdogs.text import printable

    if sys.stdout is None:
        print("cannot write the answers: standard output is closed", file=sys.stderr)
        return 2
    sys.stdout.reconfigure(
        errors="backslashreplace"
    )  # names of files may have letters that the terminal's encoding has not
    status, photos = 0, []
    for path in given:
        found = list(find_photos([path]))
        if not found:
            print(f"{printable(path)}: a folder without photos", file=sys.stderr)
            status = 1
        photos += found
    try:
        predictor = load_predictor(model)
    except ModelError as error:
        print(error, file=sys.stderr)
        return 2
    table = csv.writer(sys.stdout, lineterminator="\n")
    if form == "csv":
        table.writerow(["photo", "label", "probability", "confidence"])
    # The bar would be torn by answers in the same terminal.
    hidden = len(photos) < 200 or not sys.stderr.isatty() or sys.stdout.isatty()
    for answer in tqdm(
        predict_photos(predictor, photos), total=len(photos), unit=" photos", disable=hidden
    ):
        photo = printable(answer.photo)
        if answer.label is None:
            tqdm.write(f"{photo}: {answer.problem}", file=sys.stderr)
            status = 1
        elif form == "json":
            print(
                json.dumps(
                    {
                        "photo": answer.photo,
                        "label": answer.label,
                        "probability": round(answer.probability, 6),
                        "confidence": round(answer.confidence, 6),
                    }
                )
            )
        elif form == "csv":
            table.writerow(
                [photo, answer.label, f"{answer.probability:.6f}", f"{answer.confidence:.6f}"]
            )
        else:
            print(f"{photo}  {answer.label}  {answer.probability:.4f}")
    sys.stdout.flush()
    return status


def serve_command(host: str, port: int, model: str | None) -> int:
    """Prediction over HTTP until stopped; returns the exit status."""
    path = model or paths.models() / "cats_vs_dogs.onnx"
    try:
        from catsdogs.serving import app
        from catsdogs.serving.predictor import ModelError
        from catsdogs.text import printable
    except ModuleNotFoundError as error:
        print(
            f"The package {error.name} is missing: pip install -r requirements-serve.txt",
            file=sys.stderr,
        )
        return 2
    try:
        return app.serve(host, port, path)
    except ModelError as error:
        print(error, file=sys.stderr)
    except (
        OSError,
        OverflowError,
        TypeError,
        UnicodeError,
    ) as error:  # Python has a kind for each way to misspell a host
        print(
            f"Cannot listen at {printable(host)}, port {port} ({getattr(error, 'strerror', None) or error}): "
            "choose another with --host and --port",
            file=sys.stderr,
        )
    return 2


def export_command(model: str | None, output: str | None, web: str | None) -> int:
    """Write the model in all other formats, and the folder for browsers; returns the exit status."""
    from catsdogs.serving.predictor import ModelError
    from catsdogs.text import printable

    path = Path(model or paths.models() / "cats_vs_dogs.keras")
    files = Path(output) if output else path.parent
    folder = Path(web).resolve() if web else paths.PROJECT / "build" / "web"
    try:
        from catsdogs.serving import export

        export.export_and_compare(path, files)
        export.web_folder(files / f"{path.stem}.onnx", folder)
    except ModelError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"{printable(error.filename or files)} cannot be written: {error.strerror}",
            file=sys.stderr,
        )
        return 2
    print(
        f"{paths.shown(folder)}: hand it out with any web server, such as python -m http.server -d {paths.shown(folder)}"
    )
    return 0


def chosen_notebooks(numbers: Sequence[str]) -> list[Path] | None:
    """The notebooks with these numbers, or all; None, after a message, if one cannot run."""
    from catsdogs import notebooks

    found = {path.name[:2]: path for path in notebooks.all_notebooks()}
    if unknown := [number for number in numbers if number not in found]:
        print(f"No notebook {', '.join(unknown)}: choose from {', '.join(found)}", file=sys.stderr)
        return None
    chosen = [found[number] for number in sorted(set(numbers or found))]
    for notebook in chosen:
        if needed := notebooks.missing(notebook):
            print(f"{notebook.name} cannot run: {needed}", file=sys.stderr)
            return None
    return chosen


def execute(folder: Path, chosen: list[Path]) -> int:
    """Execute the notebooks `chosen` into `folder` until one fails; returns the exit status."""
    from papermill import PapermillExecutionError

    from catsdogs import notebooks

    for notebook in chosen:
        try:
            notebooks.run(notebook, folder)
        except PapermillExecutionError as error:
            print(
                f"{notebook.name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}\n"
                f"The cells before it are in {paths.shown(folder / notebook.name)}.",
                file=sys.stderr,
            )
            return 1
    return 0

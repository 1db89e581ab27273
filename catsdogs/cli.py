"""The command-line interface, ``catsdogs download | run | lab | predict | serve | export``.

``python -m catsdogs`` is the same.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from catsdogs import paths, text
from catsdogs.data import download

#: The notebooks that train, evaluate and use the CNN, in order; each of the others is optional.
DEFAULT_NOTEBOOKS = ("01", "02", "03", "04")
#: The name of the run that notebook 02 trains.
OWN_RUN = "my-run"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    text.make_printing_safe()
    parser = argparse.ArgumentParser(
        prog="catsdogs", description="Cats vs dogs: train, evaluate, predict and serve."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    downloading = commands.add_parser("download", help="get the photos into data/")
    download.add_arguments(downloading)
    running = commands.add_parser(
        "run", help="download the photos if there are none, and run notebooks into build/"
    )
    running.add_argument(
        "numbers",
        nargs="*",
        metavar="NN",
        help="which notebooks to run, such as 06 09 (default: 01 to 04)",
    )
    lab = commands.add_parser(
        "lab",
        help="open working copies of the notebooks in JupyterLab",
        description="Opens JupyterLab on lab/, which holds a working copy of each notebook, made "
        "once. The notebooks themselves stay as they are.",
    )
    lab.add_argument(
        "--fresh",
        nargs="*",
        metavar="NN",
        help="make new copies of these notebooks, such as 02 03, or of all; yours are kept under "
        "different names",
    )
    lab.add_argument(
        "options",
        nargs="*",
        metavar="-- OPTION",
        help="options of JupyterLab, such as -- --no-browser --port 9999",
    )
    predict = commands.add_parser(
        "predict",
        help="classify photos as cat or dog",
        description="Prints one line per photo with three columns, separated by two spaces: the "
        "photo's path; the label: cat, dog, neither where the model can tell, or unsure where the "
        "confidence is too low; the confidence, the calibrated probability of the more likely "
        "class, or for neither the score. Photos that cannot be "
        "read are reported on standard error. Exit status 0: all photos were classified, 1: some "
        "could not be read, 2: wrong usage, or a model that cannot be used.",
    )
    predict.add_argument(
        "photos",
        nargs="+",
        type=_not_empty,
        metavar="PHOTO_OR_FOLDER",
        help="a photo, or a folder to search recursively",
    )
    predict.add_argument(
        "--model",
        type=_not_empty,
        metavar="NAME_OR_PATH",
        help="a run of your own or an included model by name, or a .keras, .onnx or .tflite file "
        "(default: two-conv, which is included)",
    )
    form = predict.add_mutually_exclusive_group()
    form.add_argument(
        "--json",
        dest="form",
        action="store_const",
        const="json",
        help="print one JSON object per line: photo, label, probability (of dog, 0 to 1, as the "
        "model outputs it), confidence, neither (its score, 0 to 1, or null)",
    )
    form.add_argument(
        "--csv",
        dest="form",
        action="store_const",
        const="csv",
        help="print comma-separated values: the same fields, with a header; ./ is put before a "
        "path that a spreadsheet would take for a formula",
    )
    serve = commands.add_parser(
        "serve",
        help="run the HTTP service, with a web page for photos",
        description="Classifies photos over HTTP; /docs describes the API. Needs only the packages "
        "in requirements-serve.txt. Shuts down gracefully on Ctrl-C or SIGTERM: requests in flight "
        "are answered first. Exit status 2: a model that cannot be used, or an address that cannot "
        "be bound.",
    )
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to bind to; 0.0.0.0 binds to all interfaces (default: 127.0.0.1, that "
        "is localhost, which other machines cannot reach)",
    )
    serve.add_argument(
        "--port", type=int, default=8000, help="the port; 0 picks a free one (default: 8000)"
    )
    serve.add_argument(
        "--model",
        type=_not_empty,
        action="append",
        metavar="NAME_OR_PATH",
        help="a run of your own or an included model by name, or an .onnx file (default: two-conv, "
        "which is included); may be given several times: requests choose with /predict?model=NAME, "
        "and the first is the default",
    )
    serve.add_argument(
        "--cors",
        type=_origin,
        action="append",
        metavar="ORIGIN",
        help="let the pages of this origin, such as https://example.org, use the service from a "
        "browser; may be given several times; * for all (default: only the service's own page)",
    )
    export = commands.add_parser(
        "export",
        help="export the model as ONNX and LiteRT, and as a static site",
        description="Writes model.onnx, model.tflite, model_int8.tflite, and model.h5 for Keras 2, "
        "and a static site that classifies photos in the visitor's browser. Quantization to 8 bits "
        "needs training photos in data/ as its representative dataset; without them, "
        "model_int8.tflite is left out. The static site needs npm. Exit status 2: a model that "
        "cannot be used or exported, or a folder that cannot be written.",
    )
    export.add_argument(
        "--model",
        type=_not_empty,
        action="append",
        metavar="NAME_OR_PATH",
        help="a run of your own or an included model by name, or a .keras file (default: two-conv, "
        "which is included); may be given several times: the page then offers a choice, and the "
        "first is the default",
    )
    export.add_argument(
        "--output",
        type=_not_empty,
        metavar="FOLDER",
        help="where the model files go, of several models each in a folder of its name (default: "
        "beside a model of your own; build/export for an included one)",
    )
    export.add_argument(
        "--web",
        type=_not_empty,
        metavar="FOLDER",
        help="where the static site goes (default: build/web)",
    )
    chosen = parser.parse_args(arguments)
    if chosen.command != "predict":  # predictions that nobody can read are a mistake
        text.open_closed_streams()
    try:
        if chosen.command == "download":
            given = [chosen.source] if chosen.file is None else [chosen.source, chosen.file]
            return download.main(given, program=downloading.prog)
        if chosen.command == "predict":
            return predict_command(chosen.photos, chosen.model, chosen.form)
        if chosen.command == "serve":
            return serve_command(chosen.host, chosen.port, chosen.model or (), chosen.cors or ())
        if chosen.command == "lab":
            return lab_command(chosen.fresh, chosen.options)
        if chosen.command == "export":
            return export_command(chosen.model or (), chosen.output, chosen.web)
        return run(chosen.numbers)
    except BrokenPipeError:  # the reader of the predictions, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if chosen.command != "predict":
            raise
        # Unreadable photos are reported one by one: this is about the output, such as a full disk.
        print(f"cannot write the predictions: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 2
    except KeyboardInterrupt:
        if chosen.command == "predict":
            return 130
        print("\nStopped. The same command resumes where this one was.", file=sys.stderr)
        return 130


def fetch() -> int:
    """Get the photos if there are none; the synthetic sample where no source can be reached.

    Returns the exit status.
    """
    if paths.photos().exists():
        return 0
    return download.main([], synthetic_fallback=True)


def run(numbers: Sequence[str] = ()) -> int:
    """Run notebooks into ``build/`` and print where to look; returns the exit status.

    `numbers`, such as ``["06", "09"]``, chooses notebooks; none means `DEFAULT_NOTEBOOKS`. No file
    that is tracked by Git changes.
    """
    build = paths.PROJECT / "build"
    from catsdogs.data import dataset
    from catsdogs.training import records

    chosen = chosen_notebooks(numbers or DEFAULT_NOTEBOOKS)
    if chosen is None:
        return 2
    # Run by themselves, the notebooks evaluate the included model; after training, the new one.
    evaluated = {} if numbers else {"03_read_the_results.ipynb": {"MODEL": OWN_RUN}}
    if status := fetch() or execute(build, chosen, evaluated):
        return status
    if numbers:
        print(
            f"\nThe executed notebooks, each also as .html: "
            f"{', '.join(paths.shown(build / path.name) for path in chosen)}"
        )
        return 0

    name = records.run_name(OWN_RUN)
    test = records.read(name)["metrics"]["test"]
    accuracy = test["accuracy"]
    print(
        f"\nOpen {paths.shown(build)}/03_read_the_results.html first; the other notebooks are "
        f"beside it, and the model is in {paths.shown(paths.model_folder(name))}.\n"
        f"{accuracy['value']:.1%} test accuracy, 95% CI "
        f"{100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f}, n = {test['photos']:,}"
        + (
            ", on the SYNTHETIC sample, which tells nothing about photos.\n"
            "For real ones: bash download_data.sh (see --help), then run this again."
            if dataset.is_synthetic()
            else ""
        )
    )
    return 0


def lab_command(fresh: Sequence[str] | None = None, options: Sequence[str] = ()) -> int:
    """Open JupyterLab on working copies of the notebooks; returns the exit status.

    `fresh` are the numbers of notebooks that are copied anew, none for all of them; None for none.
    """
    from catsdogs import lab

    chosen = [] if fresh is None else chosen_notebooks(fresh, runnable=False)
    if chosen is None:
        return 2
    outdated = lab.copy_notebooks(chosen)
    if outdated:
        numbers = " ".join(notebook.name[:2] for notebook in outdated)
        print(
            f"{', '.join(paths.shown(notebook) for notebook in outdated)}: newer than your copy in "
            f"{paths.shown(lab.folder())}. For a new one, with yours kept beside it: make lab "
            f'FRESH="{numbers}"'
        )
    return lab.run(options)


def predict_command(given: list[str], model: str | None = None, form: str | None = None) -> int:
    """Print the predictions for the photos and folders `given`; returns the exit status.

    `form` is ``"json"``, ``"csv"`` or None for human-readable lines.
    """
    import csv
    import json

    from tqdm import tqdm

    from catsdogs.serving import models
    from catsdogs.serving.models import ModelError
    from catsdogs.serving.photos import find_photos
    from catsdogs.serving.predictor import load_predictor, predict_photos
    from catsdogs.text import percent_confident, printable

    if sys.stdout is None:
        print("cannot write the predictions: standard output is closed", file=sys.stderr)
        return 2
    # File names may have characters that the terminal's encoding lacks.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    status, photos = 0, []
    for path in given:
        found = list(find_photos([path]))
        if not found:
            print(f"{printable(path)}: a folder without photos", file=sys.stderr)
            status = 1
        photos += found
    try:
        file = models.find_model(model)
        predictor = load_predictor(file)
        print(f"model: {models.where(file)}", file=sys.stderr)
        if models.is_synthetic(models.record_beside(file)):
            print(
                "It was trained on the synthetic sample and has never seen a photo: its "
                "predictions for photos mean nothing.",
                file=sys.stderr,
            )
    except ModelError as error:
        print(error, file=sys.stderr)
        return 2
    table = csv.writer(sys.stdout, lineterminator="\n")
    if form == "csv":
        table.writerow(["photo", "label", "probability", "confidence", "neither"])
    # Predictions in the same terminal would break up the progress bar.
    hidden = len(photos) < 200 or not sys.stderr.isatty() or sys.stdout.isatty()
    predictions = tqdm(
        predict_photos(predictor, photos), total=len(photos), unit=" photos", disable=hidden
    )
    try:
        for prediction in predictions:
            photo = printable(prediction.photo)
            if prediction.label is None:
                tqdm.write(f"{photo}: {prediction.error}", file=sys.stderr)
                status = 1
            elif form == "json":
                print(
                    json.dumps(
                        {
                            "photo": prediction.photo,
                            "label": prediction.label,
                            "probability": round(prediction.probability, 6),
                            "confidence": round(prediction.confidence, 6),
                            "neither": None
                            if prediction.neither is None
                            else round(prediction.neither, 6),
                        }
                    )
                )
            elif form == "csv":
                table.writerow(
                    [
                        _no_formula(photo),
                        prediction.label,
                        f"{prediction.probability:.6f}",
                        f"{prediction.confidence:.6f}",
                        "" if prediction.neither is None else f"{prediction.neither:.6f}",
                    ]
                )
            else:
                neither = prediction.label == "neither"
                score = prediction.neither if neither else prediction.confidence
                percent = percent_confident(score, 1)
                print(f"{photo}  {prediction.label}  {percent}")
    except ModelError as error:
        print(error, file=sys.stderr)
        status = 2
    sys.stdout.flush()
    return status


def _origin(text: str) -> str:
    """`text`, the origin of pages; raises argparse's error for anything else."""
    if text != "*" and not re.fullmatch(r"https?://[^/?#@\s]+", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no origin: expected a scheme, a host and, if it is not the scheme's own, "
            "a port, without a path, such as https://example.org"
        )
    return text.lower()


def _not_empty(text: str) -> str:
    """`text`, an argument that names something; raises argparse's error where it is empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty, as a variable that is not set would be")
    return text


def _no_formula(path: str) -> str:
    """`path`, which no spreadsheet takes for a formula: with ``./`` in front, if it has to be."""
    return f"./{path}" if path.startswith(("=", "+", "-", "@", "\t", "\r")) else path


def serve_command(
    host: str, port: int, given: Sequence[str] = (), origins: Sequence[str] = ()
) -> int:
    """Run the HTTP service with the models `given` until it is stopped; returns the exit status."""
    try:
        from catsdogs.serving import app, models
        from catsdogs.serving.models import ModelError
        from catsdogs.text import printable
    except ModuleNotFoundError as error:
        print(
            f"The package {error.name} is missing: pip install -r requirements-serve.txt",
            file=sys.stderr,
        )
        return 2
    try:
        found = []
        for model in given or (None,):
            path = models.find_model(model, (".onnx", ".keras"))
            if path.suffix == ".keras":  # a run of one's own that was not exported yet
                from catsdogs.serving import export

                path = export.onnx_beside(path)
            found.append(path)
        return app.serve(host, port, found, origins)
    except ModuleNotFoundError as error:
        print(
            f"This model has no .onnx file, and exporting it needs {error.name}: "
            "pip install -r requirements.txt",
            file=sys.stderr,
        )
    except ModelError as error:
        print(error, file=sys.stderr)
    except (OSError, OverflowError, TypeError, UnicodeError) as error:
        # Python raises a different one for each way to misspell a host.
        print(
            f"Cannot bind to {printable(host)}, port {port} "
            f"({getattr(error, 'strerror', None) or error}): choose a different address with "
            "--host and --port",
            file=sys.stderr,
        )
    return 2


def export_command(given: Sequence[str], output: str | None, web: str | None) -> int:
    """Export the models `given` in every format, and the static site; returns the exit status."""
    from catsdogs.serving.models import ModelError, find_model, is_included, name_of
    from catsdogs.text import printable

    folder = Path(web).resolve() if web else paths.PROJECT / "build" / "web"
    files, written = Path(output) if output else None, []
    try:
        from catsdogs.serving import export, static_site

        found = [find_model(model, (".keras",)) for model in given or (None,)]
        names = [name_of(path) for path in found]
        if len(set(names)) < len(names):
            raise ModelError(
                f"models called {', '.join(map(repr, names))}: expected names that differ, since "
                "each gets a folder of its name"
            )
        for path, name in zip(found, names, strict=True):
            own = name if len(found) > 1 else "."
            if output:
                files = Path(output) / own
            else:
                included = paths.PROJECT / "build" / "export" / own
                files = included if is_included(path) else path.parent
            if is_included(files / "model.onnx"):
                raise ModelError(
                    f"{printable(paths.shown(files.resolve()))} is an included model, which is "
                    "never replaced: expected a different --output"
                )
            export.export_and_compare(path, files)
            written.append(files / f"{path.stem}.onnx")
        static_site.build(written, folder)
    except ModelError as error:
        print(error, file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(
            f"Exporting needs {error.name}: pip install -r requirements.txt",
            file=sys.stderr,
        )
        return 2
    except OSError as error:
        print(
            f"{printable(error.filename or files)} cannot be written: {error.strerror}",
            file=sys.stderr,
        )
        return 2
    shown = paths.shown(folder)
    print(
        f"{shown}: a static site. Deploy it to any web server; to try it: "
        f"python -m http.server -d {shown}"
    )
    return 0


def chosen_notebooks(numbers: Sequence[str], *, runnable: bool = True) -> list[Path] | None:
    """The notebooks with these numbers, or all; None, after a message, if there is none such.

    Also None if one is to be `runnable` and needs what is not installed.
    """
    from catsdogs import notebooks

    found = {path.name[:2]: path for path in notebooks.all_notebooks()}
    if unknown := [number for number in numbers if number not in found]:
        print(f"No notebook {', '.join(unknown)}: choose from {', '.join(found)}", file=sys.stderr)
        return None
    chosen = [found[number] for number in sorted(set(numbers or found))]
    for notebook in chosen:
        if runnable and (needed := notebooks.missing(notebook)):
            print(f"{notebook.name} cannot run: {needed}", file=sys.stderr)
            return None
    return chosen


def execute(folder: Path, chosen: list[Path], parameters: dict[str, dict] | None = None) -> int:
    """Execute the notebooks `chosen` into `folder` until one fails; returns the exit status.

    `parameters` maps the file names of notebooks to parameters that replace theirs.
    """
    from papermill import PapermillExecutionError

    from catsdogs import notebooks

    for notebook in chosen:
        try:
            notebooks.run(
                notebook,
                folder,
                (parameters or {}).get(notebook.name),
                pages=[other.name for other in chosen],
            )
        except PapermillExecutionError as error:
            print(
                f"{notebook.name} failed in cell {error.exec_count}, "
                f"{error.ename}: {error.evalue}\n"
                f"The cells before it are in {paths.shown(folder / notebook.name)}.",
                file=sys.stderr,
            )
            return 1
    return 0

"""The shell's door: ``python -m catsdogs run | predict | publish | report``."""

import argparse
import os
import subprocess
import sys

from catsdogs import paths


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m catsdogs", description="Cats and dogs: train, judge, publish.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="get the photos if there are none and run all notebooks into build/")
    published = commands.add_parser("publish", help="run the notebooks and write them, the model and the numbers into the project")
    published.add_argument("numbers", nargs="*", metavar="NN", help="only these notebooks, such as 01 03 (by default all)")
    report = commands.add_parser("report", help="write the numbers in README.md and models/README.md from the run records")
    report.add_argument("--check", action="store_true", help="only say what is out of date; exit status 1 if anything is")
    predict = commands.add_parser(
        "predict", help="say of photos whether they show a cat or a dog",
        description="Prints a line a photo: its path, cat or dog, the probability of dog. Photos that cannot be read are named on "
                    "stderr. Exit status 0: all were read, 1: some were not, 2: wrong usage, or no model to use.")
    predict.add_argument("photos", nargs="+", metavar="PHOTO_OR_FOLDER", help="folders with all folders in them")
    predict.add_argument("--model", metavar="PATH", help="a .keras file (models/cats_vs_dogs.keras)")
    form = predict.add_mutually_exclusive_group()
    form.add_argument("--json", dest="form", action="store_const", const="json", help="a JSON object a line")
    form.add_argument("--csv", dest="form", action="store_const", const="csv", help="comma-separated, with a header")
    chosen = parser.parse_args(arguments)
    if chosen.command == "report":
        from catsdogs import report as report_module

        return report_module.main(chosen.check)
    try:
        if chosen.command == "predict":
            return predict_photos(chosen.photos, chosen.model, chosen.form)
        return run() if chosen.command == "run" else publish(chosen.numbers)
    except BrokenPipeError:  # whoever read the answers, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        if chosen.command == "predict":
            return 130
        print("\nStopped. The same command goes on where this one was.", file=sys.stderr)
        return 130


def fetch() -> int:
    """Get the photos if there are none; the drawn sample where no source can be reached. Returns the exit status."""
    script = str(paths.PROJECT / "download_data.sh")
    if paths.photos().exists():
        return 0
    status = subprocess.run([script]).returncode
    if status == 3:
        print("\nNo source of photos can be reached. Carrying on with the drawn sample: every figure and number of\n"
              "this run is marked as drawn. With the real photos on disk: ./download_data.sh zip FILE\n", flush=True)
        status = subprocess.run([script, "drawn"]).returncode
    return status


def run() -> int:
    """Run all notebooks into ``build/`` and say where to look. Nothing tracked by git changes."""
    build = paths.PROJECT / "build"
    # The shipped model stays what it is: this run's goes beside its notebooks.
    os.environ["CATSDOGS_MODELS"] = str(build / "models")
    from catsdogs import dataset, notebooks, records

    status = fetch() or _execute(build, notebooks.all_notebooks())
    if status:
        return status

    name = records.run_name("cats_vs_dogs")
    accuracy = records.read(name)["metrics"]["test"]["accuracy"]
    print(f"\nLook at {paths.shown(build)}/03_read_the_results.html first; the notebooks and the model are beside it."
          f"\nTest accuracy: {accuracy['value']:.1%} (95% interval {accuracy['low']:.1%} to {accuracy['high']:.1%})"
          + (" -- on the DRAWN sample, which says nothing about photos.\nFor real ones: ./download_data.sh (see --help), "
             "then make run again." if dataset.is_drawn() else ""))
    return 0


def publish(numbers: list[str] = ()) -> int:
    """Run notebooks on real photos and write them back without photos, with the model and all numbers.

    `numbers`, such as ``["01", "03"]``, chooses among them; none means all.
    """
    from catsdogs import dataset, notebooks, report as report_module

    if dataset.is_drawn() or not paths.photos().exists():
        print("Publishing needs the real photos: ./download_data.sh first.", file=sys.stderr)
        return 1
    build = paths.PROJECT / "build" / "published"
    chosen = [path for path in notebooks.all_notebooks() if not numbers or path.name[:2] in numbers]
    status = _execute(build, chosen)
    if status == 0:
        for notebook in chosen:
            notebooks.publish(build / notebook.name, notebook)
        status = report_module.main(check=False)
    return status


def predict_photos(given: list[str], model: str | None = None, form: str | None = None) -> int:
    """Print what the model says of the photos and folders `given`; returns the exit status.

    `form` is ``"json"``, ``"csv"`` or None for lines to read.
    """
    import csv
    import json

    from tqdm import tqdm

    from catsdogs import classify

    status, photos = 0, []
    for path in given:
        found = list(classify.find_photos([path]))
        if not found:
            print(f"{_printable(path)}: a folder without photos", file=sys.stderr)
            status = 1
        photos += found
    try:
        loaded = classify.load_model(model)
    except classify.ModelError as error:
        print(error, file=sys.stderr)
        return 2
    table = csv.writer(sys.stdout, lineterminator="\n")
    if form == "csv":
        table.writerow(["photo", "label", "probability"])
    # The bar would be torn by answers in the same terminal.
    hidden = len(photos) < 200 or not sys.stderr.isatty() or sys.stdout.isatty()
    for answer in tqdm(classify.classify(loaded, photos), total=len(photos), unit=" photos", disable=hidden):
        photo = _printable(answer.photo)
        if answer.probability is None:
            tqdm.write(f"{photo}: {answer.problem}", file=sys.stderr)
            status = 1
        elif form == "json":
            print(json.dumps({"photo": answer.photo, "label": answer.label, "probability": round(answer.probability, 6)}))
        elif form == "csv":
            table.writerow([photo, answer.label, f"{answer.probability:.6f}"])
        else:
            print(f"{photo}  {answer.label}  {answer.probability:.4f}")
    sys.stdout.flush()
    return status


def _printable(path):
    """`path` on one line, whatever is in it: a file's name may hold line ends, colours for a terminal, or no text at all."""
    return "".join(character if character.isprintable() else character.encode("unicode_escape", "backslashreplace").decode()
                   for character in str(path))


def _execute(folder, chosen):
    from papermill import PapermillExecutionError

    from catsdogs import notebooks

    for notebook in chosen:
        try:
            notebooks.run(notebook, folder)
        except PapermillExecutionError as error:
            print(f"{notebook.name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}\n"
                  f"What ran until then is in {paths.shown(folder / notebook.name)}.", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

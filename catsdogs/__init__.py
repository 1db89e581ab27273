"""The package under the cats-vs-dogs notebooks.

`catsdogs.data` downloads, checks, splits and decodes the photos; `catsdogs.networks` defines the
networks; `catsdogs.training` fits them and keeps run records; `catsdogs.analysis` evaluates and
plots; `catsdogs.serving` is the HTTP service and its web page.

Importing this package imports nothing but the standard library, so that downloading the photos
needs only Python itself.
"""

import os

# TensorFlow logs pages about the processor while it is imported, unless this is set first. Errors
# still show.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

__version__ = "0.1.0"

#: A photo's label is its class's index here: 0 is a cat, 1 is a dog.
CLASS_NAMES = ("cat", "dog")

"""The plumbing under the cats-vs-dogs notebooks: get, check, split and cache photos; train, evaluate, plot.

Importing this package imports nothing that must be installed, so that fetching photos needs only Python itself.
"""

import os

# TensorFlow prints pages about the processor while it is imported, unless told not to before; errors still show.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

__version__ = "0.1.0"

#: The label of a photo is its position here: 0 is a cat, 1 is a dog.
CLASS_NAMES = ("cat", "dog")

"""The plumbing under the cats-vs-dogs notebooks: get, check, split and cache photos; train, evaluate, plot.

Importing this package imports nothing else, so that fetching photos needs only Python itself.
"""

__version__ = "0.1.0"

#: The label of a photo is its position here: 0 is a cat, 1 is a dog.
CLASS_NAMES = ("cat", "dog")

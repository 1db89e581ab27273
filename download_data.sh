#!/usr/bin/env bash
# Gets the photos into data/PetImages/{Cat,Dog}/N.jpg; see --help. All of it is in Python, in
# catsdogs/data/download.py: this finds a Python for it. Runs in the bash 3.2 of macOS.

set -u

project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd) || exit 1

for python in "$project/.venv/bin/python" "$project/.venv/Scripts/python.exe" python3 python; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null && break
    python=''
done
if [ -z "$python" ]; then
    echo "Python 3.9 or newer is needed, and none was found as .venv/bin/python, python3 or python." >&2
    echo "Install it, then run this again." >&2
    exit 1
fi

# Not -m, which would look for modules where the user stands first.
exec "$python" -c '
import sys
sys.path = [sys.argv.pop(1)] + [folder for folder in sys.path if folder]
from catsdogs.data.download import main
sys.exit(main())' "$project" "$@"

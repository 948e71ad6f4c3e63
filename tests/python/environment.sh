#!/usr/bin/env bash
# Makes the virtual environment of the ecosystem tests; does nothing where it is up to date.
# Usage: tests/python/environment.sh FOLDER
set -euo pipefail
folder="$1"
here="$(dirname "$0")"
[ "$folder/made" -nt "$here/requirements.txt" ] && [ "$folder/made" -nt "$0" ] && exit 0

[ -x "$folder/bin/pip" ] || /usr/bin/python3 -m venv "$folder"
# First, and where PyTorch's own index can be reached, as it is built for processors: PyPI's brings
# gigabytes of CUDA.
torch="$(grep '^torch==' "$here/requirements.txt")"
"$folder/bin/pip" install -q --retries 1 "$torch" --extra-index-url https://download.pytorch.org/whl/cpu
"$folder/bin/pip" install -q -r "$here/requirements.txt"
# The oldest and the newest transformers 4 that are looked after, each beside the rest of it all:
# PYTHONPATH chooses one.
for version in 4.48.3 4.57.3; do
  "$folder/bin/pip" install -q --upgrade --target "$folder/transformers-$version" "transformers==$version"
done
touch "$folder/made"

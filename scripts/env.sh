# Sourced by test.sh and demo.sh: a virtual environment in .venv with this package and the given extra, pinned.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
stamp=".venv/.installed-$1"
if [ ! -e "$stamp" ] || [ setup.cfg -nt "$stamp" ] || [ scripts/constraints.txt -nt "$stamp" ]; then
    "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c scripts/constraints.txt -e ".[$1]"
    touch "$stamp"
fi
# the list of fonts another installation left under the home names fonts this one may not have
export MPLCONFIGDIR="$PWD/.venv/matplotlib"

#!/usr/bin/env bash
# Prints the Python to use: the active one if nmg can be imported there, else that of .venv, which
# is made on first use and made anew when setup.py or constraints.txt change.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
extras=offline,data,generation,plots,dev

imports_nmg() {
    # -P keeps the checkout itself off the path: nmg must be installed, with what it needs.
    "$1" -P -c 'import importlib.util as u, sys
sys.exit(not all(map(u.find_spec, ("nmg", "torch", "transformers", "stable_baselines3"))))' \
        2>/dev/null
}

if imports_nmg python; then
    command -v python
    exit
fi

stamp=$root/.venv/installed
if [[ -e $stamp && $stamp -nt $root/setup.py && $stamp -nt $root/constraints.txt ]]; then
    echo "$root/.venv/bin/python"
    exit
fi

for python in python3.11 python3.12 python3.13 python3; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        break
    fi
    python=
done
if [[ -z $python ]]; then
    echo "NMG needs Python 3.11 or newer, and none was found; install it and try again." >&2
    exit 2
fi

{
    echo "Making $root/.venv with $python (some minutes, once) ..."
    "$python" -m venv "$root/.venv"
    pip=("$root/.venv/bin/python" -m pip --disable-pip-version-check)
    # torch first and by itself: with a CPU-only package index it is found there, and nothing
    # else pulls another build in.
    "${pip[@]}" install --quiet "$(grep '^torch==' "$root/constraints.txt")"
    "${pip[@]}" install --quiet -c "$root/constraints.txt" -e "$root[$extras]"
    touch "$stamp"
} >&2
echo "$root/.venv/bin/python"

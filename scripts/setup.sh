#!/usr/bin/env bash
# Makes ./.venv with pinned versions: PyTorch first, so that nothing else can pull in another build of it.
# Usage: scripts/setup.sh PYTHON cpu|cuda
set -euo pipefail
python=$1
torch=$2

say() { printf '== %s\n' "$*" >&2; }
fail() { printf 'error: %s\nhint: %s\n' "$1" "$2" >&2; exit 2; }

command -v "$python" >/dev/null || fail "$python is not installed." "Install Python 3.11 or newer, or run: make run PYTHON=/path/to/python3.11"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old." "Run: make run PYTHON=/path/to/python3.11"
case $torch in
cpu) want=torch==2.13.0 ;;
cuda) want=torch===2.13.0 ;; # exactly the release without a local suffix: the CUDA build on Linux
*) fail "TORCH=$torch is not known." "Use TORCH=cpu or TORCH=cuda." ;;
esac

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing the venv module (apt-get install python3-venv)"
        apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
    else
        fail "$python has no venv module." "On Debian run: sudo apt-get install python3-venv"
    fi
fi

[ -x .venv/bin/python ] || { say "making .venv with $("$python" --version)"; "$python" -m venv .venv; }
pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@" 2> >(grep -v '^WARNING: Location' >&2 || true); }

# Every file by its hash and none that would have to run code to be built; torch comes in no other way than below.
say "installing Stoker's packages (each file checked against requirements.lock)"
pip install --require-hashes --no-deps --only-binary :all: --requirement requirements.lock
say "installing PyTorch 2.13.0 ($torch build)"
pip install --constraint constraints.txt --only-binary :all: "$want"
if [ "$torch" = cpu ] && .venv/bin/python -m pip --disable-pip-version-check list 2>/dev/null | grep -q '^nvidia-'; then
    say "note: this package index served PyTorch's CUDA build; it works on a CPU too, but takes several GB"
fi
pip install --no-deps --no-build-isolation --editable .
say "ready: $(.venv/bin/stoker --version)"

#!/usr/bin/env bash
# Makes ./.venv-peers: what benchmarks measure beside ours (loaders, launchers), apart from Stoker's own packages.
# Usage: scripts/peers.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv-peers/bin/python ] || "${1:-python3}" -m venv .venv-peers
pip() { .venv-peers/bin/python -m pip --disable-pip-version-check --quiet "$@"; }
pip install torch==2.13.0
pip install --constraint <(echo torch==2.13.0) --requirement bench/peers/requirements.txt
pip uninstall --yes torchvision >/dev/null 2>&1 || true
pip install --no-deps mosaicml-streaming==0.13.0
echo "== ready: .venv-peers"

#!/usr/bin/env bash
# Writes requirements.lock anew: every package of constraints.txt but torch, with the hashes of all its wheels as
# the package index names them. Run it after changing constraints.txt, and read the difference before committing.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --disable-pip-version-check --quiet uv
grep -v '^torch==' constraints.txt | sed "s/^\(atheris==.*\|triton==.*\)$/\1 ; sys_platform == 'linux'/" >"$folder/wanted.txt"
{
    echo "# Every package that scripts/setup.sh installs, with the SHA-256 of each of its files. Made by scripts/lock.sh."
    echo "# torch is not here: which of its builds is wanted depends on the machine. See docs/design/security.md."
    "$folder/venv/bin/uv" pip compile "$folder/wanted.txt" --universal --generate-hashes --no-deps --no-header --no-annotate --quiet
} >"$folder/lock"
mv "$folder/lock" requirements.lock
echo "requirements.lock: $(grep -c '==' requirements.lock) packages" >&2

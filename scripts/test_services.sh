#!/usr/bin/env bash
# Installs the real services that the tests start: Slurm with munge, SoftHSM, bubblewrap. Does nothing where they are.
set -euo pipefail
missing=()
for pair in slurmctld:slurm-wlm munged:munge ip:iproute2 softhsm2-util:softhsm2 bwrap:bubblewrap; do
    command -v "${pair%%:*}" >/dev/null || [ -x "/usr/sbin/${pair%%:*}" ] || missing+=("${pair##*:}")
done
[ ${#missing[@]} = 0 ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    printf 'error: The tests need %s.\nhint: On Debian run: sudo apt-get install %s\n' "${missing[*]}" "${missing[*]}" >&2
    exit 2
fi
printf '== installing what the tests start (apt-get install %s)\n' "${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null

#!/usr/bin/env bash
# Ends the jobs, then only processes whose pids slurm-up.sh recorded, each checked against its command's name.
# usage: slurm-down.sh --root DIR
set -u
[ "${1:-}" = --root ] && ROOT=$2 || { echo "--root is needed" >&2; exit 2; }
export SLURM_CONF=$ROOT/etc/slurm.conf
timeout 10 squeue -h -o %A 2>/dev/null | sort -u | xargs -r -n1 timeout 10 scancel 2>/dev/null
for _ in $(seq 50); do [ -z "$(timeout 10 squeue -h 2>/dev/null)" ] && break; sleep 0.1; done
end() {
  local file=$1 name=$2 pid; [ -f "$file" ] || return 0; pid=$(cat "$file")
  if [ -r "/proc/$pid/comm" ] && grep -q "^$name" "/proc/$pid/comm"; then
    kill "$pid" 2>/dev/null
    for _ in $(seq 100); do [ -d "/proc/$pid" ] || break; sleep 0.1; done
    [ -d "/proc/$pid" ] && kill -9 "$pid"
  fi
  rm -f "$file"
}
for file in "$ROOT"/pids/slurmd-*.pid "$ROOT/pids/slurmctld.pid"; do
  [ -f "$file" ] && pid=$(cat "$file") && grep -q "^slurm" "/proc/$pid/comm" 2>/dev/null && kill "$pid"
done
for file in "$ROOT"/pids/slurmd-*.pid; do end "$file" slurmd; done
end "$ROOT/pids/slurmctld.pid" slurmctld
end "$ROOT/pids/munged.pid" munged
exit 0

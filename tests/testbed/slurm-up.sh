#!/usr/bin/env bash
# Real Slurm on one machine, no systemd: munged, slurmctld and N slurmd. See README.md beside this file.
# usage: slurm-up.sh [--nodes N] --root DIR        environment: BASEPORT, CPUS
set -euo pipefail
NODES=4 ROOT=
: "${BASEPORT:=17000}" "${CPUS:=2}"
while [ $# -gt 0 ]; do case $1 in
  --nodes) NODES=$2; shift 2;; --root) ROOT=$2; shift 2;;
  *) echo "unknown $1" >&2; exit 2;; esac; done
[ -n "$ROOT" ] || { echo "--root is needed" >&2; exit 2; }
HOST=$(hostname -s)
mkdir -p "$ROOT"/{pids,log,state,spool,etc,munge,run}; chmod 755 "$ROOT" "$ROOT"/*; chmod 700 "$ROOT/munge"
# munge with a key and a socket of its own
[ -f "$ROOT/munge/key" ] || { dd if=/dev/urandom of="$ROOT/munge/key" bs=1024 count=1 status=none; chmod 400 "$ROOT/munge/key"; }
munged --key-file="$ROOT/munge/key" --socket="$ROOT/run/munge.sock" --pid-file="$ROOT/pids/munged.pid" \
       --log-file="$ROOT/munge/munged.log" --seed-file="$ROOT/munge/seed" --force 2>>"$ROOT/log/munged.err"
E=$ROOT/etc
{ cat <<C
ClusterName=testbed
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$ROOT/run/munge.sock
CredType=cred/munge
SlurmctldPort=$((BASEPORT+900))
SlurmctldPidFile=$ROOT/pids/slurmctld.pid
SlurmctldLogFile=$ROOT/log/slurmctld.log
StateSaveLocation=$ROOT/state
SlurmdPidFile=$ROOT/pids/slurmd-%n.pid
SlurmdLogFile=$ROOT/log/slurmd-%n.log
SlurmdSpoolDir=$ROOT/spool/%n
SlurmdTimeout=300
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=3600
InactiveLimit=0
UnkillableStepTimeout=240
PriorityType=priority/basic
C
for i in $(seq 1 "$NODES"); do echo "NodeName=node$i NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((BASEPORT+i)) CPUs=$CPUS RealMemory=2000 State=UNKNOWN"; done
echo "PartitionName=all Nodes=ALL Default=YES MaxTime=7-0 State=UP"
} > "$E/slurm.conf"
printf 'CgroupPlugin=cgroup/v1\n' > "$E/cgroup.conf"
export SLURM_CONF=$E/slurm.conf
slurmctld
for _ in $(seq 300); do scontrol ping 2>/dev/null | grep -q "is UP" && break; sleep 0.1; done
for i in $(seq 1 "$NODES"); do mkdir -p "$ROOT/spool/node$i"; slurmd -N "node$i"; done
up=0
for _ in $(seq 600); do up=$(sinfo -h -N -t idle,alloc,mix -o %N 2>/dev/null | sort -u | wc -l); [ "$up" -ge "$NODES" ] && break; sleep 0.1; done
[ "$up" -ge "$NODES" ] || { echo "$up of $NODES nodes came up; see $ROOT/log" >&2; exit 1; }
echo "export SLURM_CONF=$SLURM_CONF"

#!/usr/bin/env bash
# A real Slurm on loopback, one controller and two nodes, from Debian's packages slurm-wlm and munge;
# runs a command against it and tears everything down. Needs root; touches nothing outside its own
# folder, and runs beside a Slurm that is there already.
# Usage: tests/slurm/cluster.sh COMMAND…     (SLURM_CONF is set for it)
set -euo pipefail
for needed in munged slurmctld slurmd sbatch; do
  if ! command -v "$needed" >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "skipped: needs root and the packages slurm-wlm and munge" >&2
    exit 77
  fi
done
work="$(mktemp -d /tmp/attune-slurm-XXXXXX)"
chmod 755 "$work"
pids=()
finish() {
  status=$?
  # Its own steps alone: they write into the logs of its nodes.
  for step in $(pgrep -f '^slurmstepd: ' || true); do
    if { readlink /proc/"$step"/fd/* 2>/dev/null || true; } | grep -qF "$work/"; then
      kill -KILL "$step" 2>/dev/null || true
    fi
  done
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  if [ "$status" -ne 0 ]; then tail -n 5 "$work"/*.log >&2 || true; fi
  rm -rf "$work"
}
trap finish EXIT
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

mkdir -m 700 "$work/munge" "$work/state" "$work/n1" "$work/n2"
chmod 711 "$work/munge"
dd if=/dev/urandom of="$work/munge/key" bs=1024 count=1 status=none
chmod 400 "$work/munge/key"
/usr/sbin/munged --foreground --force --key-file="$work/munge/key" --socket="$work/munge/socket" \
  --pid-file="$work/munge/pid" --log-file="$work/munge/log" --seed-file="$work/munge/seed" \
  2>"$work/munged.log" &
pids+=($!)

cat >"$work/slurm.conf" <<CONF
ClusterName=attune
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
CredType=cred/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/%n
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/%n.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
KillWait=5
ReturnToService=2
MpiDefault=none
NodeName=n1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$(free_port) CPUs=2 RealMemory=2000 State=UNKNOWN
NodeName=n2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$(free_port) CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$work/slurm.conf"
until [ -S "$work/munge/socket" ]; do :; done
/usr/sbin/slurmctld -D -f "$SLURM_CONF" 2>"$work/slurmctld.err.log" &
pids+=($!)
for node in n1 n2; do
  /usr/sbin/slurmd -D -N "$node" -f "$SLURM_CONF" 2>"$work/$node.err.log" &
  pids+=($!)
done
for _ in $(seq 600); do
  [ "$(sinfo --noheader --states=idle --format=%D 2>/dev/null || echo 0)" = 2 ] && break
  read -rt 0.1 <> <(:) || true
done
sinfo >&2
"$@"

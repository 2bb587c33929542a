#!/usr/bin/env bash
# A real SLURM of one node on loopback, to try job scripts and for tests:
#   scripts/slurm_loopback.sh install           Debian packages (root); no system service is started
#   eval "$(scripts/slurm_loopback.sh start)"   a fresh cluster in about a second, then sbatch, squeue, ... work
#   scripts/slurm_loopback.sh stop              ends its jobs and daemons and removes its folder
#   scripts/slurm_loopback.sh env               the lines to export, again
# Each takes a folder after the verb (default: one for the user in TMPDIR): keys, sockets, state, and logs are all there.
# Works for root and for an ordinary user, whose jobs it runs. 8 CPUs and 2 GPUs are pretended; there is no accounting.
set -euo pipefail

PACKAGES=(slurmctld slurmd slurm-client munge)
MARK=.slurm-loopback  # in a folder of this script's making, which may be removed whole
PATH=$PATH:/usr/sbin:/sbin  # where Debian keeps the daemons, off the path of a user

die() {
  local code=$1
  shift
  printf 'slurm_loopback: %s\n' "$*" >&2
  exit "$code"
}
usage() { die 64 "usage: scripts/slurm_loopback.sh install | start [DIR] | stop [DIR] | env [DIR]"; }

missing_program() {
  local program
  for program in slurmctld slurmd sinfo munged; do
    command -v "$program" >/dev/null || { echo "$program" && return; }
  done
}

install_packages() {
  [ -n "$(missing_program)" ] || return 0
  command -v apt-get >/dev/null || die 69 "no apt-get: install SLURM and munge as this system does"
  [ "$(id -u)" = 0 ] || die 77 "installing needs root: sudo apt-get install --no-install-recommends ${PACKAGES[*]}"
  local policy=/usr/sbin/policy-rc.d  # Debian's way to say that packages may start no services
  if [ ! -e "$policy" ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${PACKAGES[@]}" >/dev/null
}

print_environment() { printf 'export SLURM_CONF=%s/slurm.conf\n' "$dir"; }

# What the cluster says of its node (idle, mixed, drained, ...), nothing where there is none.
node_state() { [ -e "$dir/slurm.conf" ] && SLURM_CONF=$dir/slurm.conf timeout 5 sinfo -h -p test -o %T 2>/dev/null; }

# The daemons, found by the logs and sockets that they hold open in the folder, and the processes of jobs, by their environment.
# Neither needs a pid file, which a crash would leave stale.
processes() {
  local process
  find /proc/[0-9]*/fd -lname "$dir/*" 2>/dev/null | cut -d/ -f3 | sort -u | while read -r process; do
    case "$(cat "/proc/$process/comm" 2>/dev/null)" in
      munged | slurmctld* | slurmd* | slurmstepd*) echo "$process" ;;
    esac
  done
  { grep -lszxF "SLURM_CONF=$dir/slurm.conf" /proc/[0-9]*/environ || true; } | cut -d/ -f3 | while read -r process; do
    if grep -qsz '^SLURM_JOB_ID=' "/proc/$process/environ"; then echo "$process"; fi
  done
}

# Ends what runs and removes the folder. A folder with files of others is refused.
clear_all() {
  [ -e "$dir" ] || return 0
  if [ ! -d "$dir" ] || [ ! -O "$dir" ]; then die 73 "$dir is not a folder of yours: name another"; fi
  if [ ! -e "$dir/$MARK" ] && [ -n "$(ls -A "$dir")" ]; then die 73 "$dir holds other files: name another folder"; fi
  local found
  while found=$(processes) && [ -n "$found" ]; do
    # shellcheck disable=SC2086  # a list of numbers
    kill -KILL $found 2>/dev/null || true
    sleep 0.02
  done
  rm -rf "$dir"
}

# Two free ports above 26000 and below those that the kernel hands out itself.
choose_ports() {
  local used port
  used=$(awk 'FNR > 1 {split($2, local, ":"); print local[2]}' /proc/net/tcp /proc/net/tcp6 2>/dev/null)
  ports=()
  while ((${#ports[@]} < 2)); do
    port=$((26001 + RANDOM % 6000))
    grep -qx "$(printf %04X "$port")" <<<"$used" || [ "$port" = "${ports[0]:-}" ] || ports+=("$port")
  done
}

write_configuration() {
  local host address user memory
  host=$(uname -n)
  host=${host%%.*}
  user=$(id -un)
  address=$(getent ahostsv4 "$(uname -n)" | awk '{print $1; exit}')
  [ -n "$address" ] || die 78 "this machine's name, $(uname -n), has no address: add '127.0.0.1 $(uname -n)' to /etc/hosts"
  memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
  choose_ports
  ln -s /dev/null "$dir/gpu0"  # SLURM wants a device to each GPU, and takes any
  ln -s /dev/null "$dir/gpu1"
  cat >"$dir/gres.conf" <<END
Name=gpu File=$dir/gpu[0-1] Flags=nvidia_gpu_env
END
  # No cgroups are used; version 1, unlike 2 and the search for either, then also asks for none.
  echo CgroupPlugin=cgroup/v1 >"$dir/cgroup.conf"
  cat >"$dir/slurm.conf" <<END
ClusterName=loopback
SlurmctldHost=$host($address)
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket

StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log

ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
MpiDefault=none
GresTypes=gpu
JobRequeue=1
MaxArraySize=51
ReturnToService=2
KillWait=5
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1

NodeName=$host NodeAddr=$address CPUs=8 RealMemory=$memory Gres=gpu:2 State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE DefMemPerCPU=16 State=UP
PartitionName=short Nodes=$host MaxTime=1 DefMemPerCPU=16 State=UP
END
}

start() {
  local missing
  missing=$(missing_program)
  [ -z "$missing" ] || die 69 "no $missing: scripts/slurm_loopback.sh install (as root) brings it"
  if node_state >/dev/null; then
    printf 'slurm_loopback: runs already in %s\n' "$dir" >&2
    print_environment
    return
  fi
  clear_all  # what a crash left
  (umask 077 && mkdir -p "$dir")
  touch "$dir/$MARK"
  mkdir "$dir/state" "$dir/spool"
  write_configuration
  (umask 077 && head -c 128 /dev/urandom >"$dir/munge.key")
  export SLURM_CONF=$dir/slurm.conf
  # --force: munged wants a socket that every user can reach; this one is for its owner.
  munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
    --log-file="$dir/munged.log" --seed-file="$dir/munged.seed" >"$dir/start.log" 2>&1 </dev/null || failed munged
  slurmctld >>"$dir/start.log" 2>&1 </dev/null || failed slurmctld
  slurmd >>"$dir/start.log" 2>&1 </dev/null || failed slurmd
  SECONDS=0
  while ((SECONDS < 30)); do
    [ "$(node_state)" = idle ] && print_environment && return
    sleep 0.05
  done
  failed "the node"
}

failed() {
  tail -n 5 "$dir"/*.log >&2
  clear_all
  die 70 "$1 did not start; the ends of the logs are above"
}

(($# == 1 || $# == 2)) || usage
dir=$(realpath -m -- "${2:-${TMPDIR:-/tmp}/slurm-loopback-$(id -u)}")
[[ $dir =~ ^[A-Za-z0-9_./+-]+$ ]] || die 78 "SLURM's configuration cannot hold this path: $dir"
((${#dir} <= 80)) || die 78 "sockets lie in the folder, and the kernel bounds their paths; take one of at most 80 characters: $dir"
case "$1" in
  install) install_packages ;;
  start) start ;;
  stop) clear_all ;;
  env)
    [ -e "$dir/slurm.conf" ] || die 69 "no cluster in $dir: scripts/slurm_loopback.sh start"
    print_environment
    ;;
  *) usage ;;
esac

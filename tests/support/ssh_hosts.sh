#!/bin/bash
# Hosts that are reached by ssh: network, processes, names, /root and /tmp of their own.
#   BASE=/tmp/x ssh_hosts.sh up PREFIX N     sshd with keys; host 0 may log in everywhere; known_hosts filled
#   ssh_hosts.sh run PREFIX I CMD...         a command on host I, as a login there would run it
#   ssh_hosts.sh off PREFIX I                power off: SIGKILL to all its processes at once
#   ssh_hosts.sh down PREFIX
# SHARED_HOME: if it is set, all have one /root.
# HOST_PATH: what comes first in PATH there. HOST_SEES: folders below /tmp or /root
# that the hosts see, too (an interpreter, a venv).
# Needs root, iproute2, openssh-server, openssh-client, util-linux. Debian's sshd wants /run/sshd.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
verb=$1 prefix=$2; shift 2
net=${NETNS_NET:-10.77.7}
init_of() { cat "$BASE/$prefix$1/init.pid"; }
inside() { local i=$1; shift; nsenter -t "$(init_of "$i")" --net --mount --uts --pid -r -w env -i HOME=/root USER=root \
  PATH="${HOST_PATH:+$HOST_PATH:}/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin" "$@"; }
# The first process of the host reaps, so daemons may be orphans, as on any machine. It is not begun
# by `ip netns exec`, which would take its cgroups away.
boot() {
  local i=$1 dir="$BASE/$prefix$1"
  mkdir -p "$dir/root/.ssh" "$dir/tmp" "$dir/run"; chmod 700 "$dir/root" "$dir/root/.ssh"; chmod 1777 "$dir/tmp"
  setsid nsenter --net="/run/netns/$prefix$i" unshare --mount --uts --pid --fork --mount-proc --kill-child \
    bash -c 'set -e; hostname "$1"; mount --make-rprivate /
      mount -t tmpfs tmpfs /dev/shm
      mkdir -p "$2/run/sshd"; mount --bind "$2/run" /run
      for d in $3; do mkdir -p "$2/${d#/}"; mount --bind "$d" "$2/${d#/}"; done
      mount --rbind "$2/root" /root; mount --rbind "$2/tmp" /tmp
      cd /root; /usr/sbin/sshd -D -e -f /run/sshd_config & 
      trap : TERM; while :; do wait || true; sleep 0.2 & wait $! || true; done' host "$prefix$i" "$dir" "${HOST_SEES:-}" \
    >"$dir/log" 2>&1 </dev/null &
  for _ in $(seq 50); do   # the child of unshare is the host's pid 1
    u=$(pgrep -f "unshare --mount --uts --pid --fork --mount-proc --kill-child bash -c .* host $prefix$i " | head -1 || true)
    [ -z "$u" ] || { c=$(pgrep -P "$u" | head -1 || true); [ -z "$c" ] || { echo "$c" >"$dir/init.pid"; break; }; }
    sleep 0.1
  done
}
case $verb in
up)
  n=$1
  mkdir -p "$BASE"
  [ -e "$BASE/id_ed25519" ] || ssh-keygen -q -t ed25519 -N "" -f "$BASE/id_ed25519"
  "$here/netns_hosts.sh" up "$prefix" "$n"
  : >"$BASE/known_hosts"
  for i in $(seq 0 $((n - 1))); do
    dir="$BASE/$prefix$i"; mkdir -p "$dir/run"
    [ -z "${SHARED_HOME:-}" ] || { mkdir -p "$BASE/home"; ln -s ../home "$dir/root"; }
    mkdir -p "$dir/root/.ssh"
    [ -e "$dir/run/hostkey" ] || ssh-keygen -q -t ed25519 -N "" -f "$dir/run/hostkey"
    printf '%s\n' "ListenAddress $net.$((10 + i)):22" \
      "ListenAddress $net.$((10 + i)):2222" "HostKey /run/hostkey" "PasswordAuthentication no" \
      "PermitRootLogin prohibit-password" "AuthorizedKeysFile .ssh/authorized_keys" "UsePAM no" "StrictModes no" \
      "Subsystem sftp internal-sftp" "PidFile none" >"$dir/run/sshd_config"
    [ -z "${HOST_PATH:-}" ] || echo "export PATH=$HOST_PATH:\$PATH" >"$dir/root/.bashrc"
    [ -z "${HOST_PATH:-}" ] || echo "SetEnv PATH=$HOST_PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin" >>"$dir/run/sshd_config"
    cp "$BASE/id_ed25519.pub" "$dir/root/.ssh/authorized_keys"
    echo "$net.$((10 + i)),[$net.$((10 + i))]:2222 $(cut -d' ' -f1,2 "$dir/run/hostkey.pub")" >>"$BASE/known_hosts"
  done
  cp "$BASE/id_ed25519" "$BASE/known_hosts" "$BASE/${prefix}0/root/.ssh/"
  for i in $(seq 0 $((n - 1))); do boot "$i"; done ;;
boot) boot "$1" ;;
run) i=$1; shift; inside "$i" "$@" ;;
off) kill -9 "$(init_of "$1")" ;;
down)
  for f in "$BASE/$prefix"[0-9]*/init.pid; do kill -9 "$(cat "$f")" 2>/dev/null || true; rm -f "$f"; done
  sleep 0.3; "$here/netns_hosts.sh" down "$prefix" ;;
esac

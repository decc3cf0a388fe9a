#!/usr/bin/env bash
# A real S3 server for tests: a Ceph object gateway on loopback, in memory, without Docker, root or systemd.
#
#   s3_server.sh start [DIR] [PORT]   start it, wait until it serves, print its environment as NAME=value lines;
#                                     PORT 0 or none: a free one. On a DIR whose server runs already: print, no more.
#   s3_server.sh stop [DIR]           stop it and wait until it has gone. What it held goes with it.
#
# export $(infra/s3_server.sh start) makes AWS clients in this shell use it. With OWNER=PID set, it also stops when
# that process ends. Any number of servers may run, each in its own DIR. Debian's packages are unpacked once, to
# $XDG_CACHE_HOME/captionmill (about 260 MB).
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/captionmill
PREFIX=$CACHE/ceph
ACTION=${1:-}
DIR=$(realpath -m "${2:-$CACHE/s3-server}")  # its sockets' paths must stay below 108 characters
PORT=${3:-0}
DAEMONS=(rgw osd mon)  # in the order in which they go

say() { echo "s3_server.sh: $*" >&2; }
die() { say "$*"; exit 1; }
ceph_program() { "$HERE/debian.sh" run "$PREFIX" "$@"; }
ceph() { ceph_program timeout 60 /usr/bin/python3 "$PREFIX/root/usr/bin/ceph" -c "$DIR/ceph.conf" "$@"; }
pid_of() { cat "$DIR/run/$1.p" 2>/dev/null; }
running() { local pid; pid=$(pid_of "$1") && grep -qs ceph.conf "/proc/$pid/cmdline"; }

serves() {  # PORT: whether an HTTP request is answered with 200 there
    (exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && read -r -t 2 line <&3 &&
        [[ $line == *" 200 "* ]]) 2>/dev/null
}

free_ports() {  # COUNT: ports that nobody listens on
    /usr/bin/python3 - "$1" <<'PY'
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in held))
PY
}

environment() {
    cat <<EOF
AWS_ENDPOINT_URL=http://127.0.0.1:$(cat "$DIR/port")
AWS_ACCESS_KEY_ID=testkey
AWS_SECRET_ACCESS_KEY=testsecret
AWS_REGION=us-east-1
AWS_DEFAULT_REGION=us-east-1
AWS_REQUEST_CHECKSUM_CALCULATION=when_required
AWS_RESPONSE_CHECKSUM_VALIDATION=when_required
EOF
}

daemon() {  # NAME PROGRAM ARG...: in the background, its own session, its pid in run/NAME.p
    local name=$1; shift
    (exec "$HERE/debian.sh" run "$PREFIX" setsid "$1" -c "$DIR/ceph.conf" "${@:2}" -f) \
        >"$DIR/log/$name.out" 2>&1 </dev/null &
    echo $! >"$DIR/run/$name.p"
}

alive() {  # NAME: die with its last words unless it runs
    running "$1" || die "$1 has ended: $(tail -qn 5 "$DIR/log/$1.out" "$DIR"/log/*."$1"*.log 2>/dev/null)"
}

configure() {  # MON_PORT MON_PORT_V1
    local libraries
    libraries=$(echo "$PREFIX"/root/usr/lib/*-linux-gnu)
    MONITORS="[v2:127.0.0.1:$1,v1:127.0.0.1:$2]"
    FSID=$(cat /proc/sys/kernel/random/uuid)
    cat >"$DIR/ceph.conf" <<EOF
[global]
fsid = $FSID
keyring = $DIR/keyring
mon host = $MONITORS
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd crush chooseleaf type = 0
osd objectstore = memstore
osd class load list = *
osd class default list = *
osd class dir = $libraries/rados-classes
memstore device bytes = 8589934592
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail warn = 2
mon data avail crit = 1
run dir = $DIR/run
admin socket = $DIR/run/\$name.asok
pid file = $DIR/run/\$name.pid
log file = $DIR/log/\$name.log
erasure code dir = $libraries/ceph/erasure-code
plugin dir = $libraries/ceph
[mon.a]
mon data = $DIR/data/mon
[osd.0]
osd data = $DIR/data/osd
[client.rgw.a]
rgw data = $DIR/data/rgw
rgw frontends = beast endpoint=127.0.0.1:$PORT
EOF
}

keys() {
    local add=(ceph_program ceph-authtool "$DIR/keyring" --gen-key)
    ceph_program ceph-authtool --create-keyring "$DIR/keyring" --gen-key -n mon. --cap mon 'allow *' >/dev/null
    "${add[@]}" -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
    "${add[@]}" -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
    "${add[@]}" -n client.rgw.a --cap mon 'allow rw' --cap osd 'allow rwx'
}

start_monitor() {
    ceph_program monmaptool --create --fsid "$FSID" --addv a "$MONITORS" "$DIR/monmap" >/dev/null 2>&1
    ceph_program ceph-mon -c "$DIR/ceph.conf" --mkfs -i a --monmap "$DIR/monmap" --keyring "$DIR/keyring"
    daemon mon ceph-mon -i a
}

start_storage() {
    local uuid
    uuid=$(cat /proc/sys/kernel/random/uuid)
    ceph osd new "$uuid" >/dev/null || { alive mon; die "the monitor does not answer; see $DIR/log"; }
    ceph_program ceph-osd -c "$DIR/ceph.conf" -i 0 --mkfs --osd-uuid "$uuid" 2>"$DIR/log/mkfs.out"
    daemon osd ceph-osd -i 0
    ceph osd crush create-or-move osd.0 1.0 root=default host=localhost 2>"$DIR/log/crush.out"
}

start_gateway() {
    daemon rgw radosgw -n client.rgw.a
    local _
    for _ in $(seq 600); do
        serves "$PORT" && break
        alive mon; alive osd; alive rgw
        sleep 0.1
    done
    serves "$PORT" || die "the gateway does not serve on port $PORT; see $DIR/log"
    ceph_program timeout 60 radosgw-admin -c "$DIR/ceph.conf" user create --uid=test --display-name=test \
        --access-key=testkey --secret=testsecret >"$DIR/log/user.out" 2>&1 || die "no user: $(tail -n 3 "$DIR/log/user.out")"
}

follow_owner() {  # stop when process $OWNER ends, however it ends
    [ -n "${OWNER:-}" ] || return 0
    setsid bash -c 'while kill -0 "$1" 2>/dev/null; do sleep 2; done; "$2" stop "$3"' - \
        "$OWNER" "$HERE/s3_server.sh" "$DIR" >/dev/null 2>&1 </dev/null &
}

start() {
    if running rgw && [ -f "$DIR/port" ] && serves "$(cat "$DIR/port")"; then environment; return; fi
    [ ${#DIR} -le 80 ] || die "$DIR is too long a path for sockets; take a shorter one"
    stop
    "$HERE/debian.sh" get "$PREFIX" radosgw ceph-mon ceph-osd ceph-common
    rm -rf "$DIR"/{data,run,log,keyring,monmap,port}
    mkdir -p "$DIR"/{run,log,data/mon,data/osd,data/rgw}
    local ports
    read -ra ports <<<"$(free_ports 3)"
    [ "$PORT" != 0 ] || PORT=${ports[2]}
    ! serves "$PORT" || die "port $PORT is taken by another server"
    trap stop ERR EXIT  # a half-started server is no use to anybody
    configure "${ports[0]}" "${ports[1]}"
    keys
    start_monitor
    start_storage
    start_gateway
    echo "$PORT" >"$DIR/port"
    trap - ERR EXIT
    follow_owner
    environment
}

stop() {
    local name pid
    for name in "${DAEMONS[@]}"; do
        running "$name" || continue
        pid=$(pid_of "$name")
        kill "$pid"
        for _ in $(seq 50); do running "$name" || break; sleep 0.1; done
        ! running "$name" || kill -KILL "$pid"
    done
    rm -f "$DIR"/run/*.p "$DIR/port"
}

case $ACTION in
    start | stop) $ACTION ;;
    *) die "usage: s3_server.sh start [DIR] [PORT] | stop [DIR]" ;;
esac

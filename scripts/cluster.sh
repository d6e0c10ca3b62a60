#!/usr/bin/env bash
# Starts a cluster on this host: an engine, several nodes, and HAProxy in front of them.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
port=9400 nodes=3 engine='' binary=''

usage() {
  cat <<TEXT
Usage: scripts/cluster.sh [options]

Starts an engine (Valkey or Redis), nodes of Seawall that share their channels through it, and
HAProxy in front of the nodes. Prints where the playground is, and how to see a node or the engine
fail. Ctrl-C ends everything that it has started. Nothing is kept.

  --nodes N           nodes, 1 to 8 (default $nodes)
  --port P            port of HAProxy (default $port); nodes are at P+1 and up, their admin
                      addresses at P+11 and up, the engine at P+20; all on 127.0.0.1
  --engine PROGRAM    the engine (default: valkey-server if it is installed, else redis-server)
  --binary FILE       the server; without it, a release build is made
  -h, --help          this text
TEXT
}

die() { echo "cluster.sh: $*" >&2; exit 1; }

while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --nodes | --port | --engine | --binary)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --nodes) nodes=$2 ;;
        --port) port=$2 ;;
        --engine) engine=$2 ;;
        --binary) binary=$2 ;;
      esac
      shift 2 ;;
    *) die "unknown option $1 (-h lists them)" ;;
  esac
done
[[ $nodes =~ ^[1-8]$ ]] || die "--nodes must be a number from 1 to 8, not $nodes"
if ! [[ $port =~ ^[1-9][0-9]{3,4}$ ]] || ((port > 65500)); then
  die "--port must be a number from 1000 to 65500, not $port"
fi
if [[ -z $engine ]]; then
  engine=$(command -v valkey-server || command -v redis-server) ||
    die "there is no engine: apt-get install redis-server (or valkey-server), or name it by --engine"
fi
command -v "$engine" >/dev/null || die "$engine cannot be run: correct --engine"
haproxy=$(PATH=$PATH:/usr/sbin command -v haproxy) ||
  die "there is no HAProxy: apt-get install haproxy"

# answers PORT REQUEST START: whether the reply to the request starts so.
answers() {
  (
    exec 3<>"/dev/tcp/127.0.0.1/$1"
    printf '%b' "$2" >&3
    IFS= read -r -t 2 line <&3
    [[ $line == "$3"* ]]
  ) 2>/dev/null
}
# is_used PORT: whether something listens there.
is_used() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
ready_request='GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'

engine_port=$((port + 20))
for ((at = 0; at <= nodes; at++)); do
  ports=("$((port + at))")
  ((at == 0)) || ports+=("$((port + 10 + at))")
  for each in "${ports[@]}"; do
    ! is_used "$each" || die "port $each is in use: choose others by --port"
  done
done
! is_used "$engine_port" || die "port $engine_port is in use: choose others by --port"

if [[ -z $binary ]]; then
  (cd "$ROOT" && cargo build --release)
  binary=${CARGO_TARGET_DIR:-$ROOT/target}/release/seawall
fi
[[ -x $binary ]] || die "$binary cannot be run: correct --binary, or leave it out"

folder=$(mktemp -d)
# What runs: names by process id.
declare -A running=()

# start NAME COMMAND...: in a session of its own, so that Ctrl-C ends it in the right order.
start() {
  local name=$1
  shift
  setsid "$@" </dev/null >"$folder/$name.log" 2>&1 &
  running[$!]=$name
  pid=$!
}

# stop KIND: ends what has a name that starts so.
stop() {
  local each ended=()
  for each in "${!running[@]}"; do
    [[ ${running[$each]} == "$1"* ]] || continue
    # It may be stopped, or have ended.
    kill -TERM "$each" 2>/dev/null || true
    kill -CONT "$each" 2>/dev/null || true
    ended+=("$each")
  done
  sleep 0.2
  for each in "${ended[@]}"; do
    # A second signal ends a node that has clients.
    kill -TERM "$each" 2>/dev/null || true
    wait "$each" 2>/dev/null || true
    unset "running[$each]"
  done
}
finish() {
  stop balancer
  stop node
  stop engine
  rm -rf "$folder"
}
trap finish EXIT
trap 'echo; exit 0' INT TERM

# await NAME PORT REQUEST START: until it answers so.
await() {
  local attempt
  for ((attempt = 0; attempt < 600; attempt++)); do
    answers "$2" "$3" "$4" && return
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  tail -n 20 "$folder/$1.log" >&2
  die "$1 does not answer at port $2: its log is above"
}

start engine "$engine" --port "$engine_port" --bind 127.0.0.1 --dir "$folder" --save '' \
  --appendonly no
engine_pid=$pid
await engine "$engine_port" 'PING\r\n' +PONG

cat >"$folder/seawall.toml" <<TEXT
[cluster]
urls = ["redis://127.0.0.1:$engine_port"]

[resume]
keys = ["$(head -c 32 /dev/urandom | base64)"]

[[listener]]
address = "127.0.0.1:0"
trusted_proxies = ["127.0.0.1"]
forwarded_header = "x-forwarded-for"

[[channel]]
pattern = "*"
history = 1000
history_ttl_s = 3600
presence = true
TEXT
# The check is that of the admin address: it also says whether the engine has been reached.
cat >"$folder/haproxy.cfg" <<TEXT
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    # Longer than route.ping_interval_ms, so that only dead connections are dropped.
    timeout tunnel 2m
    # A node that was killed is passed over, also before the check notices.
    retries 3
    option redispatch 1

frontend clients
    bind 127.0.0.1:$port
    default_backend nodes

backend nodes
    balance leastconn
    option forwardfor
    option httpchk
    http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host localhost
    default-server check inter 500ms fall 1 rise 1
TEXT
listing=()
for ((at = 1; at <= nodes; at++)); do
  own=$((port + at)) admin=$((port + 10 + at))
  sed "s/127.0.0.1:0/127.0.0.1:$own/" "$folder/seawall.toml" >"$folder/node-$at.toml"
  start "node-$at" "$binary" serve --config "$folder/node-$at.toml" --admin "127.0.0.1:$admin"
  await "node-$at" "$admin" "$ready_request" 'HTTP/1.1 200'
  echo "    server node-$at 127.0.0.1:$own port $admin" >>"$folder/haproxy.cfg"
  listing+=("node-$at      http://127.0.0.1:$own/  admin http://127.0.0.1:$admin  pid $pid")
done
start balancer "$haproxy" -db -f "$folder/haproxy.cfg"
await balancer "$port" "$ready_request" 'HTTP/1.1 200'

cat <<TEXT
balancer    http://127.0.0.1:$port/  (the playground; clients: ws://127.0.0.1:$port/ws)
$(printf '%s\n' "${listing[@]}")
engine      redis://127.0.0.1:$engine_port  pid $engine_pid
logs        $folder

Open the playground twice, subscribe both to a channel, and publish. Then

  kill -9 PID-OF-A-NODE        its clients connect to another node through the balancer, resume there,
                               and miss nothing. \`seawall nodes\` lists it as silent after ten seconds
  kill -STOP $engine_pid              clients are told after some seconds that the engine is away;
                               publishes wait
  kill -CONT $engine_pid              it is back: what was published meanwhile arrives

Ctrl-C ends everything.
TEXT
# Until all has ended, or Ctrl-C.
while ((${#running[@]})); do
  status=0
  wait -n -p ended "${!running[@]}" 2>/dev/null || status=$?
  [[ -n ${ended:-} ]] || continue
  echo "${running[$ended]} has ended with status $status"
  unset "running[$ended]"
done

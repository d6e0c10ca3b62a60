# shellcheck shell=bash disable=SC2034,SC2153
# Shared functions of load-*.sh, tune.sh and million.sh: sourced, not run. A script sets NAME
# and usage() before it sources this.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$ROOT/target}
BENCH=$target/release/seawall-bench SEAWALL=$target/release/seawall

die() { echo "$NAME.sh: $*" >&2; exit 1; }

# Options that all have; a script that needs other defaults sets them after sourcing.
port=9480 server_core=0 load_core=1 shards=1 out=$target/$NAME build=1
# With --tls: the certificate ends with the server, so no authority is there to be trusted.
scheme=ws secure=() trust=()
common_options() {
  cat <<TEXT
  --shards N          shards of the server (default $shards)
  --server-core LIST  cores of the server, as taskset reads them (default $server_core)
  --load-core LIST    cores of the load (default $load_core)
  --port P            port of the server; P+1 is its admin port (default $port)
  --out DIR           where JSON, pictures and logs go (default target/$NAME)
  --tls               connect by wss://, with a certificate that the server makes
  --no-build          use what is built
  -h, --help          this text

All traffic is on 127.0.0.0/8. The server is a release build that this script starts, pins, and ends
by its pid, whatever happens. Needs jq, ss and taskset.
TEXT
}

# common_option ARGUMENTS...: takes one option off the front; `taken` says how many words it had.
common_option() {
  taken=1
  case ${1:-} in
    -h | --help) usage; exit 0 ;;
    --no-build) build=0; return ;;
    --tls) scheme=wss secure=(--dev-tls) trust=(--insecure); return ;;
    --shards | --server-core | --load-core | --port | --out) ;;
    *) die "unknown option ${1:-} (-h lists them)" ;;
  esac
  (($# > 1)) || die "$1 needs a value"
  taken=2
  case $1 in
    --shards) shards=$2 ;;
    --server-core) server_core=$2 ;;
    --load-core) load_core=$2 ;;
    --port) port=$2 ;;
    --out) out=$2 ;;
  esac
}

# need_number NAME VALUE...: the value of an option is a whole number above 0.
need_number() {
  local name=$1
  shift
  for each; do
    [[ $each =~ ^[1-9][0-9]*$ ]] || die "$name must be a positive integer, not $each"
  done
}

prepare() {
  local tool
  need_number --port "$port"
  need_number --shards "$shards"
  for tool in jq ss taskset column; do
    command -v "$tool" >/dev/null || die "$tool is missing: install it with the system's packages"
  done
  # The table of a ring is bounded by the limit of open files, the server's and the generator's.
  ulimit -n "$(ulimit -Hn)"
  if ((build)); then (cd "$ROOT" && cargo build --release --workspace); fi
  [[ -x $BENCH && -x $SEAWALL ]] || die "not built; run without --no-build"
  mkdir -p "$out"
}

# own_network CONNECTIONS ARGUMENTS...: continues in a network namespace of its own, whose
# table of established connections has two buckets for each end of CONNECTIONS. The host's table is
# sized at boot, often for 250,000 connections: with more, each packet walks a chain in it.
own_network() {
  if [[ -n ${OWN_NETWORK:-} ]]; then ip link set lo up; return; fi
  local places=$(($1 * 4)) own=/proc/sys/net/ipv4/tcp_child_ehash_entries why=
  shift
  ((places <= 1 << 24)) || places=$((1 << 24))
  [[ -w $own ]] || why="$own is missing (the kernel is older than 6.1) or cannot be written"
  unshare --net ip link set lo up 2>/dev/null || why="it needs CAP_SYS_ADMIN and CAP_NET_ADMIN"
  command -v ip >/dev/null || why="ip is missing (package iproute2)"
  if [[ -n $why ]]; then
    echo "$NAME: runs in the host's network, without a larger table of connections:" \
      "$why" >&2
    return
  fi
  # A namespace takes the size that its parent sets for children: with one in between, the host's
  # setting is unchanged.
  export OWN_NETWORK=1
  # shellcheck disable=SC2016 # the inner shell's own arguments
  exec unshare --net -- "$BASH" -c 'echo "$1" >"$2" && exec unshare --net -- "${@:3}"' - \
    "$places" "$own" "$BASH" "$ROOT/scripts/$NAME.sh" --no-build "$@"
}

server_pid=
listening() { [[ -n $(ss -Hltn "sport = :$port") ]]; }

stop_server() {
  [[ -n $server_pid ]] || return 0
  local pid=$server_pid
  server_pid=
  kill "$pid" 2>/dev/null || true
  for _ in {1..100}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  kill -9 "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  # A ring is torn down after its process has ended: until then its listener still accepts.
  for _ in {1..600}; do listening || return 0; sleep 0.1; done
  die "port $port still listens after its server was ended: $(ss -Hltnp "sport = :$port")"
}
trap stop_server EXIT
trap 'exit 130' INT TERM

# start_server [TOML [LISTENER-TOML]]: with this configuration besides address and shards.
start_server() {
  # A listener left over from an earlier run would share the connections, or take them all.
  if listening; then die "port $port is in use: $(ss -Hltnp "sport = :$port")"; fi
  printf '%s\n\n[[listener]]\naddress = "127.0.0.1:%s"\n%s\n' \
    "${1:-}" "$port" "${2:-}" >"$out/server.toml"
  taskset -c "$server_core" "$SEAWALL" serve --config "$out/server.toml" --shards "$shards" \
    "${secure[@]}" \
    --admin "127.0.0.1:$((port + 1))" >"$out/server.log" 2>&1 &
  server_pid=$!
  for _ in {1..200}; do
    kill -0 "$server_pid" 2>/dev/null || die "the server ended at once: $(tail -n 3 "$out/server.log")"
    if listening; then return; fi
    sleep 0.05
  done
  die "the server does not listen after 10 s: $(tail -n 3 "$out/server.log")"
}

# load SECONDS NAME MODE OPTIONS...: one run of at most that many seconds; its results are in
# $out/NAME.json, .hgrm and .log.
load_path=/echo
load() {
  local limit=$1 name=$2 mode=$3
  shift 3
  echo "$NAME: $name" >&2
  taskset -c "$load_core" timeout "$limit" "$BENCH" "$mode" \
    "$scheme://127.0.0.1:$port$load_path" "$@" "${trust[@]}" \
    --server-pid "$server_pid" --json "$out/$name.json" --hgrm "$out/$name.hgrm" \
    >"$out/$name.log" 2>&1 || load_failed "$name" $?
}

# A run that found losses has figures all the same: they are shown, and the script fails at its end.
failed_runs=()
load_failed() {
  local name=$1 code=$2
  [[ $code != 124 ]] || die "run $name did not end in time; see $out/$name.log"
  [[ -s $out/$name.json ]] || die "run $name failed: $(tail -n 3 "$out/$name.log")"
  failed_runs+=("$name: $(tail -n 1 "$out/$name.log")")
}

# value NAME KEY [DIVISOR [DIGITS]]: a figure of a run.
value() {
  jq -r --arg key "$2" --argjson divisor "${3:-1}" --argjson digits "${4:-2}" '
    .[$key] | if type == "number" then
      . / $divisor * pow(10; $digits) | round / pow(10; $digits) else . // "-" end' "$out/$1.json"
}

plot() { "$BENCH" plot "$@" >/dev/null || die "cannot draw: plot $*"; }

# finish: what was written, what made figures doubtful, and what failed.
finish() {
  local name
  for name in "$@"; do
    jq -r --arg name "$name" '.warnings[] | "\($name): WARNING: \(.)"' "$out/$name.json" >&2
  done
  echo "JSON, pictures and logs: $out" >&2
  ((${#failed_runs[@]} == 0)) || die "$(printf '%s\n' "runs failed:" "${failed_runs[@]}")"
}

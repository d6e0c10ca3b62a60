#!/usr/bin/env bash
# The head-to-head: Seawall, its peers and the bare TCP echoes as limits, in turn A B C A B C …,
# the server pinned to one core and the load to another, medians of the rounds.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ALL_SERVERS=(bare-uring bare-epoll seawall seawall-epoll tokio-tungstenite fastwebsockets sockudo-ws
  yawc uws npm-ws py-websockets tokio-broadcast nchan)
# Those that compress, and those that publish to channels.
DEFLATERS=(seawall seawall-epoll sockudo-ws yawc npm-ws py-websockets)
HUBS=(seawall seawall-epoll tokio-broadcast nchan)
SIZES=(20 1k 16k)
COUNTS=(200 5000)
ALL_ROWS=()
for kind in echo open; do
  for size in "${SIZES[@]}"; do
    for count in "${COUNTS[@]}"; do ALL_ROWS+=("$kind$size-$count"); done
  done
done
ALL_ROWS+=(pipelined echo1m handshake idle)
for crowd in fanout1k fanout10k fanout1000x10; do
  ALL_ROWS+=("$crowd-alone" "$crowd-full" "$crowd-half")
done
ALL_ROWS+=(post deflate1k-200 idle-deflate idle-takeover)

usage() {
  cat <<EOF
Usage: scripts/compare.sh [options]

Builds everything, runs every row against every server in turn, and prints the median of each row,
its ratio to the limit (the better of the two bare echoes) and its ratio to Seawall. Draws each row,
and percentile curves of those whose rate is given. All traffic is on 127.0.0.0/8. Needs two idle
cores, jq, ss and taskset.

  --rounds N       rounds (default 5)
  --rows A,B       of: ${ALL_ROWS[*]}
  --servers A,B    of: ${ALL_SERVERS[*]}
  --quick          one round of short runs: checks that everything works; figures are not comparable
  --seconds S      measured seconds of a run (default 4)
  --rate N         messages per second of the open rows (default: 70 % of what the slowest of the
                   servers reached in the closed loop of the same size and connections)
  --out DIR        where the JSON of each run goes (default target/compare)
  --port P         port of the servers; P+1 is Seawall's admin port (default 9460)
  --server-core N  core of the server (default 0)
  --load-core N    core of the load (default 1)
  --congestion C   congestion control of all servers, in a network namespace of this run (default
                   reno; "host": in the host's network, with its default)
  --no-build       use what is built
  --table          run nothing: print the table of the runs in --out
  -h, --help       this text

Rows and what is compared:
  echoSIZE-CONNECTIONS      one message of 20 bytes, 1 KiB or 16 KiB in flight on each of 200 or
                            5,000 connections: nanoseconds of server CPU for each message
  openSIZE-CONNECTIONS      the same sizes and connections as an open loop at one rate for all
                            servers: p50, p99 and p99.9 from the intended send time. This is the
                            honest latency: closed loops reward servers that serve a few
                            connections again and again
  pipelined                 20 bytes with 16 in flight on 200 connections
  echo1m                    1 MiB of binary, 8 connections: bytes echoed in a second of server CPU
  handshake                 nanoseconds of server CPU for each connection opened and cleanly closed
  idle                      growth of the server's anonymous memory for each idle connection, from
                            5,000 to 15,000, and server CPU for each one opened (without its
                            closing), and growth of the kernel's slab for both ends
  fanout1k-HOW              one publisher and 1,000 subscribers of a channel
  fanout10k-HOW             the same with 10,000 subscribers
  fanout1000x10-HOW         1,000 channels with a publisher and 10 subscribers each
    ...-alone               at 50,000 deliveries a second, so that each message leaves by itself:
                            deliveries in a second of server CPU
    ...-full                published faster than it can be delivered: the same
    ...-half                at half of that throughput: p50, p99 from publish to delivery. Here the
                            load never sleeps, as if it were another host
  post                      messages published over HTTP in a second of server CPU, in batches of
                            100 where there are batches, to one subscriber
  deflate1k-200             1 KiB of JSON-like text on 200 connections, compressed both ways, at level
                            1, without context takeover: nanoseconds of server CPU for each message
  idle-deflate, idle-takeover
                            growth of the server's anonymous memory for each idle connection that
                            has echoed one such message, from 1,000 to 3,000: without and with
                            context takeover of the server

"bare-uring" and "bare-epoll" echo TCP and know no WebSocket, so they have no handshake and no idle
row. "uws" is uWebSockets, where bench/peers/uws/build.sh has built it: over libuv, whose handle
adds some 200 bytes to each idle connection of its own event loop. "npm-ws" and "py-websockets" run
where scripts/check.sh has installed them into .cache. "tokio-broadcast" is tokio-tungstenite with
tokio's broadcast channel, as it is written by hand; "nchan" is nginx with that module, of the
distribution, which this script installs (as root) where it is missing.

A server that fails in a row is marked as failed there, and the others continue; the exit status is
then 1, and the reasons are in OUT/ROW.SERVER.ROUND.failed.

Congestion control: all servers run with the same one. The peers cannot be given one by socket, and
where the host's default paces by timers (BBR) their small echoes would pay for it, while Seawall
sets another on its listeners. So everything runs in a fresh network namespace with a default of its
own, which needs root; the kernel allows there those of
/proc/sys/net/ipv4/tcp_allowed_congestion_control.

A full run takes about an hour. A row marked with * had a run in which the server was not
saturated, and one with ! a run disturbed by other processes: see the warnings in its JSON.
EOF
}

die() { echo "compare.sh: $*" >&2; exit 1; }

rounds=5 seconds=4 warmup=1 quick=0 build=1 run=1 rate='' port=9460 server_core=0 load_core=1
out='' congestion=reno rows=("${ALL_ROWS[@]}") servers=("${ALL_SERVERS[@]}") chosen=0
arguments=("$@")
while (($#)); do
  case $1 in
    --rounds | --rows | --servers | --seconds | --rate | --out | --port | --server-core | \
      --load-core | --congestion)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --rounds) rounds=$2 ;;
        --rows) IFS=, read -ra rows <<<"$2" ;;
        --servers) IFS=, read -ra servers <<<"$2"; chosen=1 ;;
        --seconds) seconds=$2 ;;
        --rate) rate=$2 ;;
        --out) out=$2 ;;
        --port) port=$2 ;;
        --server-core) server_core=$2 ;;
        --load-core) load_core=$2 ;;
        --congestion) congestion=$2 ;;
      esac
      shift 2 ;;
    --quick) quick=1; shift ;;
    --no-build) build=0; shift ;;
    --table) build=0 run=0; shift ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown option $1 (-h lists them)" ;;
  esac
done
is_hub_row() { [[ $1 == fanout* || $1 == post ]]; }
for number in "$rounds" "$port" "$server_core" "$load_core" "${rate:-1}"; do
  [[ $number =~ ^[0-9]+$ ]] || die "$number is not a number"
done
((rounds > 0)) || die "--rounds must be above 0"
# Quiet connections are parked after some seconds; memory is read when they are.
settle=9
if ((quick)); then rounds=1 seconds=1 warmup=0.3 settle=1; fi
member() {
  local one=$1 each
  shift
  for each; do [[ $each == "$one" ]] && return; done
  return 1
}
for one in "${rows[@]}"; do
  member "$one" "${ALL_ROWS[@]}" || die "no row $one (-h lists them)"
done
for one in "${servers[@]}"; do
  member "$one" "${ALL_SERVERS[@]}" || die "no server $one (-h lists them)"
done
for tool in jq ss taskset; do command -v "$tool" >/dev/null || die "$tool is missing"; done

target=${CARGO_TARGET_DIR:-$ROOT/target}
out=${out:-$target/compare}
mkdir -p "$out"
BENCH=$target/release/seawall-bench SEAWALL=$target/release/seawall PEERS=$target/peers/release
UWS=$target/peers/uws/echo
if ((build)); then
  (cd "$ROOT" && cargo build --release -p seawall-bench)
  if [[ " ${servers[*]} " == *" seawall"* ]]; then (cd "$ROOT" && cargo build --release -p seawall); fi
  (cd "$ROOT/bench/peers" && CARGO_TARGET_DIR=$target/peers cargo build --release)
fi

binary_of() {
  case $1 in
    bare-*) echo "$BENCH" ;;
    seawall | seawall-epoll) echo "$SEAWALL" ;;
    uws) echo "$UWS" ;;
    npm-ws) [[ ! -d $ROOT/.cache/node/node_modules/ws ]] || command -v node ;;
    py-websockets) echo "$ROOT/.cache/venv/bin/python" ;;
    nchan) [[ ! -e $NCHAN ]] || command -v nginx ;;
    *) echo "$PEERS/peer-$1" ;;
  esac
}
NCHAN=/usr/lib/nginx/modules/ngx_nchan_module.so
install_nchan() {
  echo "installing nginx with nchan" >&2
  local policy=/usr/sbin/policy-rc.d own=0 status=0
  # No service may start: this script starts what it measures.
  if [[ ! -e $policy ]]; then
    own=1
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  local get=(apt-get install -y -qq --no-install-recommends nginx libnginx-mod-nchan)
  DEBIAN_FRONTEND=noninteractive "${get[@]}" >/dev/null 2>&1 ||
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${get[@]}" >/dev/null; } || status=$?
  if ((own)); then rm -f "$policy"; fi
  return "$status"
}
if member nchan "${servers[@]}" && ((run)) && [[ ! -e $NCHAN ]]; then
  if ((EUID == 0)) && command -v apt-get >/dev/null; then
    install_nchan || echo "nginx with nchan could not be installed" >&2
  fi
fi
# A namespace of its own has a default congestion control of its own; the script runs itself in it,
# when everything is built and installed: no package comes from outside there.
if ((run)) && [[ $congestion != host && -z ${COMPARE_IN_NAMESPACE:-} ]]; then
  unshare --net true 2>/dev/null ||
    die "a network namespace needs root: run as root, or with --congestion host"
  export COMPARE_IN_NAMESPACE=1
  exec unshare --net -- "$BASH" "$ROOT/scripts/compare.sh" --no-build "${arguments[@]}"
fi
if ((run)) && [[ $congestion != host ]]; then
  ip link set lo up
  { echo "$congestion" >/proc/sys/net/ipv4/tcp_congestion_control; } 2>/dev/null ||
    die "congestion control $congestion is not allowed in a namespace: the kernel allows" \
      "$(</proc/sys/net/ipv4/tcp_allowed_congestion_control)"
fi

present=()
for one in "${servers[@]}"; do
  if [[ -x $(binary_of "$one") ]]; then
    present+=("$one")
  elif ((chosen)); then
    die "$one is not built: $(binary_of "$one") is missing"
  else
    echo "leaving out $one: it is not built" >&2
  fi
done
servers=("${present[@]}")

# What is stopped, and what is measured: with nchan the one has started the other.
server_pid='' measured_pid=''
stop_server() {
  [[ -n $server_pid ]] || return 0
  local pid=$server_pid
  server_pid=
  kill "$pid" 2>/dev/null || true
  for _ in {1..50}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  kill -9 "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  # A ring is torn down after its process has ended: until then its listener still accepts.
  for _ in {1..100}; do listening || return 0; sleep 0.05; done
  die "port $port still listens after its server was ended: $(ss -Hltnp "sport = :$port")"
}
trap stop_server EXIT
trap 'exit 130' INT TERM

listening() { [[ -n $(ss -Hltn "sport = :$port") ]]; }

# What made the last run fail.
why=
failed() { why=$*; return 1; }

# start_server SERVER ROW: fails where the server does.
start_server() {
  local address=127.0.0.1:$port command compression=
  case $2 in
    deflate1k* | idle-deflate) compression=deflate ;;
    idle-takeover) compression=takeover ;;
  esac
  # A listener left over from an earlier run would share the connections, or take them all.
  if listening; then die "port $port is in use: $(ss -Hltnp "sport = :$port")"; fi
  case $1 in
    bare-uring)
      command=("$BENCH" serve-uring "$address")
      # Large messages want buffers that stay in the cache, small ones want many.
      case $2 in *16k-* | echo1m) command+=(--buffers 64 --buffer-size 65536) ;; esac ;;
    bare-epoll) command=("$BENCH" serve-epoll "$address") ;;
    seawall | seawall-epoll)
      command=("$SEAWALL" serve --listen "$address" --admin "127.0.0.1:$((port + 1))" --shards 1)
      if [[ $compression == takeover ]]; then
        printf '[[route]]\npath = "/echo"\ncompression = "takeover"\n' >"$out/seawall.toml"
        command+=(--config "$out/seawall.toml")
      fi
      if [[ $1 == seawall-epoll ]]; then command+=(--driver epoll); fi ;;
    npm-ws) command=(node "$ROOT/bench/peers/ws/echo.mjs" "$address") ;;
    py-websockets)
      command=("$ROOT/.cache/venv/bin/python" "$ROOT/bench/peers/websockets/echo.py" "$address") ;;
    nchan)
      sed -e "s#ADDRESS#$address#" -e "s#FOLDER#$out#" "$ROOT/bench/peers/nchan/nginx.conf" \
        >"$out/nginx.conf"
      command=(nginx -e "$out/nginx-error.log" -p "$out" -c "$out/nginx.conf") ;;
    *) command=("$(binary_of "$1")" "$address") ;;
  esac
  if [[ $1 == bare-* && $congestion != host ]]; then command+=(--congestion default); fi
  if [[ -n $compression && $1 != seawall* ]]; then command+=("$compression"); fi
  taskset -c "$server_core" "${command[@]}" >"$out/server.log" 2>&1 &
  server_pid=$!
  for _ in {1..100}; do
    kill -0 "$server_pid" 2>/dev/null ||
      failed "$1 ended at once: $(tail -n 3 "$out/server.log")" || return
    if listening; then break; fi
    sleep 0.05
  done
  listening ||
    failed "$1 does not listen on port $port after 5 s: $(tail -n 3 "$out/server.log")" || return
  measured_pid=$server_pid
  if [[ $1 == nchan ]]; then
    for _ in {1..100}; do
      measured_pid=$(pgrep -P "$server_pid" -o) && return
      sleep 0.05
    done
    failed "nginx has no worker process: $(tail -n 3 "$out/nginx-error.log")"
  fi
}

# load ROW SERVER FILE: one run, against the server that is running; fails where it does.
load() {
  local ahead=$warmup
  # Seawall parks connections that are quiet for five seconds, once: that belongs to no delivery.
  if [[ $1 == fanout* ]] && ! ((quick)); then ahead=9; fi
  local mode=echo path=/echo options=(--duration "$seconds" --warmup "$ahead")
  case $1 in
    deflate1k-200) options+=(--deflate) ;;&
    *-200 | *-5000) options+=(--connections "${1##*-}") ;;&
    *1k-[25]*) options+=(--size 1024) ;;
    *16k-*) options+=(--size 16384) ;;
    pipelined) options+=(--connections 200 --depth 16) ;;
    echo1m) options+=(--connections 8 --size 1048576 --binary) ;;
    handshake) mode=connect ;;
    idle) mode=hold options=(--steps "5000,15000" --hold 1 --settle "$settle") ;;
    idle-*)
      mode=hold options=(--steps "1000,3000" --hold 1 --settle "$settle" --greet --size 1024
        "--${1#idle-}") ;;
    fanout* | post) mode=fanout; fanout_options "$1" "$2" || return ;;
  esac
  if [[ $1 == open* ]]; then
    local open_rate
    open_rate=$(rate_of "$1") || failed "row $1 needs row echo${1#open} for its rate (or --rate)" ||
      return
    options+=(--rate "$open_rate")
  fi
  if [[ $2 == bare-* ]]; then options+=(--raw); fi
  taskset -c "$load_core" timeout 120 "$BENCH" "$mode" "ws://127.0.0.1:$port$path" \
    "${options[@]}" --server-pid "$measured_pid" --json "$3" --hgrm "${3%.json}.hgrm" \
    >"$out/load.log" 2>&1 ||
    failed "row $1 failed against $2: $(tail -n 3 "$out/load.log")"
}

# Deliveries a second of the rows in which each message leaves alone.
ALONE=50000

# fanout_options ROW SERVER: into `options` and `path` of the caller.
fanout_options() {
  local members=1000 channels=1 batch=1 window=64 crowd=${1%-*}
  case $crowd in
    fanout10k) members=10000 window=16 ;;
    fanout1000x10) members=10 channels=1000 batch=16 window=16000 ;;
  esac
  options+=(--subscribers $((members * channels)) --channels "$channels" --publishers "$channels")
  options+=(--own-channel)
  case $2 in
    seawall | seawall-epoll) path=/ws ;;
    tokio-broadcast) path="/{channel}" options+=(--dialect plain) ;;
    nchan) path="/sub/{channel}" options+=(--dialect nchan --publish-path "/pub/{channel}") ;;
  esac
  case $1 in
    *-alone) options+=(--rate $((ALONE / members))) ;;
    *-full) options+=(--depth 64 --batch "$batch" --window "$window") ;;
    *-half)
      local full=("$out/$crowd-full.$2".*.json)
      [[ -e ${full[0]} ]] || failed "row $1 needs row $crowd-full" || return
      options+=(--spin --batch "$batch" --rate "$(jq -s --argjson members "$members" \
        'map(.per_second) | add / length / 2 / $members | floor | [., 1] | max' "${full[@]}")") ;;
    post) post_options "$2" ;;
  esac
}

post_options() {
  options=(--duration "$seconds" --warmup "$warmup" --subscribers 1)
  case $1 in
    seawall | seawall-epoll) options+=(--batch 100 --api "http://127.0.0.1:$((port + 1))") ;;
    nchan) options+=(--dialect nchan --api "http://127.0.0.1:$port/pub/{channel}") ;;
  esac
}

# applies ROW SERVER
applies() {
  if is_hub_row "$1"; then
    member "$2" "${HUBS[@]}" && [[ $1 != post || $2 != tokio-broadcast ]]
    return
  fi
  case $1 in deflate1k* | idle-*) member "$2" "${DEFLATERS[@]}"; return ;; esac
  case $2 in
    bare-*) [[ $1 != handshake && $1 != idle ]] ;;
    tokio-broadcast | nchan) return 1 ;;
  esac
}

# rate_of ROW: 70 % of what the slowest server reached in the closed loop that belongs to it
rate_of() {
  if [[ -n $rate ]]; then echo "$rate"; return; fi
  local closed=echo${1#open} file files=()
  for server in "${servers[@]}"; do
    for file in "$out/$closed.$server".*.json; do
      # One that failed there has no say.
      if [[ -e $file ]]; then files+=("$file"); fi
    done
  done
  ((${#files[@]})) || return
  jq -s 'map(.per_second) | min * 0.7 | floor' "${files[@]}"
}

for row in "${rows[@]}"; do
  ((run)) || break
  rm -f "$out/$row".*.json "$out/$row".*.failed
  for ((round = 1; round <= rounds; round++)); do
    for server in "${servers[@]}"; do
      applies "$row" "$server" || continue
      echo "$row, round $round of $rounds: $server" >&2
      if ! { start_server "$server" "$row" &&
        load "$row" "$server" "$out/$row.$server.$round.json"; }; then
        echo "FAILED: $why" >&2
        echo "$why" >"$out/$row.$server.$round.failed"
        rm -f "$out/$row.$server.$round.json"
      fi
      stop_server
    done
  done
done

# median KEY FILES...
median() {
  local key=$1
  shift
  jq -s "map(.$key) | sort | (.[(length - 1) / 2 | floor] + .[length / 2 | floor]) / 2" "$@"
}

# print_row ROW KEY BETTER(low|high) UNIT DIVISOR
print_row() {
  local row=$1 key=$2 better=$3 unit=$4 divisor=$5 server files value marks limit='' ours=''
  local -A values=() flags=()
  for server in "${servers[@]}"; do
    files=("$out/$row.$server".*.json)
    [[ -e ${files[0]} ]] || continue
    value=$(median "$key" "${files[@]}")
    marks=$(jq -rs '
      (if any(.[]; .server_saturated == false) then "*" else "" end)
      + (if any(.[].warnings[]; test("waited")) then "!" else "" end)' "${files[@]}")
    # Saturation says nothing where the rate is given or nothing happens.
    case $row in open* | idle* | *-alone | *-half | post) marks=${marks/\*/} ;; esac
    if compgen -G "$out/$row.$server.*.failed" >/dev/null; then marks+=" (some runs failed)"; fi
    values[$server]=$value flags[$server]=$marks
    if [[ $server == seawall ]]; then ours=$value; fi
    if [[ $server == bare-* ]]; then
      limit=$(jq -n --argjson a "$value" --argjson b "${limit:-null}" --arg better "$better" \
        'if $b == null then $a elif $better == "low" then [$a, $b] | min else [$a, $b] | max end')
    fi
  done
  local bars=()
  for server in "${servers[@]}"; do
    [[ -n ${values[$server]:-} ]] || continue
    jq -n --argjson value "${values[$server]}" '{$value}' >"$out/$row.$key.$server.median"
    bars+=("$server=$out/$row.$key.$server.median")
  done
  ((${#bars[@]} == 0)) || plot bars "$row.$key" --title "$row" --keys "$key=value" \
    --divisor "$divisor" --y-label "$unit" --x-label server "${bars[@]}"
  for server in "${servers[@]}"; do
    value=${values[$server]:-}
    if [[ -z $value ]]; then
      if compgen -G "$out/$row.$server.*.failed" >/dev/null; then
        printf '%s\t%s\tfailed\t-\t-\t-\n' "$row $key" "$server"
      fi
      continue
    fi
    jq -rn --arg row "$row $key" --arg server "$server" --arg unit "$unit" \
      --arg marks "${flags[$server]}" --argjson value "$value" --argjson divisor "$divisor" \
      --argjson limit "${limit:-null}" --argjson ours "${ours:-null}" '
        def ratio($to): if $to == null or $to == 0 then "-"
          else ($value / $to * 1000 | round / 1000 | tostring) end;
        [$row, $server + $marks, ($value / $divisor * 100 | round / 100 | tostring), $unit,
         ratio($limit), ratio($ours)] | @tsv'
  done
}

# plot KIND NAME OPTIONS...: into $out/NAME.svg
plot() {
  local kind=$1 name=$2
  shift 2
  "$BENCH" plot "$kind" --out "$out/$name.svg" "$@" >/dev/null || echo "no picture: $name" >&2
}

# median_round FILES...: of some runs' JSON, the one with the median p99.
median_round() {
  local file
  for file; do
    if [[ -e $file ]]; then echo "$(jq .latency_p99_ns "$file") $file"; fi
  done | sort -n | awk '{ files[NR] = $2 } END { print files[int((NR + 1) / 2)] }'
}

# curves ROW: latencies by percentile.
curves() {
  local row=$1 server file found=()
  for server in "${servers[@]}"; do
    file=$(median_round "$out/$row.$server".*.json)
    [[ ! -e ${file%.json}.hgrm ]] || found+=("$server=${file%.json}.hgrm")
  done
  ((${#found[@]} == 0)) || plot percentiles "$row" --divisor 1000 --y-label "latency (ms)" \
    --title "$row: the median round of each" "${found[@]}"
}

table() {
  printf 'row\tserver\tmedian\tunit\tto limit\tto seawall\n'
  local row
  for row in "${rows[@]}"; do
    case $row in
      echo1m) print_row "$row" bytes_per_server_cpu_s high MiB/cpu-s 1048576 ;;
      idle-*) print_row "$row" anon_growth_each_bytes low bytes/connection 1 ;;
      echo* | pipelined | deflate1k*) print_row "$row" server_cpu_ns_each low ns/message 1 ;;
      *-alone | *-full) print_row "$row" each_per_server_cpu_s high "deliveries/cpu-s" 1 ;;
      *-half)
        print_row "$row" latency_p50_ns low us 1000
        print_row "$row" latency_p99_ns low us 1000
        curves "$row" ;;
      post)
        print_row "$row" each_per_server_cpu_s high "messages/cpu-s" 1
        print_row "$row" per_second high "messages/s" 1 ;;
      handshake) print_row "$row" server_cpu_ns_each low us/connection 1000 ;;
      idle)
        print_row "$row" anon_growth_each_bytes low bytes/connection 1
        print_row "$row" slab_each_bytes low bytes/connection 1
        print_row "$row" open_cpu_ns_each low us/connection 1000 ;;
      open*)
        print_row "$row" latency_p50_ns low us 1000
        print_row "$row" latency_p99_ns low us 1000
        print_row "$row" latency_p99_9_ns low us 1000
        curves "$row" ;;
    esac
  done
}

table | tee "$out/table.tsv" | column -t -s $'\t'
echo "JSON of each run: $out; * not saturated, ! disturbed by other processes" >&2
! compgen -G "$out/*.failed" >/dev/null || die "some runs failed; see $out/*.failed"

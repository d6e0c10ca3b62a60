#!/usr/bin/env bash
# Measures the effect of greedy clients on other clients.
NAME=load-hostile
usage() {
  cat <<TEXT
Usage: scripts/load-hostile.sh [options]

For each kind of greedy client, against a fresh server: an open loop of echoes alone, then the same
beside clients that take as much as the server allows. Prints a Markdown table. The bound: the
p99 of the echoes beside greedy clients stays within three times the p99 alone, or 2 ms where that
is more, no connection of theirs is lost, and the server keeps within $memory MiB.

  --kind A,B          kinds, or "all" (default $kinds):
$(for kind in "${all[@]}"; do printf '                        %s\n' "$kind"; done)
  --connections N     well-behaved connections (default $connections)
  --rate N            echoes a second of all of them (default $rate)
  --greedy N          greedy clients (default: a tenth of --connections)
  --memory MIB        the greedy clients are stopped when the server has more (default $memory)
  --seconds S         measured seconds alone, and beside (default $seconds)
  --quick             short runs of a few kinds that need not keep the bound: does it work at all?
TEXT
  common_options
  cat <<'TEXT'

Exit status: 0 all kinds kept the bound; 4 some did not; 1 the server ended, or a run failed.
TEXT
}
all=(pings frames fragments inflate inflate-hub large large-compressed large-takeover unread history
  objects churn publish slow handshakes tokens joins mix)
quick_kinds=pings,inflate-hub,history,slow,tokens,mix
kinds=all connections=200 rate=2000 greedy='' memory=4096 seconds=5 quick=0
# shellcheck source=scripts/lib/load.sh
source "$(dirname "$0")/lib/load.sh"
while (($#)); do
  case $1 in
    --quick) quick=1 kinds=$quick_kinds seconds=1; shift ;;
    --kind | --connections | --rate | --greedy | --memory | --seconds)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --kind) kinds=$2 ;;
        --connections) connections=$2 ;;
        --rate) rate=$2 ;;
        --greedy) greedy=$2 ;;
        --memory) memory=$2 ;;
        --seconds) seconds=$2 ;;
      esac
      shift 2 ;;
    *) common_option "$@"; shift "$taken" ;;
  esac
done
need_number --connections "$connections"
need_number --rate "$rate"
need_number --memory "$memory"
need_number --seconds "$seconds"
greedy=${greedy:-$(((connections + 9) / 10))}
need_number --greedy "$greedy"
[[ $kinds != all ]] || kinds=$(IFS=,; echo "${all[*]}")
IFS=, read -ra chosen <<<"$kinds"
for kind in "${chosen[@]}"; do
  [[ " ${all[*]} " == *" $kind "* ]] || die "--kind: $kind is not one of ${all[*]}"
done
prepare

configuration() { # KIND
  cat <<'TOML'
[[route]]
path = "/echo"
[[route]]
path = "/takeover"
compression = "takeover"
[[route]]
path = "/ws"
handler = "hub"
[[channel]]
pattern = "history:*"
history = 100
[[channel]]
pattern = "hostile:*"
TOML
  [[ $1 != tokens ]] || printf '[[key]]\nsecret = "%s"\n' "$secret"
}
# A key of these runs, and a token that it signed: {"sub":"greedy","exp":4102444800}, the year 2100.
secret=0123456789abcdef0123456789abcdef
head=eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9
claims=eyJzdWIiOiJncmVlZHkiLCJleHAiOjQxMDI0NDQ4MDB9
token=$head.$claims.4DY9roMn_VuyPg41fV_vH6m9n1I2xnuILHgiRocDQE8

# run KIND: its results are in $out/KIND.json; sets `code`.
missed=() broken=()
run() {
  local kind=$1 conditions=(--expect 'bound<=100%' --expect others_lost==0) code=0
  ((quick == 0)) || conditions=()
  local options=(--kind "$kind" --connections "$connections" --rate "$rate" --greedy "$greedy"
    --duration "$seconds" --memory-max $((memory * 1048576)) --token "$token" "${conditions[@]}")
  rm -f "$out/$kind".{json,hgrm,log}
  start_server "$(configuration "$kind")"
  echo "$NAME: $kind" >&2
  taskset -c "$load_core" timeout $((2 * seconds + 120)) "$BENCH" hostile \
    "$scheme://127.0.0.1:$port/echo" "${options[@]}" "${trust[@]}" --server-pid "$server_pid" \
    --json "$out/$kind.json" --hgrm "$out/$kind.hgrm" >"$out/$kind.log" 2>&1 || code=$?
  if ! kill -0 "$server_pid" 2>/dev/null; then
    broken+=("$kind: the server ended: $(tail -n 1 "$out/server.log")")
  elif ((code == 4)); then
    missed+=("$kind: $(grep 'seawall-bench: ' "$out/$kind.log" | paste -sd ' ')")
  elif ((code == 1 && quick)) && [[ -s $out/$kind.json ]]; then
    echo "$NAME: $kind: $(tail -n 1 "$out/$kind.log")" >&2
  elif ((code)); then
    broken+=("$kind: exit $code: $(tail -n 1 "$out/$kind.log")")
  fi
  mv "$out/server.log" "$out/$kind.server.log"
  stop_server
}

# row KIND: a line of the table.
row() {
  if [[ ! -s $out/$1.json ]]; then
    echo "| $1 | - | - | - | - | - | - | no result |"
    return
  fi
  jq -r --arg kind "$1" '
    def round_to(digits): . * pow(10; digits) | round / pow(10; digits);
    def ms: . / 1e6 | round_to(2);
    def list: to_entries | map("\(.value) \(.key)") | join(", ");
    ([(.greedy_ended_by | list), (if .greedy_rejected > 0 then "\(.greedy_rejected) rejected" else "" end)]
      | map(select(. != "")) | join(", ")) as $ends |
    "| \($kind) | \(.alone_p99_ns | ms) | \(.beside_p99_ns | ms) | \(.p99_ratio | round_to(1)) " +
    "| \(.beside_max_ns | ms) | \(.server_cores_beside | round_to(2)) " +
    "| \(.rss_peak_bytes / 1048576 | round) | \(if $ends == "" then "-" else $ends end) |"
  ' "$out/$1.json"
}

for kind in "${chosen[@]}"; do run "$kind"; done
{
  echo "| kind | alone p99 ms | beside p99 ms | ratio | max ms | server cores | peak RSS MiB | closes |"
  echo "| --- | --- | --- | --- | --- | --- | --- | --- |"
  for kind in "${chosen[@]}"; do row "$kind"; done
} | tee "$out/table.md"
for kind in "${chosen[@]}"; do
  [[ ! -s $out/$kind.json ]] ||
    jq -r --arg kind "$kind" '.warnings[] | "\($kind): WARNING: \(.)"' "$out/$kind.json" >&2
done
echo "JSON and logs: $out" >&2
((${#broken[@]} == 0)) || die "$(printf '%s\n' "runs failed:" "${broken[@]}")"
((${#missed[@]} == 0)) || {
  printf '%s.sh: %s\n' "$NAME" "the bound is missed:" >&2
  printf '%s\n' "${missed[@]}" >&2
  exit 4
}

#!/usr/bin/env bash
# Measures how clients reconnect after all of them lose their connections at once.
NAME=load-storm
usage() {
  cat <<TEXT
Usage: scripts/load-storm.sh [options]

Drops many connections by resets, once with clients that wait a fixed time and once with
clients that back off with full jitter, while survivors keep sending. Prints a table and draws
back.svg (reconnects over time) and survivors.svg (their p99 before, during and after).

With --resume, once more as clients of the hub: each has a subscription, reconnects with its ticket,
and must receive the messages published meanwhile, in order and once.

  --connections N     connections to drop (default $connections)
  --survivors N       connections that keep sending (default $survivors)
  --delay S           of policy fixed (default $delay)
  --base S, --cap S   of policy backoff (default $base, $cap)
  --resume            clients that resume as well
  --channels N        their channels (default $channels)
  --missed N          messages published to each channel meanwhile (default $missed)
  --limit S           seconds until which all must be back (default $limit)
TEXT
  common_options
}
connections=10000 survivors=100 delay=1 base=5 cap=30 limit=60
policies=(fixed backoff) channels=100 missed=3
# shellcheck source=scripts/lib/load.sh
source "$(dirname "$0")/lib/load.sh"
while (($#)); do
  case $1 in
    --resume) policies+=(resume); shift ;;
    --connections | --survivors | --delay | --base | --cap | --limit | --channels | --missed)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --connections) connections=$2 ;;
        --survivors) survivors=$2 ;;
        --delay) delay=$2 ;;
        --base) base=$2 ;;
        --cap) cap=$2 ;;
        --limit) limit=$2 ;;
        --channels) channels=$2 ;;
        --missed) missed=$2 ;;
      esac
      shift 2 ;;
    *) common_option "$@"; shift "$taken" ;;
  esac
done
need_number --connections "$connections"
need_number --survivors "$survivors"
need_number --limit "$limit"
need_number --channels "$channels"
need_number --missed "$missed"
prepare

common=(--connections "$connections" --survivors "$survivors" --drop reset --limit "$limit")
curves=()
for policy in "${policies[@]}"; do
  start_server
  load $((limit + connections / 1000 + 120)) "$policy" storm "${common[@]}" --policy "$policy" \
    --delay "$delay" --base "$base" --cap "$cap" --channels "$channels" --missed "$missed"
  stop_server
  case $policy in
    fixed) curves+=("fixed, $delay s=$out/fixed.json") ;;
    *) curves+=("$policy, $base s to $cap s=$out/$policy.json") ;;
  esac
done
plot series --out "$out/back.svg" --title "$connections connections after all were reset" \
  --key back_series --y-label "connections that are back" "${curves[@]}"
plot bars --out "$out/survivors.svg" --title "Echo latency of survivors of a storm" --divisor 1e6 \
  --keys "before=latency_before_p99_ns,during=latency_during_p99_ns,after=latency_after_p99_ns" \
  --x-label "reconnect policy" --y-label "p99 latency (ms)" "${curves[@]}"
table() {
  printf 'policy\tback\t50 %% s\t99 %% s\tall s\tattempts\trefused\t'
  printf 'p99 before ms\tduring\tafter\tserver cores\trecovered\tmessages lost\n'
  local name key
  for name in "${policies[@]}"; do
    printf '%s' "$name"
    # Each with its divisor, where it has one.
    for key in back back_p50_ns,1e9 back_p99_ns,1e9 back_all_ns,1e9 attempts refused \
      latency_before_p99_ns,1e6 latency_during_p99_ns,1e6 latency_after_p99_ns,1e6 storm_cores \
      recovered missed_lost; do
      [[ $key == *,* ]] || key+=,1
      printf '\t%s' "$(value "$name" "${key%,*}" "${key#*,}")"
    done
    echo
  done
}
table | tee "$out/table.tsv" | column -t -s $'\t'
finish "${policies[@]}"

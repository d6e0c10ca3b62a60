#!/usr/bin/env bash
# Counts the instructions that the server spends on a message, under callgrind.
NAME=instructions
usage() {
  cat <<TEXT
Usage: scripts/instructions.sh [options]

Runs a release build with one shard under valgrind's callgrind, once for each row, with two loads
of different length: the difference is what a message costs, without start and handshakes. Prints a
table and writes JSON. Counts, unlike times, hardly depend on what else the machine does.

  --rows A,B          rows to count (default: all): $rows
  --compare FILE      compare with the numbers kept in FILE: a row of echoes or fan-out that is more
                      than 3 % above them, three times, fails, and the functions that grew are named;
                      with another compiler than the one recorded there, it is only reported
  --save FILE         keep the numbers in FILE
TEXT
  common_options
}
rows=echo-pipelined,echo-single,echo-lone,fanout-alone,fanout-batch,publish
rows+=,handshake-echo,handshake-hub
compare='' save='' tls_option=''
# shellcheck source=scripts/lib/load.sh
source "$(dirname "$0")/lib/load.sh"
while (($#)); do
  case $1 in
    --rows | --compare | --save)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --rows) rows=$2 ;;
        --compare) compare=$2 ;;
        --save) save=$2 ;;
      esac
      shift 2 ;;
    *) common_option "$@"; shift "$taken" ;;
  esac
done
for tool in valgrind callgrind_control callgrind_annotate python3; do
  command -v "$tool" >/dev/null || die "$tool is missing: apt install valgrind python3"
done
prepare
rm -f "$out"/*.out*
[[ $scheme == ws ]] || tls_option=--tls
exec python3 "$ROOT/scripts/lib/instructions.py" ${tls_option:+"$tls_option"} --rows "$rows" --compare "$compare" --save "$save" \
  --out "$out" --port "$port" --server "$SEAWALL" --bench "$BENCH" \
  --cores "$server_core,$load_core" --compiler "$(cd "$ROOT" && rustc --version)"

#!/usr/bin/env bash
# Scans a running server's TLS with testssl.sh and SSLyze, and fails on any finding above "low" that
# is not listed here with its reason.
#
# The server has a certificate of each kind, ECDSA and RSA, of an authority made for the run.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: scripts/scan-tls.sh [-h] [--binary FILE] [--out DIR]

  --binary FILE  the server to scan (default: built from this tree in release mode)
  --out DIR      where the reports and the server's log go (default: target/scan-tls)

Takes about two minutes. Needs openssl and what `scripts/check.sh --install` installs. Exit status:
0 nothing found, 1 a finding, 2 the machine lacks something.
TEXT
}

die() {
    echo "scan-tls.sh: $*" >&2
    exit 2
}

root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
out=$target/scan-tls
binary=
while (($#)); do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --binary | --out)
            (($# > 1)) || die "$1 needs a value"
            if [[ $1 == --out ]]; then out=$2; else binary=$2; fi
            shift ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
python=$root/.cache/venv/bin/python
for tool in openssl testssl "$root/.cache/venv/bin/sslyze"; do
    command -v "$tool" >/dev/null || die "$tool is missing: run scripts/check.sh --install"
done
if [[ -z $binary ]]; then
    (cd "$root" && cargo build --release --quiet)
    binary=$target/release/seawall
fi
[[ -x $binary ]] || die "no server at $binary; run cargo build --release"

work=$(mktemp -d)
server=
finish() {
    if [[ -n $server ]]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM
mkdir -p "$out"
rm -f "$out"/{testssl.json,testssl.log,sslyze.json,sslyze.log,server.log}

# The authority, and what it signs for localhost.
make_authority() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90 \
        -subj '/CN=Seawall scans' -addext 'keyUsage=critical,keyCertSign,cRLSign' \
        -keyout "$work/authority.key" -out "$work/authority.pem"
}
make_certificate() { # NAME OPENSSL-OPTIONS-FOR-THE-KEY...
    local name=$1
    shift
    openssl req -new -nodes -subj /CN=localhost -keyout "$work/$name.key" \
        -out "$work/$name.request" "$@"
    cat >"$work/extensions" <<TEXT
subjectAltName = DNS:localhost
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
basicConstraints = critical, CA:FALSE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
TEXT
    openssl x509 -req -in "$work/$name.request" -CA "$work/authority.pem" \
        -CAkey "$work/authority.key" -CAcreateserial -days 90 -extfile "$work/extensions" \
        -out "$work/$name.pem"
    chmod 600 "$work/$name.key"
    cat >>"$work/seawall.toml" <<TEXT
[[certificate]]
chain = "$work/$name.pem"
key = "$work/$name.key"
TEXT
}
cat >"$work/seawall.toml" <<'TEXT'
[[listener]]
address = "127.0.0.1:0"
tls = true
TEXT
{
    make_authority
    make_certificate elliptic -newkey ec -pkeyopt ec_paramgen_curve:prime256v1
    make_certificate rsa -newkey rsa:2048
} 2>"$work/openssl.log" || die "openssl failed: $(tail -n 3 "$work/openssl.log")"

log=$out/server.log
"$binary" serve --config "$work/seawall.toml" --admin 127.0.0.1:0 --shards 2 2>"$log" &
server=$!
port=
for _ in {1..200}; do
    port=$(sed -n 's|^ *clients *wss://[^ ]*:\([0-9]*\) .*|\1|p' "$log" 2>/dev/null || true)
    metrics=$(sed -n 's/^ *operators *\(http:[^ ]*\).*/\1/p' "$log" 2>/dev/null || true)
    [[ -z $port || -z $metrics ]] || break
    kill -0 "$server" 2>/dev/null || break
    sleep 0.05
done
[[ -n $port ]] || die "the server did not start: $(tail -n 3 "$log")"

# Their exit statuses count findings of every level: the reports are judged below.
echo "scan-tls: testssl.sh"
testssl --quiet --color 0 --warnings batch --add-ca "$work/authority.pem" --ip 127.0.0.1 \
    --jsonfile "$out/testssl.json" "localhost:$port" >"$out/testssl.log" 2>&1 || true
echo "scan-tls: SSLyze"
"$root/.cache/venv/bin/sslyze" --mozilla_config disable --sni localhost --certinfo \
    --certinfo_ca_file "$work/authority.pem" --sslv2 --sslv3 --tlsv1 --tlsv1_1 --tlsv1_2 --tlsv1_3 \
    --compression --reneg --early_data --fallback --ems --heartbleed --robot --openssl_ccs \
    --elliptic_curves --json_out "$out/sslyze.json" "127.0.0.1:$port" >"$out/sslyze.log" 2>&1 || true
[[ -s $out/testssl.json ]] || die "testssl.sh wrote no report: $(tail -n 3 "$out/testssl.log")"
[[ -s $out/sslyze.json ]] || die "SSLyze wrote no report: $(tail -n 3 "$out/sslyze.log")"
kill -0 "$server" 2>/dev/null || die "the server ended during the scans: $(tail -n 5 "$log")"

status=0
"$python" "$root/scripts/lib/scan_tls.py" "$out" "$metrics" || status=$?
exit "$status"

#!/usr/bin/env bash
# Runs the Autobahn|Testsuite fuzzing client against a release build, and fails unless every case
# has its expected result.
#
# The suite is Python 2: an interpreter is unpacked (not installed) from Debian's bullseye suite
# into .cache/autobahn, with the suite beside it. Its own exit status says nothing, so the report
# is judged here: what the server did, how it closed, and that no case is missing.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: scripts/autobahn.sh [-h] [--quick] [--install] [--binary FILE] [--cases GLOB]...
                           [--compression MODE] [--window-bits BITS] [--driver NAME] [--tls]

  --quick             a selection of all sections that takes a minute or two
  --cases GLOB        only these cases, such as '6.*' or 9.1.6; may be given more than once
  --compression MODE  how the server compresses: shared (default) or takeover
  --window-bits BITS  window that the server compresses with, 9 to 15 (default: the server's)
  --driver NAME       the server's engine: auto (default), uring or epoll
  --tls               over wss://, with a certificate for development that the suite accepts
  --binary FILE       the server to test (default: built from this tree in release mode)
  --install           installs the suite and stops

Without --quick or --cases: sections 1-7, 9, 10, 12 and 13, 517 cases.
Needs python3 with venv, gcc, apt-get and the Debian source that apt is configured with.
The report stays in .cache/autobahn/reports. Exit status: 0 all passed, 1 a case failed, 2 the
machine lacks something.
TEXT
}

# Cases that may end NON-STRICT or INFORMATIONAL, and where RFC 6455 leaves that open.
declare -A OPEN_CASES=(
    # Messages, Close and a ping sent back to back: the suite gives no other verdict here, because
    # the RFC leaves open whether replies still come before the Close is answered (5.5.1: an
    # endpoint MAY delay its Close until its message is sent).
    [7.1.6]=INFORMATIONAL
    # Close codes 5000 and 65535, above every range that 7.4.2 defines: the suite judges nothing.
    [7.13.1]=INFORMATIONAL
    [7.13.2]=INFORMATIONAL
)
CASES_ALL=517
CASES_QUICK=284
SECTIONS=('1.*' '2.*' '3.*' '4.*' '5.*' '6.*' '7.*' '9.*' '10.*' '12.*' '13.*')
# What --quick leaves out: cases that wait for seconds, repetitions of large messages, and most of
# the thousands of compressed messages, which Python takes long to make.
SLOW=('5.19' '5.20' '6.4.*' '9.[4-8].*' '12.*.[4-9]' '12.*.1[0-8]' '13.*.[2-9]' '13.*.1[0-8]')

die() {
    echo "autobahn.sh: $*" >&2
    exit 2
}

root=$(cd "$(dirname "$0")/.." && pwd)
cache=$root/.cache/autobahn
cases=()
without=()
expected=$CASES_ALL
binary=
install_only=0
options=()
while (($#)); do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --quick) without=("${SLOW[@]}") expected=$CASES_QUICK ;;
        --install) install_only=1 ;;
        --tls) options+=(--dev-tls) ;;
        --cases | --binary | --compression | --window-bits | --driver)
            (($# > 1)) || die "$1 needs a value"
            case $1 in
                --cases) cases+=("$2") expected=0 ;;
                --binary) binary=$2 ;;
                --compression) options+=(--route-compression "$2") ;;
                --driver) options+=(--driver "$2") ;;
                --window-bits) options+=(--route-compression-window-bits "$2") ;;
            esac
            shift ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
((${#cases[@]})) || cases=("${SECTIONS[@]}")

# The last versions that run on Python 2.7, and what they need.
REQUIREMENTS='attrs==21.4.0 autobahn==0.10.9 Automat==22.10.0 cffi==1.15.1 constantly==15.1.0
cryptography==3.3.2 enum34==1.1.10 hyperlink==21.0.0 idna==2.10 incremental==16.10.1
ipaddress==1.0.23 Jinja2==2.11.3 klein==17.10.0 linecache2==1.0.0 MarkupSafe==1.1.1 pyasn1==0.5.1
pyasn1-modules==0.3.0 pycparser==2.21 PyHamcrest==1.10.1 pyOpenSSL==19.1.0
service-identity==18.1.0 setuptools==44.0.0 six==1.16.0 traceback2==1.4.0 Twisted==19.10.0
txaio==2.1.0 typing==3.10.0.0 ujson==2.0.3 unittest2==1.1.0 Werkzeug==1.0.1 zope.interface==4.6.0
autobahntestsuite==25.10.1'
PACKAGES='python2.7 python2.7-minimal libpython2.7-stdlib libpython2.7-minimal libffi7 libssl1.1
libpython2.7-dev python2.7-dev'

# The interpreter of a suite that the configured sources do not name: fetched with a list and a
# cache of its own, so that apt's view of this machine stays as it is.
unpack_python() {
    local mirror deb
    # shellcheck disable=SC2016 # apt-get expands these itself
    mirror=$(apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
        sed -n 's/^Debian|//p' | head -n 1)
    [[ -n $mirror ]] || die "apt has no Debian source: add one to /etc/apt and run apt-get update"
    mkdir -p sources lists packages/partial tree
    cat >sources/bullseye.sources <<TEXT
Types: deb
URIs: $mirror
Suites: bullseye
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
TEXT
    local options=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$cache/sources"
        -o "Dir::State::lists=$cache/lists" -o "Dir::Cache=$cache/packages"
        -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update
    # shellcheck disable=SC2086 # one word a package
    (cd packages && apt-get "${options[@]}" download $PACKAGES)
    for deb in packages/*.deb; do dpkg-deb -x "$deb" tree; done
    rm -rf lists packages
}

install_suite() (
    set -e
    cd "$cache"
    unpack_python
    python3 -m venv python3
    export LD_LIBRARY_PATH=$libraries
    # The last version that makes environments of Python 2.7.
    python3/bin/pip install --quiet 'virtualenv==20.21.1'
    python3/bin/virtualenv --quiet -p "$cache/tree/usr/bin/python2.7" suite
    # shellcheck disable=SC2086 # one word a requirement
    suite/bin/pip install --quiet --no-deps $REQUIREMENTS
    # Masks and checks UTF-8 in C: the suite takes a third of the time.
    CFLAGS="-I$cache/tree/usr/include/python2.7 -I$cache/tree/usr/include" \
        suite/bin/pip install --quiet --no-deps 'wsaccel==0.6.6'
    suite/bin/wstest --help >/dev/null
)

mkdir -p "$cache"
# Two runs must neither install into each other's feet nor share a folder of reports.
exec 9>"$cache/lock"
flock 9
libraries=$cache/tree/usr/lib/x86_64-linux-gnu
recipe=$(printf '%s' "$PACKAGES$REQUIREMENTS$root" | sha256sum | cut -d' ' -f1)
if [[ $(cat "$cache/recipe" 2>/dev/null) != "$recipe" ]]; then
    for tool in python3 gcc apt-get dpkg-deb; do
        command -v "$tool" >/dev/null || die "$tool is missing: apt-get install $tool"
    done
    echo "autobahn: installing the suite (about two minutes)"
    find "$cache" -mindepth 1 -maxdepth 1 ! -name lock -exec rm -rf {} +
    # A child of its own: `set -e` would be off in a function called from a condition.
    (install_suite) >"$cache/install.log" 2>&1 9>&- &
    if ! wait $!; then
        tail -n 20 "$cache/install.log" >&2
        die "cannot install the suite; see $cache/install.log"
    fi
    echo "$recipe" >"$cache/recipe"
fi
if ((install_only)); then exit 0; fi

if [[ -z $binary ]]; then
    (cd "$root" && cargo build --release --quiet 9>&-)
    binary=${CARGO_TARGET_DIR:-$root/target}/release/seawall
fi
[[ -x $binary ]] || die "no server at $binary; run cargo build --release"

server=
suite=
finish() {
    local pid
    for pid in $suite $server; do
        kill "$pid" 2>/dev/null || true
    done
    for pid in $suite $server; do
        for _ in {1..100}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    suite='' server=''
}
trap finish EXIT
trap 'exit 130' INT TERM

log=$cache/server.log
# The server's shell empties the log in its own time: an old one would name an old port.
rm -f "$log"
# Port 0: the kernel chooses a free one, and the server says which.
"$binary" serve --listen 127.0.0.1:0 --admin '' --shards 2 "${options[@]}" 2>"$log" 9>&- &
server=$!
for _ in {1..100}; do
    url=$(sed -n 's/^ *clients *\(wss\{0,1\}:[^ ]*\).*/\1/p' "$log" 2>/dev/null || true)
    [[ -z $url ]] || break
    kill -0 "$server" 2>/dev/null || break
    sleep 0.05
done
[[ -n $url ]] || die "the server did not start: $(tail -n 3 "$log")"

rm -rf "$cache/reports"
# JSON strings. The suite takes what has a * for a regular expression that need not reach the end.
patterns() {
    local one list=
    for one; do
        if [[ $one == *'*'* ]]; then one+='$'; fi
        list+=${list:+, }\"$one\"
    done
    echo "$list"
}
cat >"$cache/client.json" <<TEXT
{"outdir": "$cache/reports", "servers": [{"agent": "seawall", "url": "$url/echo"}],
 "cases": [$(patterns "${cases[@]}")],
 "exclude-cases": [$(patterns "${without[@]}")], "exclude-agent-cases": {}}
TEXT
# In a process of its own that can be waited for: a signal then ends it at once.
(cd "$cache" && LD_LIBRARY_PATH=$libraries exec suite/bin/wstest -m fuzzingclient -s client.json) \
    >"$cache/suite.log" 2>&1 9>&- &
suite=$!
wait "$suite" || true
suite=
[[ -f $cache/reports/index.json ]] ||
    die "the suite wrote no report: $(tail -n 5 "$cache/suite.log")"
kill -0 "$server" 2>/dev/null || die "the server ended during the run: $(tail -n 5 "$log")"

open_cases=
for one in "${!OPEN_CASES[@]}"; do open_cases+=" $one=${OPEN_CASES[$one]}"; done
status=0
python3 - "$cache/reports/index.json" "$expected" "$open_cases" <<'PYTHON' || status=$?
import collections
import json
import sys

report, expected, open_cases = sys.argv[1:]
allowed = dict(pair.split("=") for pair in open_cases.split())
with open(report) as file:
    results = json.load(file).get("seawall", {})

by_number = lambda case: [int(part) for part in case.split(".")]
failed = []
verdicts = collections.Counter()
for case in sorted(results, key=by_number):
    behaviour, closing = results[case]["behavior"], results[case]["behaviorClose"]
    verdicts[behaviour] += 1
    passed = all(one in ("OK", allowed.get(case)) for one in (behaviour, closing))
    if not passed:
        failed.append(case)
        print(f"  case {case}: {behaviour}, closing {closing}: see {results[case]['reportfile']}")
missing = not results or (int(expected) and len(results) != int(expected))
if missing:
    print(f"  {len(results)} cases ran, {expected} should have")
kinds = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
print(f"autobahn: {len(results)} cases, {kinds}")
print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
sys.exit(1 if failed or missing else 0)
PYTHON
exit "$status"

"""Judges the reports of testssl.sh and SSLyze, for scan-tls.sh.

Usage: scan_tls.py FOLDER METRICS-URL
"""

import collections
import json
import pathlib
import re
import sys
import time
import urllib.request

folder, metrics_url = pathlib.Path(sys.argv[1]), sys.argv[2]
findings = []

# Findings of testssl.sh that are none here. One that no longer appears is to be taken off the list.
IGNORED = {
    # Of this machine: its openssl has no GOST, which no suite of the server uses.
    "engine_problem",
    # Of the authority made for this run: it has no CRL and no OCSP.
    "cert_revocation",
    # Clients choose among the suites: all have forward secrecy and authenticate, and a client
    # without instructions for AES is faster with ChaCha20.
    "cipher_order",
    # Of the page at `/`: a constant file, so that its compressed length betrays no secret.
    "BREACH",
}
# What testssl.sh cannot find out at times: on a busy machine its client ends before the ticket has
# come. Resumption has tests of its own.
UNCERTAIN = {"sessionresumption_ticket"}
# Without these, a scan has not come to its end.
NEEDED = {
    "SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2", "TLS1_3", "PFS", "heartbleed", "CCS", "ticketbleed",
    "ROBOT", "secure_renego", "secure_client_renego", "CRIME_TLS", "fallback_SCSV", "SWEET32", "FREAK",
    "DROWN", "LOGJAM", "BEAST", "LUCKY13", "RC4", "scanTime",
}
# Whatever its level, each of these must be as here.
EXPECTED = {
    "SSLv2": "not offered",
    "SSLv3": "not offered",
    "TLS1": "not offered",
    "TLS1_1": "not offered",
    "TLS1_2": "offered",
    "TLS1_3": "offered with final",
    "cert_numbers": "2",
    "cert_chain_of_trust <cert#1>": "passed.",
    "cert_chain_of_trust <cert#2>": "passed.",
    "ALPN": "http/1.1",
}
HARMLESS = {"OK", "INFO", "LOW"}


def judge_testssl():
    report = json.loads((folder / "testssl.json").read_text())
    by_id = {one["id"]: one["finding"] for one in report}
    findings.extend(f"testssl.sh did not report {name}" for name in sorted(NEEDED - by_id.keys()))
    for name, wanted in EXPECTED.items():
        if by_id.get(name) != wanted:
            findings.append(f"testssl.sh: {name} is {by_id.get(name)!r} instead of {wanted!r}")
    ignored = set()
    for one in report:
        if one["severity"] in HARMLESS:
            continue
        name = one["id"].partition(" <")[0]
        if name in IGNORED:
            ignored.add(name)
        elif name in UNCERTAIN and one["severity"] == "WARN":
            print(f"testssl.sh: NOT CHECKED: {name}: {one['finding']}")
        else:
            findings.append(f"testssl.sh: {one['severity']}: {one['id']}: {one['finding']}")
    findings.extend(f"testssl.sh finds no {name}: ignore it no more" for name in IGNORED - ignored)
    levels = collections.Counter(one["severity"] for one in report)
    counts = ", ".join(f"{count} {level}" for level, count in levels.most_common())
    print(f"testssl.sh: {len(report)} results: {counts}; ignored: {', '.join(sorted(ignored))}")


# Of SSLyze: name of a scan, path to its result, and the value that it must have.
SSLYZE = [
    ("tls_compression", "supports_compression", False),
    ("tls_1_3_early_data", "supports_early_data", False),
    ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection", False),
    ("heartbleed", "is_vulnerable_to_heartbleed", False),
    ("robot", "robot_result", "NOT_VULNERABLE_RSA_NOT_SUPPORTED"),
    ("session_renegotiation", "supports_secure_renegotiation", True),
    ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos", False),
    ("tls_fallback_scsv", "supports_fallback_scsv", True),
    ("tls_extended_master_secret", "supports_ems_extension", True),
]
SUITES = {
    "ssl_2_0": 0, "ssl_3_0": 0, "tls_1_0": 0, "tls_1_1": 0,
    # Three ciphers with each kind of certificate.
    "tls_1_2": 6,
    "tls_1_3": 3,
}
# Forward secrecy by an exchange of keys or by the version, and a cipher that authenticates.
SOUND_SUITE = re.compile(r"TLS_(ECDHE_(ECDSA|RSA)_WITH_)?(AES_\d+_GCM|CHACHA20_POLY1305)_SHA\d+")


def judge_sslyze():
    (report,) = json.loads((folder / "sslyze.json").read_text())["server_scan_results"]
    results = {
        name: scan["result"]
        for name, scan in (report["scan_result"] or {}).items()
        if scan and scan["status"] == "COMPLETED"
    }

    def result(scan):
        if scan not in results:
            findings.append(f"SSLyze did not complete {scan}")
        return results.get(scan) or {}

    for scan, name, wanted in SSLYZE:
        found = result(scan).get(name)
        if found != wanted:
            findings.append(f"SSLyze: {scan}: {name} is {found} instead of {wanted}")
    for version, count in SUITES.items():
        accepted = result(f"{version}_cipher_suites").get("accepted_cipher_suites", [])
        names = [one["cipher_suite"]["name"] for one in accepted]
        if len(names) != count:
            findings.append(f"SSLyze: {version}: {len(names)} suites instead of {count}: {names}")
        for name in names:
            if not SOUND_SUITE.fullmatch(name):
                findings.append(f"SSLyze: {version}: {name} is accepted")
    deployments = result("certificate_info").get("certificate_deployments", [])
    trusted = [
        path["was_validation_successful"]
        for one in deployments
        for path in one["path_validation_results"]
        if path["trust_store"]["name"] == "Supplied CA file"
    ]
    if trusted != [True, True]:
        findings.append(f"SSLyze: both certificates are verified: {trusted}")
    print(f"SSLyze: {len(results)} scans, {len(deployments)} certificates")


def judge_server():
    """All connections of the scanners end: nothing of them stays."""
    deadline = time.monotonic() + 60
    while True:
        with urllib.request.urlopen(metrics_url, timeout=10) as answer:
            text = answer.read().decode()
        values = dict(re.findall(r"^seawall_(\w+) (\d+)$", text, re.MULTILINE))
        if values["connections_tls"] == "0":
            break
        if time.monotonic() > deadline:
            findings.append(f"the server: {values['connections_tls']} connections are left")
            break
        time.sleep(0.1)
    names = ["tls13_handshakes", "tls12_handshakes", "tls_handshakes_failed", "tls_alerts_sent"]
    print("server: " + ", ".join(f"{values[name + '_total']} {name}" for name in names))


judge_testssl()
judge_sslyze()
judge_server()
for finding in findings:
    print(f"  {finding}")
print(f"scan-tls: {len(findings)} findings")
sys.exit(1 if findings else 0)

"""Counts instructions under callgrind; scripts/instructions.sh runs it."""

import argparse
import glob
import json
import os
import re
import subprocess
import sys
import time

# Growth of a row that fails (share).
GROWTH_MAX = 0.03
# Functions that do not return while they are counted, so that they count all below them.
ENTRIES = ("clone", "start_thread", "thread_start", "call_once", "__rust_begin_short_backtrace")
# Rows that are compared: the others vary with how a load falls into turns.
COMPARED = ("echo-pipelined", "echo-single", "fanout-alone", "fanout-batch")
# Counts of a row that is above, the lowest of which decides: how a load falls into turns adds to a
# count at random, and growth adds to each.
TRIES_MAX = 3
# Functions that a failure names.
NAMED = 5

ECHO = ["echo", "ws://127.0.0.1:{port}/echo", "--size", "20", "--warmup", "0"]
FANOUT = ["fanout", "ws://127.0.0.1:{port}/ws", "--publishers", "1", "--warmup", "0"]
ALONE = ["--depth", "1", "--window", "1"]
BATCH = ["--batch", "16", "--window", "16"]
CONNECT = ["connect", "--parallel", "32", "--warmup", "0", "--duration", "120"]
CONNECTIONS = (["--connections", "1000"], ["--connections", "3000"])
# The arguments of the load, and those of its short and its long run.
DURATIONS = (["--duration", "1"], ["--duration", "4"])
ROWS = {
    "echo-pipelined": ([*ECHO, "--connections", "200", "--depth", "16"], DURATIONS),
    "echo-single": ([*ECHO, "--connections", "200", "--depth", "1"], DURATIONS),
    "echo-lone": ([*ECHO, "--connections", "1", "--depth", "1"], DURATIONS),
    "fanout-alone": ([*FANOUT, *ALONE, "--subscribers", "1000"], DURATIONS),
    "fanout-batch": ([*FANOUT, *BATCH, "--subscribers", "1000"], DURATIONS),
    "publish": ([*FANOUT, *ALONE, "--subscribers", "1"], DURATIONS),
    "handshake-echo": ([*CONNECT, "ws://127.0.0.1:{port}/echo"], CONNECTIONS),
    "handshake-hub": ([*CONNECT, "ws://127.0.0.1:{port}/ws"], CONNECTIONS),
}
# What a load's report counts, the first that it has.
UNITS = ("deliveries", "count")


class Server:
    """The server under callgrind. Its control thread has nothing to do, so that all is the shard's:
    valgrind runs one thread at a time."""

    def __init__(self, options, row):
        self.out = f"{options.out}/{row}.out"
        self.options = options
        # Dumps are numbered from 1 in each process: those of an earlier one would hide new ones.
        for stale in glob.glob(f"{self.out}.*"):
            os.remove(stale)
        if self.is_listening():
            sys.exit(f"instructions.sh: port {options.port} is in use: choose another with --port")
        core = options.cores.split(",")[0]
        command = ["taskset", "-c", core, "valgrind", "--tool=callgrind"]
        command += [f"--callgrind-out-file={self.out}", options.server, "serve", "--shards", "1"]
        command += ["--listen", f"127.0.0.1:{options.port}", "--admin", ""]
        command += ["--dev-tls"] if options.tls else []
        self.log = open(f"{options.out}/{row}.log", "w+", encoding="utf-8")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        self.await_port()

    def is_listening(self):
        command = ["ss", "-Hltn", f"sport = :{self.options.port}"]
        return bool(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def await_port(self):
        for _ in range(600):
            if self.process.poll() is not None:
                self.log.seek(0)
                sys.exit(f"instructions.sh: the server ended: {self.log.read()}")
            if self.is_listening():
                return
            time.sleep(0.1)
        sys.exit("instructions.sh: the server does not listen")

    def dump(self):
        """What has been counted since the last dump, by function."""
        before = set(glob.glob(f"{self.out}.*"))
        command = ["callgrind_control", "-d", str(self.process.pid)]
        asked = subprocess.run(command, capture_output=True, text=True)
        for _ in range(600):
            fresh = set(glob.glob(f"{self.out}.*")) - before
            if fresh and is_whole(path := fresh.pop()):
                return read_costs(path)
            time.sleep(0.1)
        sys.exit(f"instructions.sh: callgrind writes no dump: {asked.stdout}{asked.stderr}")

    def stop(self):
        # The load is over, and nothing is to be written at the end.
        self.process.kill()
        self.process.wait()
        self.log.close()
        # A ring is torn down after its process has ended: until then its listener still accepts.
        for _ in range(600):
            if not self.is_listening():
                return
            time.sleep(0.1)
        sys.exit(f"instructions.sh: port {self.options.port} still listens")


def is_whole(path):
    with open(path) as dump:
        return any(line.startswith("totals:") for line in dump)


def read_costs(path):
    command = ["callgrind_annotate", "--threshold=100", "--auto=no", path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    costs = {}
    for line in text.splitlines():
        found = re.match(r"\s*([\d,]+) \([^)]*\)\s+(.*?)(?: \[.*\])?$", line)
        if not found:
            continue
        count, name = int(found[1].replace(",", "")), found[2]
        if name == "PROGRAM TOTALS":
            costs["total"] = count
        elif ":" in name:
            name = name.split(":", 1)[1]
            if re.search(rf"(^|::)({'|'.join(ENTRIES)})\b", name):
                continue
            costs[name] = costs.get(name, 0) + count
    return costs


def count_row(options, row):
    """Instructions a message, by function."""
    load, lengths = ROWS[row]
    server = Server(options, row)
    try:
        runs = []
        # The first run is not counted: the start goes on after the server listens, and its cost
        # would be taken off the short run.
        for length in (lengths[0], *lengths):
            report = f"{options.out}/{row}.json"
            arguments = [one.format(port=options.port) for one in [*load, *length]]
            if options.tls:
                arguments = [re.sub("^ws:", "wss:", one) for one in arguments] + ["--insecure"]
            command = ["taskset", "-c", options.cores.split(",")[1], options.bench]
            command += [*arguments, "--json", report]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            with open(report) as text:
                result = json.load(text)
            units = next(result[name] for name in UNITS if name in result)
            runs.append((units, server.dump()))
    finally:
        server.stop()
    _, (short_units, short), (long_units, long) = runs
    units = long_units - short_units
    if units <= 0:
        sys.exit(f"instructions.sh: {row}: the longer load did not do more than the shorter one")
    return {name: (long[name] - short.get(name, 0)) / units for name in long}


def grow_by(costs, before):
    return costs["total"] / before["total"] - 1


def is_above(row, costs, before):
    return row in COMPARED and before is not None and grow_by(costs, before) > GROWTH_MAX


def count_compared(options, row, before):
    """Counts a row, again if it is above the kept numbers."""
    costs = count_row(options, row)
    for _ in range(1, TRIES_MAX):
        if not is_above(row, costs, before):
            break
        costs = min(costs, count_row(options, row), key=lambda one: one["total"])
    return costs


def find_growth(costs, known):
    """The functions that cost most more than they did."""
    grown = {name: cost - known.get(name, 0) for name, cost in costs.items() if name != "total"}
    return sorted(grown.items(), key=lambda one: -one[1])[:NAMED]


def main():
    parser = argparse.ArgumentParser()
    names = ("rows", "compare", "save", "out", "port", "server", "bench", "cores", "compiler")
    for name in names:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args()
    os.makedirs(options.out, exist_ok=True)
    rows = options.rows.split(",")
    for row in rows:
        if row not in ROWS:
            sys.exit(f"instructions.sh: unknown row {row}: it is one of {', '.join(ROWS)}")
    known = None
    if options.compare:
        with open(options.compare) as text:
            known = json.load(text)
    counted, failed = {}, []
    for row in rows:
        before = known and known["rows"].get(row)
        costs = counted[row] = count_compared(options, row, before)
        line = f"{row:16} {costs['total']:10.0f} instructions"
        if before:
            line += f"  {grow_by(costs, before):+.1%}"
            if is_above(row, costs, before):
                failed.append(row)
        print(line, flush=True)
        if row in failed:
            for name, more in find_growth(costs, before):
                print(f"  {more:+10.1f} {name}")
    kept = {
        row: {name: round(cost, 1) for name, cost in costs.items() if cost >= 1 or name == "total"}
        for row, costs in counted.items()
    }
    report = {"compiler": options.compiler, "rows": kept}
    for path in filter(None, (f"{options.out}/instructions.json", options.save)):
        with open(path, "w") as text:
            json.dump(report, text, indent=1, sort_keys=True)
            text.write("\n")
    if failed and known["compiler"] != options.compiler:
        print(f"counted with {options.compiler}, the kept numbers with {known['compiler']}")
    elif failed:
        sys.exit(f"instructions.sh: more than {GROWTH_MAX:.0%} above: {', '.join(failed)}")


if __name__ == "__main__":
    main()

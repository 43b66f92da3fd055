"""What the peers' sides of `make bench` share: a row's arguments, its timing and its line of JSON."""

import argparse
import json
import os
import resource
import time


def parser(description, rows=None):
    """Every peer takes what `agewright bench` takes for a row; rows: those it knows, where others are errors."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--row", required=True, choices=rows)
    p.add_argument("--model", required=True)
    p.add_argument("--px", type=int, default=512)
    p.add_argument("--batch", type=int, default=0)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--mixed_precision", choices=["no", "bf16"], default="no")
    return p


def parse(p):
    o = p.parse_args()
    o.threads = o.threads or os.cpu_count()
    return o


def measure(o, side, opened, once):
    """Print the best of o.repeat runs of once() after one to warm up, and the most memory the process held."""
    best = cpu = float("inf")
    worst = 0.0
    once()
    for _ in range(o.repeat):
        start, start_cpu = time.perf_counter(), time.process_time()
        once()
        took, took_cpu = time.perf_counter() - start, time.process_time() - start_cpu
        worst = max(worst, took)
        if took < best:
            best, cpu = took, took_cpu
    line = {
        "side": side,
        "row": o.row,
        "px": o.px,
        "batch": o.batch,
        "threads": o.threads,
        "dtype": "bf16" if o.mixed_precision == "bf16" else "f32",
        "seconds": best,
        "worst_s": worst,
        "gb": 1024e-9 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "cpu_s": cpu,
        "open_s": opened,
    }
    print(json.dumps(line))

#!/usr/bin/env python3
"""Golden values of a loss scale, from PyTorch's torch.amp.GradScaler on the CPU.

    golden_loss_scale.py OUTPUT.json

Each case scales a loss whose gradient is 1, or infinite, step after step. Stored: the scaler's first scale, factors and
interval; "runs", how many steps in a row were finite, then not, then finite, and so on; "scale", each [step, scale] where
the scale changed (steps from 0); "good", the growth tracker at the end of each run; "made", the steps that the optimizer
made in all. tests/test_train_state.c reads it.
"""
import json
import random
import sys

import torch

random.seed(3)
OWN = {"first": 65536.0, "growth": 2.0, "backoff": 0.5, "interval": 2000}
CASES = {
    # a run's own numbers: growth at the interval and not before it, a bad step that begins the row again, down to 1
    "run": dict(OWN, runs=[1999, 1, 2000, 3, 4001, 2, 5, 1, 1999, 1, 6000, 18]),
    "often": {"first": 1024.0, "growth": 4.0, "backoff": 0.25, "interval": 3,
              "runs": [random.choice([1, 1, 2, 3, 4, 7]) for _ in range(60)]},
    # beyond f32's range the scale stays, and the row begins again all the same
    "top": {"first": 2.0**125, "growth": 2.0, "backoff": 0.5, "interval": 2, "runs": [9, 1, 7]},
    "bottom": {"first": 4.0, "growth": 2.0, "backoff": 0.5, "interval": 2, "runs": [1, 12, 5]},
}


def step(scaler, optimizer, weight, finite):
    optimizer.zero_grad()
    scaler.scale(weight * 1.0).backward()
    if not finite:
        weight.grad.fill_(float("inf"))
    scaler.step(optimizer)
    scaler.update()


def follow(case):
    scaler = torch.amp.GradScaler("cpu", init_scale=case["first"], growth_factor=case["growth"],
                                  backoff_factor=case["backoff"], growth_interval=case["interval"])
    weight = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    finite, n, scale = True, 0, case["first"]
    case.update(scale=[], good=[])
    for run in case["runs"]:
        for _ in range(run):
            step(scaler, optimizer, weight, finite)
            if scaler.get_scale() != scale:
                scale = scaler.get_scale()
                case["scale"].append([n, scale])
            n += 1
        case["good"].append(scaler.state_dict()["_growth_tracker"])
        finite = not finite
    case["made"] = round(-weight.item())
    return case


def main():
    cases = {name: follow(case) for name, case in CASES.items()}
    with open(sys.argv[1], "w") as file:
        json.dump({"torch": torch.__version__, "cases": cases}, file)
        file.write("\n")


main()

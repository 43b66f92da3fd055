#!/usr/bin/env python3
"""Make tests/golden/npy/: small .npy files of every kind we read, written by NumPy.

usage: golden_npy.py OUTPUT_DIR

OUTPUT_DIR/index.txt has one line a file: its name and the elements in C order, with a tab before each.
Written with NumPy 2; nothing is random.
"""
import os
import sys

import numpy as np
from numpy.lib import format as npy


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = sys.argv[1]
    os.makedirs(out, exist_ok=True)
    rows = [["00007.jpg", "1"], ["00004.jpg", "35"], ["größe \U0001d538.png", " +8 "]]
    text = np.array(rows, dtype="U21")
    numbers = np.arange(6).reshape(2, 3) - 2
    arrays = {
        "u21": text, "u21_big": text.astype(">U21"), "u21_fortran": np.asfortranarray(text),
        "u40": text.astype("U40"), "s12": np.array(rows[:2], dtype="S12"), "u_3d": np.array(list("abcdefghijkl")).reshape(2, 3, 2),
        "u_3d_fortran": np.asfortranarray(np.array(list("abcdefghijkl")).reshape(2, 3, 2)),
        "empty": np.zeros((0, 2), "U5"), "one_dim": np.array(["x", "yy"]), "scalar": np.array(3.0, np.float32),
        "bool": numbers > 0,
    }
    for kind in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"):
        a = (numbers + 2 if kind[0] == "u" else numbers).astype(kind)
        if kind[0] == "f":
            a = a / a.dtype.type(4)
        arrays[kind] = a
        arrays[kind + "_big"] = np.asfortranarray(a.astype(">" + kind))
    lines = []
    for name, a in sorted(arrays.items()):
        version = {"u40": (2, 0), "u_3d": (3, 0)}.get(name, (1, 0))
        with open(os.path.join(out, name + ".npy"), "wb") as f:
            npy.write_array(f, a, version=version)
        values = [v.decode() if isinstance(v, bytes) else str(v) if a.dtype.kind in "US" else repr(float(v))
                  for v in a.ravel(order="C")]
        lines.append("\t".join([name + ".npy"] + values))
    with open(os.path.join(out, "index.txt"), "w") as f:
        f.write("\n".join(lines) + "\n")


main()

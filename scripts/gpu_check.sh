#!/bin/sh
# Everything we want to know of the CUDA back end on a machine with a GPU, the CUDA toolkit and PyTorch, without
# a network and without our other libraries: unpacks what `make gpu-kit` packed, and leaves one report.
#
# usage: scripts/gpu_check.sh [--kit FILE] [--output DIR] [--device cuda] [STAGE...]
#
#   check      what is there; every .cu compiled by this machine's nvcc; agewright doctor
#   tests      the suite on the device
#   sanitizer  compute-sanitizer (memcheck, racecheck, initcheck, synccheck) on the kernels' tests
#   bench      full-size rows beside PyTorch (eager, torch.compile, CUDA graphs), and the device's own ceilings
#   report     what the stages left in DIR as gpu-DATE.md and gpu-DATE.json
#
# Without a stage: all, in this order. Each takes less than ten minutes and can run alone; a stage's results stay in DIR
# (build/gpu) until the report. The exit status is that of the stages, but for sanitizer's, which some
# machines refuse. KIT: build/gpu-kit.tar.xz. Compare tests/gpu/README.md, where reports are kept.
set -eu
cd "$(dirname "$0")/.."

kit=build/gpu-kit.tar.xz out=build/gpu stages=
while [ $# -gt 0 ]; do
    case $1 in
    --kit) kit=$2; shift ;;
    --output) out=$2; shift ;;
    check | tests | sanitizer | bench | report) stages="$stages $1" ;;
    *) sed -n 's/^# \{0,1\}//; 2,17p' "$0" >&2; exit 2 ;;
    esac
    shift
done
[ -n "$stages" ] || stages="check tests sanitizer bench report"

# --- what the stages share -------------------------------------------------------------------------

here=$out/kit
mkdir -p "$out"
[ -x "$here/bin/agewright" ] || { mkdir -p "$here" && xz -dc "$kit" | tar -C "$here" -xf -; }

cuda=${CUDA_HOME:-/usr/local/cuda}
# PyTorch brings cuBLAS and cuDNN where the toolkit does not
theirs=$(python3 -c 'import glob, sysconfig
print(":".join(glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/*/lib")))' 2>/dev/null || true)
libraries=$PWD/$here/lib:$cuda/lib64:$theirs
ours() { LD_LIBRARY_PATH=$libraries "$@"; }

seconds() { date +%s; }
# quoted TEXT: as a JSON string
quoted() { printf '"%s"' "$(printf '%s' "$1" | tr -d '\000-\037' | sed 's/[\\"]/\\&/g')"; }

# --- check -----------------------------------------------------------------------------------------

compile() { # every .cu in parallel, for this device alone
    mkdir -p "$out/objects"
    for file in autograd/cuda/*.cu; do echo "$file"; done |
        xargs -P "$(nproc)" -I{} sh -c '"$0" -std=c++17 -O3 -I. -gencode arch=compute_90a,code=sm_90a \
            -Xcompiler -fno-exceptions,-fno-threadsafe-statics -c {} -o "$1/objects/$(basename {}).o" 2>>"$1/nvcc.log"' \
            "$cuda/bin/nvcc" "$out"
}

stage_check() {
    {
        nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader 2>&1 || true
        "$cuda/bin/nvcc" --version 2>&1 | tail -n 2 | head -n 1 || true
        python3 -c 'import torch; print("PyTorch", torch.__version__, "cuDNN", torch.backends.cudnn.version())' 2>&1 || true
        ours "$here/bin/agewright" doctor
    } >"$out/machine.txt"
    cat "$out/machine.txt"
    : >"$out/nvcc.log"
    compile || { cat "$out/nvcc.log"; return 1; }
    echo "every .cu compiles"
}

# --- tests -----------------------------------------------------------------------------------------

stage_tests() {
    failed=0
    : >"$out/tests.jsonl"
    for test in "$here"/bin/test_*; do
        name=${test##*/} start=$(seconds) verdict=ok
        AG_TEST_DEVICE=cuda ours timeout 300 "$test" >"$out/$name.log" 2>&1 || verdict=failed failed=1
        took=$(($(seconds) - start))
        echo "$verdict  $name  $took s"
        [ $verdict = ok ] || grep -E 'FAILED|ERROR|wanted|error' "$out/$name.log" | head -n 12
        echo "{\"test\": \"$name\", \"verdict\": \"$verdict\", \"seconds\": $took}" >>"$out/tests.jsonl"
    done
    return $failed
}

# --- sanitizer -------------------------------------------------------------------------------------

stage_sanitizer() {
    : >"$out/sanitizer.jsonl"
    for tool in memcheck racecheck initcheck synccheck; do
        log=$out/sanitizer-$tool.log verdict=clean
        AG_TEST_DEVICE=cuda ours timeout 130 "$cuda/bin/compute-sanitizer" --tool $tool --error-exitcode 9 \
            --print-limit 20 "$here/bin/test_ops" >"$log" 2>&1 || case $? in
            9) verdict=found ;;
            124) verdict="clean until stopped after 130 s"; ! grep -q 'ERROR SUMMARY: [1-9]' "$log" || verdict=found ;;
            *) verdict="did not run" ;;
            esac
        echo "$tool: $verdict"
        echo "{\"tool\": \"$tool\", \"verdict\": $(quoted "$verdict")}" >>"$out/sanitizer.jsonl"
    done
}

# --- bench -----------------------------------------------------------------------------------------

beside_pytorch() { # ROW BATCH: ours, then each form of theirs
    row=$1 batch=$2
    ours timeout 120 "$here/bin/agewright" bench --device cuda --mixed_precision bf16 --row "$row" --batch "$batch" \
        --repeat 20 --model "$out/sd15" --json >>"$out/bench.jsonl" 2>>"$out/bench.log" || { echo "$row, batch $batch: ours failed"; bad=1; }
    for how in eager graph compile; do
        timeout 150 python3 scripts/gpu_peer.py "$row" --batch "$batch" --how $how --seconds 3 \
            >>"$out/bench.jsonl" 2>>"$out/bench.log" || echo "$row, batch $batch: PyTorch ($how) failed or took too long"
    done
    tail -n 4 "$out/bench.jsonl"
}

stage_bench() {
    bad=0
    : >"$out/bench.jsonl"
    : >"$out/bench.log"
    [ -f "$out/sd15/model_index.json" ] || ours "$here/bin/agewright" init sd15 --output "$out/sd15"
    python3 scripts/gpu_peer.py ceilings >"$out/ceilings.jsonl" 2>>"$out/bench.log" || bad=1
    cat "$out/ceilings.jsonl"
    beside_pytorch unet_frozen 4
    beside_pytorch unet_full 64
    beside_pytorch unet_full 1
    beside_pytorch lora_step 1
    beside_pytorch unet_forward 1
    return $bad
}

# --- report ----------------------------------------------------------------------------------------

lines_as_array() { # FILE.jsonl
    [ ! -f "$1" ] && echo "[]" && return
    sed '$!s/$/,/; 1s/^/[/; $s/$/]/' "$1"
}

stage_report() {
    base=$out/gpu-$(date -u +%Y-%m-%d)
    {
        echo "# The CUDA back end on a GPU, $(date -u +%Y-%m-%d)"
        echo
        echo "Written by \`scripts/gpu_check.sh\` at commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)."
        echo
        echo '```'
        cat "$out/machine.txt" 2>/dev/null || echo "stage check was not run"
        echo '```'
        echo
        echo "## Tests"
        echo
        sed 's/.*"test": "\([^"]*\)", "verdict": "\([^"]*\)", "seconds": \([0-9]*\).*/- \1: \2, \3 s/' \
            "$out/tests.jsonl" 2>/dev/null || echo "not run"
        echo
        echo "## compute-sanitizer, on test_ops"
        echo
        sed 's/.*"tool": "\([^"]*\)", "verdict": "\([^"]*\)".*/- \1: \2/' "$out/sanitizer.jsonl" 2>/dev/null || echo "not run"
        echo
        echo "## Beside PyTorch"
        echo
        sed 's/.*"ceiling": "\([^"]*\)", "value": \([0-9.]*\).*"unit": "\([^"]*\)".*/- measured ceiling, \1: \2 \3/' \
            "$out/ceilings.jsonl" 2>/dev/null || echo "not run"
        echo
        [ ! -s "$out/bench.jsonl" ] || ours "$here/bin/agewright" bench --report "$out/bench.jsonl" --output "$out/bench.json"
    } >"$base.md"
    {
        printf '{"date": "%s",\n "machine": %s,\n "tests": ' "$(date -u +%Y-%m-%d)" \
            "$(quoted "$(cat "$out/machine.txt" 2>/dev/null | tr '\n' ';')")"
        lines_as_array "$out/tests.jsonl"
        printf ', "sanitizer": '
        lines_as_array "$out/sanitizer.jsonl"
        printf ', "ceilings": '
        lines_as_array "$out/ceilings.jsonl"
        printf ', "bench": '
        lines_as_array "$out/bench.jsonl"
        echo "}"
    } >"$base.json"
    echo "$base.md, $base.json"
}

status=0
for stage in $stages; do
    echo "== $stage"
    "stage_$stage" || { echo "== $stage failed"; [ "$stage" = sanitizer ] || status=1; }
done
exit $status

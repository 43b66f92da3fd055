#!/bin/sh
# Everything we want to know of the CUDA back end on a machine with a GPU, the CUDA toolkit and PyTorch, without
# a network and without our other libraries: unpacks what `make gpu-kit` packed, and leaves one report.
#
# usage: scripts/gpu_check.sh [--kit FILE] [--output DIR] [--device cuda|cpu] [--model KIND] [--px N]
#                             [--rows ROW:BATCH,...] [STAGE...]
#
#   check      what is there; every .cu compiled by this machine's nvcc; agewright doctor
#   tests      the suite on the device, four programs at a time
#   sanitizer  compute-sanitizer (memcheck, racecheck, initcheck, synccheck, side by side) on the kernels' tests
#   bench      full-size rows beside PyTorch (eager, CUDA graphs), and the device's own ceilings
#   compile    the same rows by torch.compile
#   report     what the stages left in DIR as gpu-DATE.md and gpu-DATE.json
#
# Without a stage: all, in this order. Each ends within ten minutes, by leaving out what it has no time for, and can
# run alone; results stay in DIR (build/gpu) until the report. What is missing on the machine is said and left out. The
# exit status is that of the stages, but for sanitizer's, which some machines refuse. KIT: build/gpu-kit.tar.xz.
# --device cpu, --model tiny (a KIND of `agewright init`; sd15), --px 64 and --rows unet_forward:1 are for trying
# this script where there is no GPU. Compare tests/gpu/README.md, where reports are kept.
set -eu
cd "$(dirname "$0")/.."

kit=build/gpu-kit.tar.xz out=build/gpu device=cuda model=sd15 px=512 stages=
rows=unet_frozen:4,unet_full:64,unet_full:1,lora_step:1,unet_forward:1
usage() { sed -n '/^# usage/,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case $1 in
    --kit | --output | --device | --model | --px | --rows) [ $# -gt 1 ] || usage ;;
    esac
    case $1 in
    --kit) kit=$2; shift ;;
    --output) out=$2; shift ;;
    --device) device=$2; shift ;;
    --model) model=$2; shift ;;
    --px) px=$2; shift ;;
    --rows) rows=$2; shift ;;
    check | tests | sanitizer | bench | compile | report) stages="$stages $1" ;;
    *) usage ;;
    esac
    shift
done
[ -n "$stages" ] || stages="check tests sanitizer bench compile report"

# --- what the stages share -------------------------------------------------------------------------

mkdir -p "$out"
out=$(cd "$out" && pwd)
here=$out/kit
if [ ! "$here/unpacked" -nt "$kit" ]; then
    [ -f "$kit" ] || { echo "$kit: not there; make gpu-kit makes it" >&2; exit 1; }
    rm -rf "$here"
    mkdir -p "$here"
    if command -v xz >/dev/null; then
        xz -dc "$kit" | tar -C "$here" -xf -
    else
        python3 -m tarfile -e "$kit" "$here"
    fi
    touch "$here/unpacked"
fi

nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
cuda=${CUDA_HOME:-$(dirname "$(dirname "$(readlink -f "$nvcc" || echo "$nvcc")")")}
# PyTorch brings cuBLAS and cuDNN where the toolkit does not
theirs=$(python3 -c 'import glob, importlib.util as u
print(":".join(d for at in u.find_spec("nvidia").submodule_search_locations for d in glob.glob(at + "/*/lib")))' \
    2>/dev/null || true)
pytorch=$(python3 -c 'import importlib.util as u; print("there" if u.find_spec("torch") else "")' 2>/dev/null || true)
libraries=$here/lib:$cuda/lib64${theirs:+:$theirs}

# within SECONDS COMMAND...: no longer than that, nor than what is left of the stage; 124 when its time was over
within() {
    seconds=$((end - $(date +%s)))
    [ $seconds -lt "$1" ] || seconds=$1
    shift
    [ $seconds -gt 0 ] || return 124
    timeout -k 5 $seconds "$@"
}

# ours SECONDS COMMAND...: the same with the kit's libraries
ours() {
    most=$1
    shift
    within "$most" env LD_LIBRARY_PATH="$libraries" AG_TEST_DEVICE="$device" "$@"
}

# what a log says of what went wrong; FINDING is how compute-sanitizer begins to say it
FINDING='^=+ +(Invalid|Misaligned|Uninitialized|Barrier error|[A-Z][a-z]+: Race)'
wrong() { grep -E "FAILED|ERROR|Error|error|wanted|$FINDING" "$1" | head -n 12; }

# TEXT as a JSON string
quoted() { printf '"%s"' "$(printf '%s' "$1" | tr -d '\000-\037' | sed 's/[\\"]/\\&/g')"; }

# --- check -----------------------------------------------------------------------------------------

compile_all() { # every .cu, as many at once as there are processors
    mkdir -p "$out/objects"
    : >"$out/nvcc.log"
    for file in autograd/cuda/*.cu; do echo "$file"; done |
        xargs -P "$(nproc)" -I{} timeout 500 sh -c '"$0" -std=c++17 -O3 -I. -gencode arch=compute_90a,code=sm_90a \
            -Xcompiler -fno-exceptions,-fno-threadsafe-statics -c {} -o "$1/objects/$(basename {}).o" \
            2>>"$1/nvcc.log"' \
            "$cuda/bin/nvcc" "$out"
}

stage_check() {
    bad=0
    {
        nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader 2>/dev/null ||
            echo "no nvidia-smi, or no answer of it"
        "$cuda/bin/nvcc" --version 2>/dev/null | tail -n 2 | head -n 1 | grep . || echo "no $cuda/bin/nvcc"
        python3 -c 'import torch; print("PyTorch", torch.__version__, "cuDNN", torch.backends.cudnn.version())' \
            2>/dev/null || echo "no PyTorch for python3"
        ldd --version 2>/dev/null | head -n 1
        echo "kit of commit $(cat "$here/commit")"
        ours 200 "$here/bin/agewright" doctor 2>&1 || { echo "agewright doctor failed"; bad=1; }
    } >"$out/machine.txt"
    cat "$out/machine.txt"
    if [ ! -x "$cuda/bin/nvcc" ]; then
        echo "no $cuda/bin/nvcc: no .cu is compiled"
        return 1
    fi
    compile_all || { cat "$out/nvcc.log"; return 1; }
    echo "every .cu compiles"
    return $bad
}

# --- tests -----------------------------------------------------------------------------------------

one_test() { # PROGRAM
    name=${1##*/} verdict=ok start=$(date +%s)
    ours 300 "$1" >"$out/$name.log" 2>&1 || case $? in
        124 | 137) verdict="no time" ;;
        *) verdict=failed ;;
        esac
    took=$(($(date +%s) - start))
    echo "$verdict  $name  $took s"
    grep -h SKIP "$out/$name.log" | sort -u
    [ "$verdict" = ok ] || wrong "$out/$name.log"
    echo "{\"test\": \"$name\", \"verdict\": \"$verdict\", \"seconds\": $took}" >>"$out/tests.jsonl"
}

stage_tests() {
    rm -rf "$out/taken"
    mkdir "$out/taken"
    : >"$out/tests.jsonl"
    for lane in 1 2 3 4; do
        for test in "$here"/bin/test_*; do
            mkdir "$out/taken/${test##*/}" 2>/dev/null || continue # by another lane
            one_test "$test"
        done &
    done
    wait
    ! grep -qv '"verdict": "ok"' "$out/tests.jsonl"
}

# --- sanitizer -------------------------------------------------------------------------------------

one_tool() { # TOOL: the quick tests first
    for test in test_ops_state test_optimizer_rules test_ops; do
        log=$out/$1-$test.log verdict=clean
        ours 500 "$cuda/bin/compute-sanitizer" --tool "$1" --error-exitcode 9 --print-limit 20 "$here/bin/$test" \
            >"$log" 2>&1 || case $? in
            9) verdict=found ;;
            124 | 137) verdict="clean until its time was over" ;;
            *) verdict="the test or the tool failed" ;;
            esac
        # what was ended before it could count has said so line by line
        ! grep -qE "$FINDING" "$log" || verdict=found
        [ -s "$log" ] || verdict="no time"
        echo "$1, $test: $verdict"
        echo "{\"tool\": \"$1\", \"test\": \"$test\", \"verdict\": \"$verdict\"}" >>"$out/sanitizer.jsonl"
    done
}

stage_sanitizer() {
    : >"$out/sanitizer.jsonl"
    if [ ! -x "$cuda/bin/compute-sanitizer" ]; then
        echo "no $cuda/bin/compute-sanitizer"
        return 1
    fi
    for tool in memcheck racecheck initcheck synccheck; do
        one_tool $tool &
    done
    wait
}

# --- bench -----------------------------------------------------------------------------------------

# measured ROW BATCH WHO COMMAND...: its line of JSON, as a file of its own
measured() {
    what=$1-$2-$3 said="$1, batch $2, $3"
    shift 3
    if "$@" >"$out/bench/$what.part" 2>"$out/bench/$what.log"; then
        mv "$out/bench/$what.part" "$out/bench/$what.json"
        cat "$out/bench/$what.json"
    else
        echo "$said: failed or had no time: $(tail -n 1 "$out/bench/$what.log")"
        rm -f "$out/bench/$what.part" "$out/bench/$what.json"
        return 1
    fi
}

# by_pytorch ROW BATCH HOW SECONDS
by_pytorch() {
    [ "$pytorch" ] || return 0
    measured "$1" "$2" "$3" within "$4" \
        python3 scripts/gpu_peer.py "$1" --batch "$2" --px "$px" --how "$3" --device "$device" --seconds 3 || true
}

stage_bench() {
    bad=0 folder=$out/model-$model
    mkdir -p "$out/bench"
    [ -f "$folder/model_index.json" ] || ours 200 "$here/bin/agewright" init "$model" --output "$folder" || return 1
    if [ "$pytorch" ]; then
        within 60 python3 scripts/gpu_peer.py ceilings --device "$device" >"$out/ceilings.jsonl" \
            2>"$out/ceilings.log" || echo "ceilings: failed: $(tail -n 1 "$out/ceilings.log")"
        cat "$out/ceilings.jsonl"
    else
        echo "no PyTorch for python3: ours alone, and no ceilings"
    fi
    for pair in $(echo "$rows" | tr , ' '); do
        row=${pair%:*} batch=${pair#*:}
        measured "$row" "$batch" ours ours 120 "$here/bin/agewright" bench --row "$row" --batch "$batch" --px "$px" \
            --model "$folder" --device "$device" --mixed_precision bf16 --repeat 20 --json || bad=1
        by_pytorch "$row" "$batch" eager 60
        [ "$device" = cpu ] || by_pytorch "$row" "$batch" graph 60
    done
    return $bad
}

stage_compile() {
    [ "$pytorch" ] || echo "no PyTorch for python3"
    mkdir -p "$out/bench"
    for pair in $(echo "$rows" | tr , ' '); do
        by_pytorch "${pair%:*}" "${pair#*:}" compile 180
    done
}

# --- report ----------------------------------------------------------------------------------------

# as_list PART SED: what it left, as a list
as_list() {
    echo
    if [ -s "$out/$1.jsonl" ]; then sed "$2" "$out/$1.jsonl"; else echo "not run"; fi
    echo
}

# what_of PART 'SED FROM/TO': where the verdict is not good, the name of its log and what that says
what_of() {
    [ -s "$out/$1.jsonl" ] || return 0
    sed -n "/\"verdict\": \"\(ok\|clean\|no time\)/!s/$2/p" "$out/$1.jsonl" | while read -r name; do
        printf '```\n%s\n%s\n```\n\n' "$name" "$(wrong "$out/$name.log")"
    done
}

# as_array PART: the same as a JSON array
as_array() { echo "[$(cat "$out/$1.jsonl" 2>/dev/null | tr '\n' ',' | sed 's/,$//')]"; }

stage_report() {
    bad=0 today=$(date -u +%Y-%m-%d)
    base=$out/gpu-$today
    cat "$out"/bench/*.json >"$out/bench.jsonl" 2>/dev/null || true
    {
        echo "# The CUDA back end on a GPU, $today"
        echo
        echo "Written by \`scripts/gpu_check.sh\` with the programs of commit $(cat "$here/commit")."
        echo
        echo '```'
        cat "$out/machine.txt" 2>/dev/null || echo "stage check was not run"
        echo '```'
        echo
        echo "## Tests"
        as_list tests 's/.*"test": "\([^"]*\)", "verdict": "\([^"]*\)", "seconds": \([0-9]*\).*/- \1: \2, \3 s/'
        what_of tests '.*"test": "\([^"]*\)".*/\1'
        echo "## compute-sanitizer"
        as_list sanitizer 's/.*"tool": "\([^"]*\)", "test": "\([^"]*\)", "verdict": "\([^"]*\)".*/- \1, \2: \3/'
        what_of sanitizer '.*"tool": "\([^"]*\)", "test": "\([^"]*\)".*/\1-\2'
        echo "## Beside PyTorch"
        as_list ceilings 's/.*"ceiling": "\([^"]*\)", "value": \([0-9.]*\).*"unit": "\([^"]*\)".*/- ceiling, \1: \2 \3/'
        if [ -s "$out/bench.jsonl" ]; then # without the picture, which is a file of its own
            ours 60 "$here/bin/agewright" bench --report "$out/bench.jsonl" --output "$out/bench.json" \
                >"$out/bench.md" || bad=1
            sed '/^!\[/d' "$out/bench.md"
        fi
    } >"$base.md"
    {
        printf '{"date": "%s",\n "kit": "%s",\n "machine": %s' "$today" "$(cat "$here/commit")" \
            "$(quoted "$(cat "$out/machine.txt" 2>/dev/null | tr '\n' ';')")"
        for part in tests sanitizer ceilings bench; do
            printf ',\n "%s": %s' $part "$(as_array "$part")"
        done
        echo "}"
    } >"$base.json"
    echo "$base.md, $base.json"
    return $bad
}

status=0
for stage in $stages; do
    echo "== $stage"
    end=$(($(date +%s) + 570))
    "stage_$stage" || { echo "== $stage failed"; [ "$stage" = sanitizer ] || status=1; }
done
exit $status

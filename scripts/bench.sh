#!/bin/sh
# Measure the full-size model, beside PyTorch + diffusers and OpenVINO where they are installed.
#
# usage: scripts/bench.sh AGEWRIGHT OUT.json [ROW[@PX][xBATCH][/THREADS],...]
#
# A row is a name of `agewright bench --row`; 512 pixels, its own batch and all processors where it does not say
# otherwise: lora_step@768, unet_forward@512x4, lora_step/1. Without rows, all of $all below. A model of random
# weights is made beside OUT.json on the first run (4.3 GB). Each measurement is a process of its own, ours and the
# peers' one after the other, on the same weights and threads; one line of JSON each is kept in OUT.jsonl. A peer
# is run by the Python of $BENCH_PYTHON, else python3: PyTorch when that can import torch and diffusers (the LoRA
# rows also want peft and transformers), OpenVINO, for the rows it can do, when it can import openvino too.
# $THREADS: of both sides, else all processors. $PRECISION: no or bf16, else bf16 where the processor has AMX.
# Both sides inherit the environment: set OMP_WAIT_POLICY, GOMP_SPINCOUNT, or AGEWRIGHT_MAX_ISA=avx2 with
# ATEN_CPU_CAPABILITY=avx2, ONEDNN_MAX_CPU_ISA=AVX2 and MKL_ENABLE_INSTRUCTIONS=AVX2, and it holds for both.
set -eu

[ $# -ge 2 ] || { sed -n 's/^# \{0,1\}usage:/usage:/p' "$0" >&2; exit 2; }
agewright=$1
out=$2
all="unet_forward unet_forward@256 unet_forward@768 unet_forward@512x4 unet_forward/1 unet_frozen unet_full
    lora_step lora_step@256 lora_step@768 lora_step@512x4 lora_step/1 lora_prior_step vae_encode vae_decode"
rows=$(echo "${3:-$all}" | tr ',' ' ')
folder=$(dirname "$out")
model=$folder/bench-model
lines=${out%.json}.jsonl
here=$(dirname "$0")

# bf16 is faster than f32 on a processor with AMX only, so there both sides compute in it.
precision=no
grep -qw amx_bf16 /proc/cpuinfo && precision=bf16
precision=${PRECISION:-$precision}

python=
for candidate in "${BENCH_PYTHON:-}" python3; do
    if [ -n "$candidate" ] && "$candidate" -c 'import torch, diffusers' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || echo "no PyTorch with diffusers here: ours only (BENCH_PYTHON names another python)" >&2
peers=
[ -z "$python" ] || peers=bench_peer.py
[ -z "$python" ] || ! "$python" -c 'import openvino' 2>/dev/null || peers="$peers bench_openvino.py"

warn_if_busy() {
    awk -v n="$(nproc)" '$1 > 0.3 * n { printf "warning: the load is %s on %d processors: seconds taken now mean little\n", $1, n }' \
        /proc/loadavg >&2
}

[ -f "$model/model_index.json" ] || { rm -rf "$model"; "$agewright" init sd15 --output "$model"; }
warn_if_busy
: >"$lines"
for row in $rows; do
    echo "$row ..." >&2
    px=512 batch=0 threads=${THREADS:-$(nproc)} rest=$row
    case $rest in */*) threads=${rest#*/} rest=${rest%%/*} ;; esac
    case $rest in *@*x*) batch=${rest##*x} rest=${rest%x*} ;; esac
    case $rest in *@*) px=${rest#*@} rest=${rest%@*} ;; esac
    set -- --row "$rest" --px "$px" --batch "$batch" --model "$model" --threads "$threads" \
        --mixed_precision "$precision"
    "$agewright" bench "$@" --json >>"$lines"
    for peer in $peers; do
        "$python" "$here/$peer" "$@" >>"$lines" || echo "$row: $peer failed; left out" >&2
    done
done
"$agewright" bench --report "$lines" --output "$out" | tee "${out%.json}.md"

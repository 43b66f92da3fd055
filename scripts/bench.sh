#!/bin/sh
# Measure the full-size model, beside PyTorch + diffusers where they are installed.
#
# usage: scripts/bench.sh AGEWRIGHT OUT.json [ROW[@PX],ROW[@PX]...]
#
# Without rows, all; 512 pixels where a row does not say otherwise. A model of random weights is made beside
# OUT.json on the first run (4.3 GB). Each measurement is a process of its own, ours and the peer's one
# after the other, on the same weights and threads; one line of JSON each is kept in OUT.jsonl. The peer is
# the Python of $BENCH_PYTHON, else python3, when that can import torch and diffusers (the LoRA rows also
# want peft and transformers). $THREADS: of both sides, else all processors.
# Both sides inherit the environment: set OMP_WAIT_POLICY or GOMP_SPINCOUNT and it holds for both.
set -eu

[ $# -ge 2 ] || { sed -n 's/^# \{0,1\}usage:/usage:/p' "$0" >&2; exit 2; }
agewright=$1
out=$2
rows=$(echo "${3:-}" | tr ',' ' ')
[ -n "$rows" ] || rows="unet_forward unet_frozen unet_full lora_step lora_step@256 lora_prior_step vae_encode vae_decode"
folder=$(dirname "$out")
model=$folder/bench-model
lines=${out%.json}.jsonl
threads=${THREADS:-$(nproc)}
here=$(dirname "$0")

# bf16 is faster than f32 on a processor with AMX only, so there both sides compute in it.
precision=no
grep -qw amx_bf16 /proc/cpuinfo && precision=bf16

python=
for candidate in "${BENCH_PYTHON:-}" python3; do
    if [ -n "$candidate" ] && "$candidate" -c 'import torch, diffusers' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || echo "no PyTorch with diffusers here: ours only (BENCH_PYTHON names another python)" >&2

warn_if_busy() {
    awk -v n="$(nproc)" '$1 > 0.3 * n { printf "warning: the load is %s on %d processors: seconds taken now mean little\n", $1, n }' \
        /proc/loadavg >&2
}

[ -f "$model/model_index.json" ] || { rm -rf "$model"; "$agewright" init sd15 --output "$model"; }
warn_if_busy
: >"$lines"
for row in $rows; do
    echo "$row ..." >&2
    px=512
    case $row in *@*) px=${row#*@} ;; esac
    set -- --row "${row%@*}" --px "$px" --model "$model" --threads "$threads" --mixed_precision $precision
    "$agewright" bench "$@" --json >>"$lines"
    [ -z "$python" ] || "$python" "$here/bench_peer.py" "$@" >>"$lines" || echo "$row: the peer failed; left out" >&2
done
"$agewright" bench --report "$lines" --output "$out" | tee "${out%.json}.md"

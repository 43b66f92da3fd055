#!/bin/sh
# Spoil kernels, one line at a time, and see that a test on the stand-ins fails. tests/cuda_host/README.md has the table.
#
# usage: tests/cuda_host/spoil.sh BUILD [NUMBER...]
# BUILD is a build folder (build); all spoils, or those of these numbers. Works in BUILD/spoil, on copies. The exit
# status is 0 when every spoil was caught. Takes a minute or so for each.
build=$1
[ -d "$build" ] && [ -f tests/cuda_host/spoil.sh ] || { echo "usage: tests/cuda_host/spoil.sh BUILD [NUMBER...]" >&2; exit 2; }
shift
wanted=" $* "
scratch=$(cd "$build" && pwd)/spoil
tree=$scratch/tree
tests="test_ops test_ops_state test_optimizer_rules test_replay"
make=${MAKE:-make}
missed=0

# What was built travels along, so that only what a spoil changes is compiled anew, and quickly.
prepare() {
    rm -rf "$scratch"
    mkdir -p "$tree/build"
    $make -s BUILD="$build" $(for t in $tests; do echo "$build/release/cuda-host/tests/$t"; done) || exit 2
    for part in Makefile autograd nn optim data pipeline edit train cli tests; do cp -a "$part" "$tree/"; done
    cp -a "$build/release" "$tree/build/"
    find "$tree/build" -name '*.d' -exec sed -i "s#^$build/#build/#" {} +
    cp -a "$tree/build/release/cuda-host" "$scratch/whole"
}

# The first of these tests that fails, and its first words; nothing when all pass. NAME:CASES runs some cases.
first_failure() {
    for t in $1; do
        program=build/release/cuda-host/tests/${t%:*}
        cases=${t#"${t%:*}"}
        (cd "$tree" && $make -s BUILD=build OPT_release=-O1 "$program") >"$scratch/log" 2>&1 || { echo "does not compile"; return; }
        (cd "$tree" && AG_TEST_DEVICE=cuda timeout 300 "$program" ${cases#:} >"$scratch/log" 2>&1) 2>/dev/null && continue
        echo "${t%:*}: $(grep -a -m 1 -E '^ERROR|cuda_host:|FAILED' "$scratch/log" | cut -c 1-90)"
        return
    done
}

number=0
# spoil FILE 'WHAT' 'SED EXPRESSION' 'TESTS, likely ones first'
spoil() {
    number=$((number + 1))
    case $wanted in *" $number "* | "  ") ;; *) return ;; esac
    file=autograd/cuda/$1
    cp -p "$file" "$tree/$file"
    sed -i "$3" "$tree/$file"
    if cmp -s "$file" "$tree/$file"; then
        echo "$number | $1 | $2 | the line is not there any more"
        missed=$((missed + 1))
        return
    fi
    failure=$(first_failure "$4")
    case $failure in "" | "does not compile") missed=$((missed + 1)) ;; esac
    echo "$number | $1 | $2 | ${failure:-NOT CAUGHT}"
    cp -p "$file" "$tree/$file"
    rm -rf "$tree/build/release/cuda-host"
    cp -a "$scratch/whole" "$tree/build/release/cuda-host"
}

prepare
spoil backend.c "the host does not wait" 's/error = cudaStreamSynchronize(cuda->stream);/error = cudaSuccess;/' test_ops:unary
spoil staging.c "kernels do not wait for a copy on another stream" 's/cudaStreamWaitEvent(cuda->stream, s->landed, 0)/cudaSuccess/' test_ops:unary
spoil matmul.c "a wrong step from one matrix to the next" 's/.stride_b = p.stride_b,/.stride_b = p.stride_c,/' test_ops:matmul
spoil softmax.cu "a row is read beyond its end" 's/i < cols; i += CUDA_WARP/i <= cols; i += CUDA_WARP/' test_ops:softmax
spoil adamw8bit.cu "a swapped index" 's/return (row \* taps + tap) \* channels + channel;/return (row * channels + channel) * taps + tap;/' test_optimizer_rules
spoil ../cpu/optimizer_factors.h "an accumulator that is not cleared" 's/^    state\[CPU_PRODIGY_DOT\] = 0.0;//' test_optimizer_rules
spoil inplace.cu "a short grid that does not stride" 's/unit += gridDim.x/unit += list.n_units/' "test_ops_state test_optimizer_rules"
spoil list.cuh "the tail of a tensor is left out" 's/for (int64_t i = whole + threadIdx.x; i < to;/for (int64_t i = whole + threadIdx.x; i < to - 1;/' "test_ops_state test_optimizer_rules"
spoil list.cuh "no guard at the end of a tensor" 's/const int64_t to = from + CUDA_UNIT < row.n ? from + CUDA_UNIT : row.n;/const int64_t to = from + CUDA_UNIT;/' "test_ops_state test_optimizer_rules"
spoil list.cuh "a unit is given to the row before its own" 's/list.row\[middle\].first <= unit/list.row[middle].first < unit/' "test_ops_state test_optimizer_rules"
spoil walk.cuh "a wrong stride" 's/at_b += index \* w.b\[k\];/at_b += index * w.a[k];/' "test_ops:add test_ops"
spoil reduce.cuh "a barrier is missing before sums are read" '0,/part\[warp\] = v;/{/part\[warp\] = v;/{n;s/__syncthreads();//}}' "test_ops:row_loss test_ops:softmax test_optimizer_rules"
spoil reduce.cuh "a sum over half a warp" 's|for (int with = CUDA_WARP / 2; with; with /= 2)|for (int with = CUDA_WARP / 4; with; with /= 2)|' "test_ops:row_loss test_ops:softmax test_optimizer_rules"
spoil reduce.cuh "a wrong mask in a shuffle" 's/__shfl_xor_sync((unsigned)CUDA_ALL_LANES/__shfl_xor_sync(0xffffu/' "test_ops:row_loss test_ops:softmax test_optimizer_rules"
[ "$missed" = 0 ]

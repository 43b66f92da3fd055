#!/bin/sh
# Pack what scripts/gpu_check.sh wants on a machine that has a GPU, the CUDA toolkit and none of our libraries:
# the program, the tests, and every library they are linked with but the C and C++ runtimes.
#
# usage: scripts/gpu_kit.sh KIT.tar.xz AGEWRIGHT TEST...     (make gpu-kit calls it)
#
# The kit travels with a copy of the tree, and both together stay below 60 MB: a larger one is not left there.
set -eu
most=60000000
kit=$1
shift
folder=$(mktemp -d)
trap 'rm -rf "$folder" "$kit.part"' EXIT
mkdir -p "$folder/bin" "$folder/lib"

for program; do
    strip -o "$folder/bin/${program##*/}" "$program"
done
# what every C and C++ program of the other machine has must be its own
ldd "$@" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
    grep -vE '/(libc|libm|libmvec|libdl|librt|libpthread|libresolv|libgcc_s|libstdc\+\+)\.so' |
    while read -r library; do
        cp -L "$library" "$folder/lib/"
    done
git -C "$(dirname "$0")/.." describe --always --dirty >"$folder/commit" 2>/dev/null || echo unknown >"$folder/commit"
# the programs hold nearly the same: one stream, with a window over several of them
tar -C "$folder" -cf - commit bin lib | xz --threads=1 --lzma2=preset=1,dict=192MiB >"$kit.part"

size=$(wc -c <"$kit.part")
tree=$(git -C "$(dirname "$0")/.." archive HEAD 2>/dev/null | wc -c)
[ $((size + tree)) -lt $most ] || {
    echo "$kit: $size bytes, and $tree of the tree: wanted less than $most together" >&2
    exit 1
}
mv "$kit.part" "$kit"
# the newest version of a runtime's functions that any of them asks for
wants() { objdump -T "$folder"/bin/* "$folder"/lib/* | grep -o "$1_[0-9.]*" | sort -Vu | tail -n 1; }
echo "$kit: $(ls "$folder/bin" | wc -l) programs, $(ls "$folder/lib" | wc -l) libraries, $size bytes" \
    "($tree of the tree); wants $(wants GLIBC), $(wants GLIBCXX)"

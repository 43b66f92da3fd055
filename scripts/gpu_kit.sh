#!/bin/sh
# Pack what scripts/gpu_check.sh wants on a machine that has a GPU, the CUDA toolkit and none of our libraries:
# the program, the tests, and every library they are linked with but the C and C++ runtimes.
#
# usage: scripts/gpu_kit.sh KIT.tar.xz AGEWRIGHT TEST...     (make gpu-kit calls it)
set -eu
kit=$1
shift
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/bin" "$folder/lib"

for program; do
    strip -o "$folder/bin/${program##*/}" "$program"
done
# what every C and C++ program of the other machine has must be its own
ldd "$@" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|libgcc_s|libstdc\+\+)\.so' |
    while read -r library; do
        cp -L "$library" "$folder/lib/"
    done
# the programs hold nearly the same: one stream, with a window over several of them
tar -C "$folder" -cf - bin lib | xz --threads=1 --lzma2=preset=1,dict=192MiB >"$kit.part"
mv "$kit.part" "$kit"
echo "$kit: $(ls "$folder/bin" | wc -l) programs, $(ls "$folder/lib" | wc -l) libraries, $(du -m "$kit" | cut -f1) MB"

#!/bin/sh
# Every public header is complete by itself, as C11 and as C++17, without a warning.
#
# usage: tests/headers.sh AGEWRIGHT (not used); run where the sources are
set -u
packages="jansson"
flags="-I. -Wall -Wextra -Werror -fsyntax-only $(pkg-config --cflags $packages)"
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
failed=0

headers=$(find autograd nn optim data pipeline edit train -name '*.h' ! -name '*internal*' \
    ! -name '*.inc.h' ! -path 'autograd/cpu/vector.h' | sort)
# One file a header; all of them to one compiler each, which is the fast way. -Wstrict-prototypes
# is a matter of C.
for header in $headers; do
    name=$folder/$(echo "$header" | tr / -)
    printf '#include "%s"\ntypedef int complete;\n' "$header" | tee "$name.c" >"$name.cc"
done
${CC:-cc} -std=c11 -pedantic -Wstrict-prototypes $flags "$folder"/*.c || failed=1
if command -v "${CXX:-c++}" >/dev/null; then
    ${CXX:-c++} -std=c++17 $flags "$folder"/*.cc || failed=1
else
    echo "SKIP headers as C++17: there is no C++ compiler"
fi
echo "$(echo "$headers" | wc -l) headers"
exit $failed

#!/bin/sh
# Print the pkg-config file of the installed library.
#
# usage: scripts/pkgconfig.sh PREFIX VERSION "REQUIRED PACKAGES" "CUDA LIBRARIES"
cat <<END
prefix=$1
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: agewright
Description: autograd, networks and training of face ageing models in C
Version: $2
Requires.private: $3
Cflags: -I\${includedir}/agewright
Libs: -L\${libdir} -lagewright -ldnnl -fopenmp -lm $4
END

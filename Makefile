# make             build build/agewright and say what was found here
# make demo        the main job from nothing: draw faces, specialise the shipped model, show pictures
# make test        build and run every test
# make help        list the targets
#
# MODE=debug or MODE=asan builds into a folder of its own, for any target: make test MODE=asan
# A fresh machine needs nothing beforehand: demo and test install what is missing.

MODE   ?= release
BUILD  ?= build
PREFIX ?= /usr/local
OUT    := $(BUILD)/$(MODE)

# No -ffast-math: it deletes isnan(), and a training run must see its NaNs.
OPT_release := -O3
OPT_debug   := -O0 -g
OPT_asan    := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
OPT         := $(OPT_$(MODE))
ifeq ($(OPT),)
$(error MODE is release, debug or asan, not "$(MODE)")
endif

CC         ?= gcc
PKG_CONFIG ?= pkg-config
PACKAGES   := hdf5 libpng libjpeg libwebp libtiff-4 yaml-0.1 jansson libutf8proc libcrypto lapacke

CFLAGS   ?= -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes
CPPFLAGS += -I. -MMD -MP -D_GNU_SOURCE $(shell $(PKG_CONFIG) --cflags $(PACKAGES) 2>/dev/null)
LDLIBS   += -ldnnl $(shell $(PKG_CONFIG) --libs $(PACKAGES) 2>/dev/null) -lm
OMP      := -fopenmp

# Optional parts: empty means absent. Setting one on the command line wins over detection.
NVCC     ?= $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
MPICC    ?= $(shell command -v mpicc 2>/dev/null)
CLANG    ?= $(shell command -v clang 2>/dev/null)

LIB_SRC := $(sort $(wildcard autograd/*.c autograd/ops/*.c autograd/cpu/*.c nn/*.c optim/*.c data/*.c \
             pipeline/*.c edit/*.c train/*.c))
# The CUDA back end, or what stands in its place. cudart is linked statically and looks for the driver when
# a device is asked for, so a program with CUDA runs on machines without.
CUDA_SRC := $(sort $(filter-out autograd/cuda/%absent.c,$(wildcard autograd/cuda/*.c autograd/cuda/*.cu)))
ifneq ($(NVCC),)
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
CUDA_ARCH ?= -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a \
             -gencode arch=compute_90,code=compute_90
# cuDNN comes apart from the toolkit: its headers are wanted here, the library where the program runs.
CUDNN    ?= $(firstword $(wildcard $(CUDA_HOME)/include/cudnn_graph.h /usr/include/cudnn_graph.h \
              /usr/include/*/cudnn_graph.h /usr/local/include/cudnn_graph.h))
LIB_SRC += $(if $(CUDNN),$(CUDA_SRC),$(filter-out autograd/cuda/dnn%,$(CUDA_SRC)) autograd/cuda/dnn_absent.c)
CUDA_LIBS := -L$(CUDA_HOME)/lib64 -lcudart_static -ldl -lrt -lpthread
else
LIB_SRC += autograd/cuda/absent.c
endif
CLI_SRC := $(sort $(wildcard cli/*.c))
LIB_OBJ := $(LIB_SRC:%=$(OUT)/%.o)
CLI_OBJ := $(CLI_SRC:%=$(OUT)/%.o)
TESTS   := $(patsubst tests/%.c,$(OUT)/tests/%,$(sort $(wildcard tests/test_*.c)))
# What several tests share; the program's own files without its main().
TEST_OBJ := $(patsubst %,$(OUT)/%.o,tests/check.c) $(filter-out $(OUT)/cli/main.c.o,$(CLI_OBJ))
# The same back end over the stand-ins of tests/cuda_host/, for machines without a GPU.
HOST     := $(OUT)/cuda-host
HOST_OBJ := $(patsubst %,$(HOST)/%.o,$(filter-out autograd/cuda/library.c,$(CUDA_SRC))) $(patsubst %,$(HOST)/%.o,$(sort $(wildcard tests/cuda_host/*.cc)))
FUZZERS := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
# What `make test DEVICE=cuda` runs: on the GPU where there is one, else on the stand-ins.
CUDA_TEST_NAMES := test_ops test_ops_state test_gpu test_tape test_cuda_capture test_replay test_r1 \
  test_optimizer test_optimizer_rules test_nn_clip test_nn_params test_nn_vae test_nn_expected test_nn_unet test_train_state \
  test_lora_training test_train_replay test_device_errors test_plan test_specialize test_personalize
ifneq ($(wildcard /dev/nvidia0),)
CUDA_TESTS := $(CUDA_TEST_NAMES:%=$(OUT)/tests/%)
CUDA_PROGRAM := $(BUILD)/agewright
else
CUDA_TESTS := $(CUDA_TEST_NAMES:%=$(HOST)/tests/%) $(HOST)/tests/cuda_host/test_cudnn
# Once more without a library each, for what runs in its place.
CUDA_WITHOUT := $(patsubst %,CUDA_HOST_WITHOUT=%:$(HOST)/tests/test_ops,libcudnn libcublasLt)
CUDA_PROGRAM := $(BUILD)/agewright-cuda-host
endif
FUZZ_RUNS ?= 1000000

.DEFAULT_GOAL := all
.PHONY: all setup found help demo test bench cuda-host gpu-kit fuzz install clean
.SECONDARY:

all: $(BUILD)/agewright found ## build the program

setup: ## install what is missing (Debian packages)
	@scripts/install_dependencies.sh

found: ## say what was found on this machine
	@echo "mode $(MODE)   compiler $(CC)   nvcc $(or $(NVCC),none)   cudnn $(or $(CUDNN),none)   mpicc $(or $(MPICC),none)   clang $(or $(CLANG),none)"

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20
	@$(MAKE) -s found

# The mode of the last build stands under the plain name.
$(BUILD)/agewright: $(OUT)/agewright
	@ln -sf $(MODE)/agewright $@

$(OUT)/agewright: $(CLI_OBJ) $(OUT)/libagewright.a
	$(CC) $(OPT) $(OMP) $(LDFLAGS) $^ $(LDLIBS) $(CUDA_LIBS) -o $@

$(OUT)/libagewright.a: $(LIB_OBJ)
	@rm -f $@
	$(AR) rcs $@ $^

# Setup may install headers that the flags above look for, so the work is done by a second make.
demo: setup ## the main job from nothing, with pictures: build/demo
	@$(MAKE) all
	@scripts/demo.sh $(BUILD)/agewright $(BUILD)/demo

test: setup ## build and run every test; DEVICE=cuda: those of the CUDA back end
	@$(MAKE) run-tests$(DEVICE:%=-%)

.PHONY: run-tests run-tests-cpu run-tests-cuda
run-tests run-tests-cpu: $(TESTS) $(BUILD)/agewright
	@if [ -z "$(NVCC)" ]; then echo "SKIP compiling autograd/cuda/*.cu: there is no nvcc"; [ -z "$$AGEWRIGHT_CI" ]; fi
	@tests/run.sh $(BUILD)/agewright $(TESTS)

run-tests-cuda: $(CUDA_TESTS) $(CUDA_PROGRAM)
	@AG_TEST_DEVICE=cuda tests/run.sh $(CUDA_PROGRAM) $(CUDA_TESTS) $(CUDA_WITHOUT)

cuda-host: $(BUILD)/agewright-cuda-host ## the program with --device cuda on stand-ins, without a GPU

gpu-kit: $(BUILD)/gpu-kit.tar.xz ## pack program, tests and libraries for scripts/gpu_check.sh on a machine with a GPU

$(BUILD)/gpu-kit.tar.xz: $(BUILD)/agewright $(CUDA_TEST_NAMES:%=$(OUT)/tests/%)
	@[ -n "$(NVCC)" ] || { echo "the kit needs nvcc" >&2; exit 1; }
	@scripts/gpu_kit.sh $@ $(OUT)/agewright $(CUDA_TEST_NAMES:%=$(OUT)/tests/%)

bench: all ## measure the full-size model, beside PyTorch and OpenVINO where installed (ROWS=a,b@256,c@512x4,d/1)
	@scripts/bench.sh $(BUILD)/agewright $(BUILD)/bench.json "$(ROWS)"

fuzz: ## run every reader's fuzz target (FUZZ_RUNS inputs each; clang)
	@scripts/install_dependencies.sh --fuzz
	@$(MAKE) run-fuzz

.PHONY: run-fuzz
run-fuzz: $(FUZZERS)
	@set -e; for f in $(FUZZERS); do name=$${f##*/fuzz_}; echo "$$name"; mkdir -p $(BUILD)/fuzz/new/$$name; \
	  ASAN_OPTIONS=allocator_may_return_null=1 $$f -runs=$(FUZZ_RUNS) -rss_limit_mb=3000 -malloc_limit_mb=1100 \
	    -timeout=20 -print_final_stats=0 -verbosity=0 $(BUILD)/fuzz/new/$$name tests/fuzz/corpus/$$name; done

install: all ## install program, library, headers and pkg-config file below PREFIX
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include/agewright
	install -m 755 $(OUT)/agewright $(DESTDIR)$(PREFIX)/bin/agewright
	install -m 644 $(OUT)/libagewright.a $(DESTDIR)$(PREFIX)/lib/libagewright.a
	for h in $$(find autograd nn optim data pipeline edit train -name '*.h' -not -name '*internal*' \
	  -not -path 'autograd/cpu/*' -not -path 'autograd/cuda/*' -not -path 'autograd/ops/*'); do \
	  install -D -m 644 $$h $(DESTDIR)$(PREFIX)/include/agewright/$$h; done
	scripts/pkgconfig.sh "$(PREFIX)" "$$(sed -n 's/.*AG_VERSION "\(.*\)"/\1/p' autograd/version.h)" "$(PACKAGES)" \
	  "$(CUDA_LIBS)" > $(DESTDIR)$(PREFIX)/lib/pkgconfig/agewright.pc

clean: ## delete the build directory and nothing else
	rm -rf $(BUILD)

# Each CPU kernel file is built for its own instruction set and chosen at run time.
%_avx2.c.o:   ISA := -mavx2 -mfma -mf16c
%_avx512.c.o: ISA := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c
%_amx.c.o:    ISA := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mamx-tile -mamx-bf16 -mfma -mf16c

# A compiler cache in front of CC serves the others too.
CACHE := $(filter ccache sccache,$(CC))

$(OUT)/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(CACHE) $(NVCC) -std=c++17 -O3 -I. -MMD -MP $(CUDA_ARCH) \
	  -Xcompiler -fno-exceptions,-fno-threadsafe-statics -c $< -o $@

$(OUT)/autograd/cuda/%.c.o: CPPFLAGS += -isystem $(CUDA_HOME)/include

# A GPU fuses products and sums, and a call for each is slow.
HOST_FLAGS := -Itests/cuda_host/include -Itests/cuda_host -fno-strict-aliasing \
  $(shell grep -qw fma /proc/cpuinfo 2>/dev/null && echo -mfma)
HOST_CXX = $(CACHE) $(CXX) -std=c++17 $(OPT) $(OMP) $(HOST_FLAGS) $(CPPFLAGS) -Wall -Wextra -Wno-unknown-pragmas

$(HOST)/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(HOST_CXX) -x c++ -c $< -o $@

$(HOST)/%.cc.o: %.cc
	@mkdir -p $(@D)
	$(HOST_CXX) -c $< -o $@

$(HOST)/%.c.o: %.c
	@mkdir -p $(@D)
	$(CC) -std=gnu11 $(OPT) $(OMP) $(HOST_FLAGS) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

$(BUILD)/agewright-cuda-host: $(HOST)/agewright
	@ln -sf $(MODE)/cuda-host/agewright $@

$(HOST)/agewright: $(CLI_OBJ) $(HOST_OBJ) $(OUT)/libagewright.a
	$(CXX) $(OPT) $(OMP) $(LDFLAGS) $^ $(LDLIBS) -o $@

$(HOST)/tests/%: $(OUT)/tests/%.c.o $(TEST_OBJ) $(HOST_OBJ) $(OUT)/libagewright.a
	@mkdir -p $(@D)
	$(CXX) $(OPT) $(OMP) $(LDFLAGS) $^ $(LDLIBS) -lcmocka -o $@

$(OUT)/%.c.o: %.c
	@mkdir -p $(@D)
	$(CC) -std=gnu11 $(OPT) $(OMP) $(ISA) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

$(OUT)/tests/%: $(OUT)/tests/%.c.o $(TEST_OBJ) $(OUT)/libagewright.a
	$(CC) $(OPT) $(OMP) $(LDFLAGS) $^ $(LDLIBS) $(CUDA_LIBS) -lcmocka -o $@

FUZZ_FLAGS := -std=gnu11 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined
# The readers are built whole for each target: only instrumented code guides the fuzzer.
FUZZ_SRC := $(wildcard data/*.c) autograd/numbers.c autograd/random.c tests/fuzz/context.c
$(BUILD)/fuzz/%: tests/fuzz/%.c $(FUZZ_SRC)
	@mkdir -p $(@D)
	$(CLANG) $(FUZZ_FLAGS) -I. -D_GNU_SOURCE $(shell $(PKG_CONFIG) --cflags $(PACKAGES)) $< $(FUZZ_SRC) \
	  $(shell $(PKG_CONFIG) --libs $(PACKAGES)) -lm -o $@

-include $(shell find $(OUT) -name '*.d' 2>/dev/null)

# make             build build/agewright and say what was found here
# make help        list the targets
# make test        build and run every test; MODE=debug|asan for other builds

MODE  ?= release
BUILD ?= build
OUT   := $(BUILD)/$(MODE)

# No -ffast-math: it deletes isnan(), and a training run must see its NaNs.
OPT_release := -O3
OPT_debug   := -O0 -g
OPT_asan    := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
OPT         := $(OPT_$(MODE))
ifeq ($(OPT),)
$(error MODE is release, debug or asan, not "$(MODE)")
endif

PKG_CONFIG ?= pkg-config
PACKAGES   := hdf5 libpng libjpeg libwebp libtiff-4 yaml-0.1 jansson libzip libutf8proc libcrypto

CC       ?= gcc
CFLAGS   ?= -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes
CPPFLAGS += -I. -MMD -MP -D_GNU_SOURCE $(shell $(PKG_CONFIG) --cflags $(PACKAGES))
LDLIBS   += -ldnnl $(shell $(PKG_CONFIG) --libs $(PACKAGES)) -lm
OMP      := -fopenmp

LIB_SRC := $(sort $(wildcard autograd/*.c autograd/ops/*.c autograd/cpu/*.c nn/*.c optim/*.c data/*.c pipeline/*.c train/*.c edit/*.c))
CLI_SRC := $(sort $(wildcard cli/*.c))
LIB_OBJ := $(LIB_SRC:%=$(OUT)/%.o)
CLI_OBJ := $(CLI_SRC:%=$(OUT)/%.o)
TESTS   := $(patsubst tests/%.c,$(OUT)/tests/%,$(sort $(wildcard tests/test_*.c)))
HELPERS := $(patsubst %,$(OUT)/%.o,$(filter-out tests/test_%,$(wildcard tests/*.c)))

.DEFAULT_GOAL := all
.PHONY: all help test clean
.SECONDARY:

help: ## list the targets and what was found
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST))

all: $(BUILD)/agewright ## build the program

$(BUILD)/agewright: $(CLI_OBJ) $(OUT)/libagewright.a
	$(CC) $(OPT) $(OMP) $(LDFLAGS) $^ $(LDLIBS) -o $@

$(OUT)/libagewright.a: $(LIB_OBJ)
	@rm -f $@
	$(AR) rcs $@ $^

test: $(TESTS) ## build and run every test
	@passed=0; failed=0; for t in $(TESTS); do \
	  if $$t >$$t.log 2>&1; then echo "ok    $${t##*/}"; grep -h SKIP $$t.log; passed=$$((passed+1)); \
	  else echo "FAIL  $${t##*/}"; tail -n 40 $$t.log; failed=$$((failed+1)); fi; \
	done; echo "$$passed passed, $$failed failed"; [ $$failed = 0 ]

clean: ## delete the build directory and nothing else
	rm -rf $(BUILD)

# Each CPU kernel file is built for its own instruction set and chosen at run time.
$(OUT)/autograd/cpu/%_avx2.c.o:   ISA := -mavx2 -mfma -mf16c
$(OUT)/autograd/cpu/%_avx512.c.o: ISA := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c
$(OUT)/autograd/cpu/%_amx.c.o:    ISA := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mamx-tile -mamx-bf16 -mfma

$(OUT)/%.c.o: %.c
	@mkdir -p $(@D)
	$(CC) -std=gnu11 $(OPT) $(OMP) $(ISA) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

$(OUT)/tests/%: $(OUT)/tests/%.c.o $(HELPERS) $(OUT)/libagewright.a
	$(CC) $(OPT) $(OMP) $(LDFLAGS) $^ $(LDLIBS) -lcmocka -o $@

-include $(shell find $(OUT) -name '*.d' 2>/dev/null)

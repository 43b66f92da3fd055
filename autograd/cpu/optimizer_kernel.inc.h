/* optimizer_kernel.inc.h - one optimizer step over a piece, compiled once per instruction set. */
#include "autograd/cpu/optimizer_internal.h"
#include "autograd/cpu/vector.h"

static void adamw(float *p, float *m, float *v, const float *g, int64_t n,
                  const cpu_adamw_factors *f)
{
    const bool near_end = f->rest1 >= 0.5f; /* lerp from the other end, as PyTorch */
    const vec scale = vec_set(f->grad_scale), decay = vec_set(f->decay), eps = vec_set(f->eps);
    const vec beta1 = vec_set(f->beta1), rest1 = vec_set(f->rest1), beta2 = vec_set(f->beta2);
    const vec rest2 = vec_set(f->rest2), over_root2 = vec_set(f->over_root2);
    const vec step = vec_set(f->step);

    for (int64_t i = 0; i < n; i += VEC_N) {
        const int64_t left = n - i;
        const bool whole = left >= VEC_N;
        const vec gi = vec_mul(scale, whole ? vec_load(g + i) : vec_load_n(g + i, left));
        const vec m0 = whole ? vec_load(m + i) : vec_load_n(m + i, left);
        const vec v0 = whole ? vec_load(v + i) : vec_load_n(v + i, left);
        const vec p0 = whole ? vec_load(p + i) : vec_load_n(p + i, left);
        const vec to_g = vec_sub(gi, m0);
        const vec mi = near_end ? vec_fnma(beta1, to_g, gi) : vec_fma(rest1, to_g, m0);
        const vec vi = vec_fma(vec_mul(rest2, gi), gi, vec_mul(beta2, v0));
        const vec below = vec_fma(vec_sqrt(vi), over_root2, eps);
        const vec pi = vec_fnma(step, vec_div(mi, below), vec_mul(decay, p0));

        if (whole) {
            vec_store(m + i, mi);
            vec_store(v + i, vi);
            vec_store(p + i, pi);
        } else {
            vec_store_n(m + i, mi, left);
            vec_store_n(v + i, vi, left);
            vec_store_n(p + i, pi, left);
        }
    }
}

const cpu_optimizer_kernels VEC_NAME(cpu_optimizer) = {
    .adamw = adamw,
};

/* SPDX-License-Identifier: MIT */
#include "cpu/phys.h"

#include "cpu/engine.h"
#include "mem/mem.h"

static bool phys_read(void *arg, gpa_t gpa, void *buf, unsigned len)
{
    const struct vcpu *v = arg;
    hva_t h;

    if ((gpa & ~PAGE_MASK) + len > PAGE_SIZE || !(h = mem_frame_get(v->mem, gpa & PAGE_MASK)))
        return false;
    h += gpa & ~PAGE_MASK;
    if (len == 8 && !(gpa & 7)) {
        *(uint64_t *)buf = __atomic_load_n((const uint64_t *)h, __ATOMIC_RELAXED);
    } else if (len == 4 && !(gpa & 3)) {
        *(uint32_t *)buf = __atomic_load_n((const uint32_t *)h, __ATOMIC_RELAXED);
    } else {
        for (unsigned k = 0; k < len; k++)
            ((uint8_t *)buf)[k] = ((const uint8_t *)h)[k];
    }
    return true;
}

static bool phys_set_bits(void *arg, gpa_t gpa, unsigned len, uint64_t old, uint64_t bits)
{
    const struct vcpu *v = arg;
    hva_t h = mem_frame_get(v->mem, gpa & PAGE_MASK);
    bool done;

    if (!h)
        return false;
    h += gpa & ~PAGE_MASK;
    if (len == 8) {
        done = __atomic_compare_exchange_n((uint64_t *)h, &old, old | bits, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    } else {
        uint32_t old32 = (uint32_t)old;
        done = __atomic_compare_exchange_n((uint32_t *)h, &old32, old32 | (uint32_t)bits, false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_SEQ_CST);
    }
    if (done && *mem_frame_flags(v->mem, gpa))
        mem_code_written(v->mem, gpa, len);
    return done;
}

struct x86_phys vcpu_phys(struct vcpu *v)
{
    return (struct x86_phys){
        .read = phys_read, .set_bits = phys_set_bits, .arg = v, .phys_bits = (uint8_t)v->model->phys_bits
    };
}

/* How a thread rounds and whether it flushes subnormals to zero. */
#ifndef FASTOPT_FLOAT_MODE_H
#define FASTOPT_FLOAT_MODE_H

#if defined(__x86_64__)

typedef unsigned float_mode;

static inline void get_float_mode(float_mode *mode) { *mode = __builtin_ia32_stmxcsr(); }
static inline void set_float_mode(const float_mode *mode) { __builtin_ia32_ldmxcsr(*mode); }
static inline void set_default_float_mode(void) { __builtin_ia32_ldmxcsr(0x1f80); }

#elif defined(__aarch64__)

typedef unsigned long float_mode;

static inline void get_float_mode(float_mode *mode) { __asm__ volatile("mrs %0, fpcr" : "=r"(*mode)); }
static inline void set_float_mode(const float_mode *mode) { __asm__ volatile("msr fpcr, %0" : : "r"(*mode)); }
static inline void set_default_float_mode(void) { __asm__ volatile("msr fpcr, xzr"); }

#else
#include <fenv.h>

typedef fenv_t float_mode;

static inline void get_float_mode(float_mode *mode) { fegetenv(mode); }
static inline void set_float_mode(const float_mode *mode) { fesetenv(mode); }
static inline void set_default_float_mode(void) { fesetenv(FE_DFL_ENV); }

#endif
#endif

// The inner loops for each instruction set, and which of them this processor runs.
#ifndef FEDJAX_KD_INSTRUCTION_SETS_H_
#define FEDJAX_KD_INSTRUCTION_SETS_H_

#include <atomic>

#include "geometry.h"

namespace fedjax_kd {

struct Kernels {
  Index lanes;
  std::vector<Index> (*bounds)(Index features);
  void (*pack)(const Correlation&, const float* kernel, float* packed);
  void (*correlate)(const Correlation&, const float* x, const float* packed, float* y, Index part,
                    Index parts);
  void (*sum_outer)(const Convolution&, const Frame&, const std::vector<Run>&, const float* x,
                    const float* d, Index d_step, Index width, float* sums);
  void (*sum_channels)(const Convolution&, const Frame&, const std::vector<Run>&, const float* x,
                       const float* d, float* sums);
};

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define FEDJAX_KD_X86 1

#define SET avx512
#define TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx2,fma")))
#define LANES 16
#define REGISTERS 32
#include "kernels.inc"

#define SET avx2
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define REGISTERS 16
#include "kernels.inc"
#endif

#define SET plain
#define TARGET
#define LANES 4
#if defined(__aarch64__)
#define REGISTERS 32
#else
#define REGISTERS 16
#endif
#include "kernels.inc"

enum InstructionSet { kPlain = 1, kAvx2 = 2, kAvx512 = 4, kNeon = 8 };

inline int available_sets() {
#if defined(FEDJAX_KD_X86)
  int sets = kPlain;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    sets |= kAvx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq")) {
      sets |= kAvx512;
    }
  }
  return sets;
#elif defined(__aarch64__)
  return kNeon;
#else
  return kPlain;
#endif
}

// The best set, or the one that was asked for; 0 if this processor does not have it.
inline int chosen_set(int wanted) {
  const int sets = available_sets();
  if (wanted) return sets & wanted;
  for (int set : {kAvx512, kAvx2, kNeon}) {
    if (sets & set) return set;
  }
  return kPlain;
}

inline std::atomic<int>& set_in_use() {
  static std::atomic<int> set{chosen_set(0)};
  return set;
}

inline const Kernels& kernels() {
#if defined(FEDJAX_KD_X86)
  switch (set_in_use().load(std::memory_order_relaxed)) {
    case kAvx512: return avx512::kKernels;
    case kAvx2: return avx2::kKernels;
  }
#endif
  return plain::kKernels;
}

}  // namespace fedjax_kd

#endif  // FEDJAX_KD_INSTRUCTION_SETS_H_

// Functions for the widest vectors of the processor that they find themselves on.
#pragma once

// Before a function whose loops over floats are hot: it is compiled for several generations of
// processors, and the one in hand is chosen when the program is loaded (GCC's target_clones).
// Sums of products are rounded once or twice depending on it. Instrumented programs (sanitizers)
// cannot choose so early and have one.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define ATTUNE_WIDEST_VECTORS \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ATTUNE_WIDEST_VECTORS
#endif

// The tile registers of a CPU with AMX: 8 of 16 rows of 64 bytes.

#pragma once

#if defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define QTTS_AMX
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

// Linux gives the registers to a process that asks for them.
static bool has_tiles() {
  constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
  static const bool given = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
  return given;
}

// Tiles of 16 rows of 64 bytes while it lives. Others (oneDNN) have shapes of their own.
class TileShapes {
 public:
  TileShapes() {
    struct __attribute__((packed)) { uint8_t palette = 1, start = 0, none[14] = {}; uint16_t bytes[16] = {}; uint8_t rows[16] = {}; } shapes;
    for (int i = 0; i < 8; i++) shapes.bytes[i] = 64, shapes.rows[i] = 16;
    __asm__ volatile("" : : "r"(&shapes) : "memory");  // GCC 12 believes that only some bytes of it are read
    _tile_loadconfig(&shapes);
  }
  ~TileShapes() { _tile_release(); }
};
#else
static inline bool has_tiles() { return false; }
#endif

// What the fuzz targets share.
#pragma once
#include <stdio.h>
#include <stdlib.h>

// Ends the process at a difference, so that the fuzzer keeps the input.
#define EXPECT(condition)                                                       \
  do {                                                                          \
    if (!(condition)) {                                                         \
      fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #condition);  \
      abort();                                                                  \
    }                                                                           \
  } while (0)

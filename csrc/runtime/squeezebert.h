/* SqueezeBERT and BERT models on the CPU, for C and C++: no Python, no PyTorch. */
#ifndef SQUEEZEBERT_H
#define SQUEEZEBERT_H

#ifdef __cplusplus
extern "C" {
#endif

/* What a call returns. Numbers are part of the interface: they don't change, and new ones come at the end. */
typedef enum squeezebert_status {
  SQUEEZEBERT_OK = 0,
  SQUEEZEBERT_INVALID_ARGUMENT = 1, /* a null pointer, a count below zero: the caller's mistake */
  SQUEEZEBERT_NOT_FOUND = 2,        /* a file or folder is missing or can't be read */
  SQUEEZEBERT_BAD_FILE = 3,         /* a file isn't what it should be: cut short, inconsistent, not JSON */
  SQUEEZEBERT_UNSUPPORTED = 4,      /* a sound model or request that this library doesn't serve */
  SQUEEZEBERT_BAD_TEXT = 5,         /* text that isn't UTF-8, holds a NUL, is too long, or lacks its mask */
  SQUEEZEBERT_NO_MEMORY = 6,
  SQUEEZEBERT_INTERNAL = 7 /* a fault of this library */
} squeezebert_status;

#ifdef __cplusplus
}
#endif

#endif

/* A plugin for qemu's user mode: how often each stretch of code ran. Written against the API's version 1 (qemu 4.2 to
 * 8), and declares what it uses of it, so that no header of qemu's is needed.
 *
 *     qemu-aarch64 -plugin ./count_blocks.so,out=FILE program
 *
 * FILE gets a line for each block that was translated: the addresses of its first and last instruction, in hexadecimal,
 * and how often it ran.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { QEMU_PLUGIN_INLINE_ADD_U64 };
typedef void (*translated_t)(qemu_plugin_id_t, struct qemu_plugin_tb*);
typedef void (*ended_t)(qemu_plugin_id_t, void*);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_t);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb*, int, void*, uint64_t);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, ended_t, void*);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn*);

#define EXPORTED __attribute__((visibility("default")))
EXPORTED int qemu_plugin_version = 1;

typedef struct Block {
  uint64_t first, last, runs;
  struct Block* before; /* the block that was found before this one */
} Block;
static Block* newest;
static char* path;

/* Code that is translated again is another Block of the same addresses: whoever reads FILE adds them up. */
static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb* tb) {
  (void)id;
  Block* block = calloc(1, sizeof *block);
  if (!block) abort();
  block->first = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, 0));
  block->last = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, qemu_plugin_tb_n_insns(tb) - 1));
  block->before = newest;
  newest = block;
  qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &block->runs, 1);
}

static void ended(qemu_plugin_id_t id, void* unused) {
  (void)id, (void)unused;
  FILE* file = fopen(path, "w");
  if (!file) {
    perror(path);
    return;
  }
  for (const Block* b = newest; b; b = b->before) {
    if (b->runs) fprintf(file, "%" PRIx64 " %" PRIx64 " %" PRIu64 "\n", b->first, b->last, b->runs);
  }
  fclose(file);
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const void* info, int count, char** words) {
  (void)info;
  for (int i = 0; i < count; i++) {
    if (strncmp(words[i], "out=", 4) == 0) path = strdup(words[i] + 4);
  }
  if (!path) return -1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, ended, NULL);
  return 0;
}

// One forward of an encoder, for the files that make it up.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "../thread_team.h"
#include "../workspace.h"
#include "encoder.h"

namespace squeezebert {

// Everything one call needs; members are filled by the calling thread, and only read by the others but for the buffers.
struct Encoder::Run {
  const Encoder& encoder;
  const EncoderInput& input;
  const PrecisionKernels& kernels;
  int threads;
  int64_t channels;

  // A sequence's rows among the part's compact ones, and the keys its rows attend to.
  struct Sequence {
    int64_t index, row, rows;
    const int32_t* tokens;  // which token each row is; null: all in order
    const int32_t* keys;    // null: all
    int64_t key_count;
    const float* mask;  // its first head's first query's, or null
  };
  std::vector<Sequence> sequences;
  std::vector<int32_t> kept;  // tokens that the mask keeps, sequence by sequence

  struct Part {
    std::size_t first, end;  // sequences
    int64_t rows;
  };
  std::vector<Part> parts;

  // Buffers for the rows of the largest part.
  float *x, *context, *y, *hidden = nullptr;  // context: rounded where the kernels write it so
  Operands x_operands{}, y_operands{};
  std::vector<char*> scratch;
  std::unique_ptr<Workspace> workspace;
  std::unique_ptr<std::atomic<int>[]> done;  // tasks of each block of rows, in the pass that runs
  Times* times;

  Run(const Encoder& e, const EncoderInput& i, int most_threads, Times* t)
      : encoder(e),
        input(i),
        kernels(e.segments_.precision_kernels()),
        threads(most_threads),
        channels(e.layers_.front().channels),
        times(t) {}

  // mask.cpp
  void read_masks();
  void read_mask(int64_t sequence);

  // scratch.cpp
  void allocate();
  int64_t hidden_rows(const Layer& layer) const;
  Operands operands_of(const Operands& made, float* rows, int64_t scales) const;
  int64_t operand_memory(int64_t rows, int64_t width, int64_t scales) const;
  Operands operands_in(char* memory, int64_t rows, int64_t width, int64_t scales) const;

  // passes.cpp: every thread calls each
  void load_rows(const Part& part, Team& team, int id);
  void attention(const Layer& layer, const Part& part, Team& team, int id);
  void post_attention(const Layer& layer, const Part& part, Team& team, int id);
  void feed_forward(const Layer& layer, const Layer* next, const Part& part, Team& team, int id);
  void feed_forward_by_groups(const Layer& layer, const Layer* next, const Part& part, Team& team, int id,
                              const AddLayerNorm& norm);
  void feed_forward_by_columns(const Layer& layer, const Part& part, Team& team, int id, const AddLayerNorm& norm);
  void store_rows(const Part& part, float* target, Team& team, int id);
  const Segment* head_segment(const Layer& layer, int64_t head) const;
  const Segment* post_attention_segment(const Layer& layer, int64_t piece) const;
  const Segment* feed_forward_segment(const Layer& layer, int64_t group) const;
  int64_t row_blocks(int64_t rows, int64_t pieces) const;
  Rows rows_of_block(int64_t rows, int64_t block, int64_t blocks) const;
  void finish_task(int64_t block, int64_t tasks, const AddLayerNorm& norm, Rows rows);

  // run.cpp
  void take_short_from(Run& other);
  void run();
  void split();
  void member(Team& team, int id);
};

}  // namespace squeezebert

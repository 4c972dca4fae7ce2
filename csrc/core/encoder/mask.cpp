// What the mask says of each sequence: which of its tokens are rows, and which keys these attend to.
#include <cmath>
#include <limits>

#include "run.h"

namespace squeezebert {
namespace {

bool is_lowest(float v) { return v == std::numeric_limits<float>::lowest() || v == -INFINITY; }

}  // namespace

// Keys that a mask leaves out are dropped where the mask is the same for all queries and says only yes or no; anything
// else is added to the scores.
void Encoder::Run::read_mask(int64_t s) {
  Sequence sequence{s, 0, input.tokens, nullptr, nullptr, input.tokens, nullptr};
  if (input.mask) {
    const float* mask = input.mask + s * input.mask_sequence_stride;
    const auto offset = kept.size();
    bool plain = input.mask_head_stride == 0 && input.mask_query_stride == 0;
    for (int64_t k = 0; plain && k < input.tokens; ++k) {
      if (mask[k] == 0.0f) {
        kept.push_back(static_cast<int32_t>(k));
      } else {
        plain = is_lowest(mask[k]);
      }
    }
    const auto count = static_cast<int64_t>(kept.size() - offset);
    if (!plain || (count == 0 && !input.unpad)) {
      kept.resize(offset);
      sequence.mask = mask;
    } else if (input.unpad) {
      sequence.rows = sequence.key_count = count;
      if (count < input.tokens) sequence.tokens = kept.data() + offset;
    } else if (count < input.tokens) {
      sequence.keys = kept.data() + offset;
      sequence.key_count = count;
    }
  }
  if (sequence.rows > 0) sequences.push_back(sequence);
}

void Encoder::Run::read_masks() {
  if (input.mask) kept.reserve(static_cast<std::size_t>(input.batch * input.tokens));  // pointers into it are kept
  for (int64_t s = 0; s < input.batch; ++s) read_mask(s);
}

}  // namespace squeezebert

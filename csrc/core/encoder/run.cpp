#include "run.h"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace squeezebert {
namespace {

// A batch is run in parts of whole sequences, all layers of one part before the next: the activations of a part stay in
// the caches from pass to pass, and the scratch memory does not grow with the batch.
constexpr int64_t kPartTokensPerThread = 1024;
// Below this many multiply-adds of a layer a second thread costs more than it brings.
constexpr int64_t kSerialWork = 200'000;

}  // namespace

void Encoder::Run::split() {
  const int64_t most = kPartTokensPerThread * std::max(threads, 2);
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    if (parts.empty() || parts.back().rows + sequences[s].rows > most) parts.push_back({s, s, 0});
    sequences[s].row = parts.back().rows;
    parts.back().end = s + 1;
    parts.back().rows += sequences[s].rows;
  }
  int64_t largest = 0;
  for (const Part& part : parts) largest = std::max(largest, part.rows);
  const Layer& layer = encoder.layers_.front();
  if (largest * layer.channels * layer.channels < kSerialWork) threads = 1;
}

void Encoder::Run::member(Team& team, int id) {
  using Clock = std::chrono::steady_clock;
  auto before = Clock::now();
  const auto lap = [&](double Times::* pass) {
    if (!times || id != 0) return;
    const auto now = Clock::now();
    times->*pass += std::chrono::duration<double>(now - before).count();
    before = now;
  };
  for (const Part& part : parts) {
    load_rows(part, team, id);
    before = Clock::now();
    for (std::size_t l = 0; l < encoder.layers_.size(); ++l) {
      const Layer& layer = encoder.layers_[l];
      attention(layer, part, team, id);
      lap(&Times::attention);
      post_attention(layer, part, team, id);
      lap(&Times::post_attention);
      feed_forward(layer, l + 1 < encoder.layers_.size() ? &encoder.layers_[l + 1] : nullptr, part, team, id);
      lap(&Times::feed_forward);
      if (input.states) store_rows(part, input.states[l], team, id);
    }
    store_rows(part, input.y, team, id);
  }
}

void Encoder::run(const EncoderInput& input, int threads, Times* times) const {
  if (input.batch * input.tokens == 0) return;  // y may be null
  const int64_t channels = layers_.front().channels;
  const auto size = static_cast<std::size_t>(input.batch * input.tokens * channels) * sizeof(float);
  Run run(*this, input, std::max(threads, 1), times);
  run.read_masks();
  if (static_cast<int64_t>(run.sequences.size()) < input.batch) {  // some have no token: their rows are zero
    std::memset(input.y, 0, size);
    for (std::size_t l = 0; input.states && l < layers_.size(); ++l) std::memset(input.states[l], 0, size);
  }
  if (for_short_) {
    Run of_short(*for_short_, input, run.threads, times);
    of_short.take_short_from(run);
    of_short.run();
  }
  run.run();
}

// The other one still holds the tokens that they point to.
void Encoder::Run::take_short_from(Run& other) {
  const auto is_long = [](const Sequence& sequence) { return sequence.key_count >= kLongSequence; };
  const auto first = std::stable_partition(other.sequences.begin(), other.sequences.end(), is_long);
  sequences.assign(first, other.sequences.end());
  other.sequences.erase(first, other.sequences.end());
}

void Encoder::Run::run() {
  if (sequences.empty()) return;
  split();
  allocate();
  run_team(threads, [&](Team& team, int id) { member(team, id); });
}

}  // namespace squeezebert

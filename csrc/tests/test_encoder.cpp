#include <thread>

#include "plain_encoder.h"
#include "third_party/doctest.h"

using namespace squeezebert;
using namespace squeezebert::test;

namespace {

constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr float kInfinite = -std::numeric_limits<float>::infinity();

// Heads of 16, groups of which none lines up with another's; of 6, lined up as in the base model; of 20 and 80, in one
// group; of 64, with hidden groups wider than a chunk; of 15, where every depth is odd.
const EncoderShape kMisaligned{96, 6, 240, {4, 2, 8, 3, 6, 4}, Activation::gelu, 2, {2, 4, 3}};
const EncoderShape kAligned{48, 8, 88, {4, 4, 4, 1, 4, 4}, Activation::gelu_tanh, 2};
const EncoderShape kOneGroup{60, 3, 100, {1, 1, 1, 1, 1, 1}, Activation::silu, 2, {3, 1, 5}};
const EncoderShape kWide{256, 4, 1024, {4, 4, 4, 1, 4, 4}};
const EncoderShape kDeep{400, 5, 411, {1, 1, 1, 2, 1, 1}, Activation::relu};
const EncoderShape kOdd{45, 3, 63, {3, 3, 3, 1, 3, 3}, Activation::none, 2, {5, 3, 3}};
const EncoderShape kLongHeads{160, 2, 400, {2, 2, 2, 2, 2, 2}};

struct Case {
  const EncoderShape* shape;
  int64_t batch, tokens;
};

std::vector<Case> cases() {
  return sampled(std::vector<Case>{{&kMisaligned, 2, 17},
                                   {&kMisaligned, 1, 130},
                                   {&kMisaligned, 3, 1},
                                   {&kAligned, 1, 1},
                                   {&kAligned, 3, 49},
                                   {&kAligned, 1, 600},
                                   {&kOneGroup, 1, 2},
                                   {&kOneGroup, 2, 7},
                                   {&kOneGroup, 1, 130},
                                   {&kOdd, 2, 17},
                                   {&kOdd, 1, 49},
                                   {&kWide, 1, 7},
                                   {&kWide, 2, 49},
                                   {&kDeep, 1, 49},
                                   {&kLongHeads, 1, 17},
                                   {&kLongHeads, 2, 130}});
}

enum class Kind { none, right, left, holes, all, general };
constexpr Kind kKinds[] = {Kind::none, Kind::right, Kind::left, Kind::holes, Kind::all, Kind::general};

// Whether a padding mask of this kind keeps a token; sequences differ in how many.
bool keeps(Kind kind, int64_t sequence, int64_t tokens, int64_t token) {
  const int64_t padding = (tokens - 1) * (sequence + 1) / (sequence + 3);
  switch (kind) {
    case Kind::right:
      return token < tokens - padding;
    case Kind::left:
      return token >= padding;
    case Kind::holes:
      return token % 3 != sequence % 2 + 1;
    case Kind::all:
      return sequence != 0;
    default:
      return true;
  }
}

EncoderMask mask_of(Kind kind, int64_t batch, int64_t heads, int64_t tokens) {
  EncoderMask mask;
  if (kind == Kind::none) return mask;
  if (kind == Kind::general) {  // [batch, heads, queries, keys]; some keys are out, for all or some queries
    mask = {random_floats(batch * heads * tokens * tokens, 9), heads * tokens * tokens, tokens * tokens, tokens};
    for (std::size_t i = 0; i < mask.values.size(); ++i) {
      mask.values[i] = i % 7 == 3 ? kLowest : i % 11 == 5 ? kInfinite : 5 * mask.values[i];
    }
    return mask;
  }
  mask.sequence_stride = tokens;
  for (int64_t s = 0; s < batch; ++s) {
    for (int64_t t = 0; t < tokens; ++t) mask.values.push_back(keeps(kind, s, tokens, t) ? 0.0f : kLowest);
  }
  return mask;
}

struct Result {
  std::vector<float> y;
  std::vector<std::vector<float>> states;
};

struct Call {
  const Encoder& encoder;
  int64_t channels;
  int layers;
  const std::vector<float>& x;
  int64_t batch, tokens;
  const EncoderMask& mask;
  bool unpad = false;

  Result operator()(int threads = 1) const {
    EncoderInput input{};
    input.x = x.data();
    input.batch = batch;
    input.tokens = tokens;
    input.sequence_stride = tokens * channels;
    input.row_stride = channels;
    input.mask = mask.values.empty() ? nullptr : mask.values.data();
    input.mask_sequence_stride = mask.sequence_stride;
    input.mask_head_stride = mask.head_stride;
    input.mask_query_stride = mask.query_stride;
    input.unpad = unpad;
    const float nan = std::numeric_limits<float>::quiet_NaN();
    Result result;
    result.y.assign(x.size(), nan);
    result.states.assign(static_cast<std::size_t>(layers), result.y);
    std::vector<float*> states;
    for (std::vector<float>& state : result.states) states.push_back(state.data());
    input.y = result.y.data();
    input.states = states.data();
    encoder.run(input, threads);
    return result;
  }
};

Call call(const Encoder& encoder, const PlainEncoder& plain, const std::vector<float>& x, int64_t batch, int64_t tokens,
          const EncoderMask& mask, bool unpad = false) {
  return {encoder, plain.shape().channels, plain.shape().layers, x, batch, tokens, mask, unpad};
}

bool same(const Result& a, const Result& b) {
  bool equal = same_bits(a.y.data(), b.y.data(), static_cast<int64_t>(a.y.size()));
  for (std::size_t l = 0; l < a.states.size(); ++l) {
    equal = equal && same_bits(a.states[l].data(), b.states[l].data(), static_cast<int64_t>(a.y.size()));
  }
  return equal;
}

}  // namespace

TEST_CASE("every layer of an encoder is as exact as plain float32 loops, whatever is masked") {
  int number = 0;
  for (const Case& c : cases()) {
    const PlainEncoder plain(*c.shape);
    const EncoderShape& shape = *c.shape;
    const std::vector<float> x = random_floats(c.batch * c.tokens * shape.channels, 5);
    const auto count = static_cast<int64_t>(x.size());
    std::vector<Kind> kinds = {kKinds[number % 6], kKinds[(number + 3) % 6]};
    ++number;
    if (c.tokens > 500) kinds.pop_back();
    for (Kind kind : kinds) {
      const EncoderMask mask = mask_of(kind, c.batch, shape.heads, c.tokens);
      const auto exact = plain.states<double>(x, c.batch, c.tokens, mask, Precision::float32);
      for (Precision precision : kAllPrecisions) {
        for (const KernelTable* kernels : tested_builds()) {
          const Precision scores = kernels_in(*kernels, precision).scores;
          const auto theirs = plain.states<float>(x, c.batch, c.tokens, mask, precision, scores);
          CAPTURE(name_of(*kernels));
          CAPTURE(name_of(precision));
          CAPTURE(shape.channels);
          CAPTURE(c.tokens);
          CAPTURE(static_cast<int>(kind));
          const Encoder encoder = plain.packed(*kernels, precision, 2);
          const Result ours = call(encoder, plain, x, c.batch, c.tokens, mask)(2);
          for (std::size_t l = 0; l < exact.size(); ++l) {
            CAPTURE(l);
            // By root mean square: the largest error is that of the one row whose norm enlarges it most.
            const double of_theirs = errors_of(exact[l], theirs[l], count).root_mean_square;
            const double of_ours = errors_of(exact[l], ours.states[l], count).root_mean_square;
            CHECK(of_ours <= 2 * of_theirs + few_ulp(exact[l]));
            // Both round operands to the same few bits, so they are nearer to each other than to the exact result.
            if (precision != Precision::float32 && l == 0) {
              CHECK(errors_of(theirs[l], ours.states[l], count).root_mean_square <=
                    0.5 * of_theirs + few_ulp(exact[l]));
            }
          }
          CHECK(same_bits(ours.y.data(), ours.states.back().data(), count));
        }
      }
    }
  }
}

// In int8 and bfloat16 too, and through every way a pass is split: 16 threads are more than one group's blocks of rows.
TEST_CASE("a forward has the same bits on any number of threads, also of calls at the same time") {
  for (const Case& c : sampled(std::vector<Case>{
           {&kOneGroup, 1, 60}, {&kMisaligned, 2, 49}, {&kOneGroup, 5, 17}, {&kOdd, 3, 130}, {&kWide, 1, 49}})) {
    const PlainEncoder plain(*c.shape);
    const std::vector<float> x = random_floats(c.batch * c.tokens * c.shape->channels, 5);
    const EncoderMask mask = mask_of(Kind::right, c.batch, c.shape->heads, c.tokens);
    for (const KernelTable* kernels : tested_builds()) {
      for (Precision precision : precisions_of(*kernels)) {
        CAPTURE(name_of(*kernels));
        CAPTURE(name_of(precision));
        CAPTURE(c.shape->channels);
        CAPTURE(c.tokens);
        const Encoder encoder = plain.packed(*kernels, precision, 3);
        const Call forward = call(encoder, plain, x, c.batch, c.tokens, mask);
        const Result once = forward();
        for (int threads : {0, 1, 2, 3, 5, 16}) {
          CAPTURE(threads);
          CHECK(same(forward(threads), once));
        }
        bool equal[3] = {};
        std::vector<std::thread> callers;
        for (int i = 0; i < 3; ++i) {
          callers.emplace_back([&, i] { equal[i] = same(forward(1 + i), once) && same(forward(3), once); });
        }
        for (std::thread& caller : callers) caller.join();
        CHECK((equal[0] && equal[1] && equal[2]));
      }
    }
  }
}

// Alone, in a batch, with padding on either side or in between, left out or computed: the tokens themselves are equal.
TEST_CASE("padding and the rest of a batch don't change a sequence's bits") {
  for (const EncoderShape* shape : sampled(std::vector<const EncoderShape*>{&kMisaligned, &kOneGroup, &kOdd})) {
    const PlainEncoder plain(*shape);
    const int64_t channels = shape->channels, batch = 3;
    for (int64_t tokens : sampled(std::vector<int64_t>{7, 60, 100})) {
      const std::vector<float> x = random_floats(batch * tokens * channels, 6);
      for (Kind kind : {Kind::none, Kind::right, Kind::left, Kind::holes, Kind::all}) {
        const EncoderMask mask = mask_of(kind, batch, shape->heads, tokens);
        for (const KernelTable* kernels : tested_builds()) {
          for (Precision precision : precisions_of(*kernels)) {
            CAPTURE(name_of(*kernels));
            CAPTURE(name_of(precision));
            CAPTURE(tokens);
            CAPTURE(static_cast<int>(kind));
            const Encoder encoder = plain.packed(*kernels, precision);
            const Result padded = call(encoder, plain, x, batch, tokens, mask)(2);
            const Result unpadded = call(encoder, plain, x, batch, tokens, mask, true)(2);
            for (int64_t s = 0; s < batch; ++s) {
              std::vector<float> kept;
              for (int64_t t = 0; t < tokens; ++t) {
                const float* row = x.data() + (s * tokens + t) * channels;
                if (keeps(kind, s, tokens, t)) kept.insert(kept.end(), row, row + channels);
              }
              const auto count = static_cast<int64_t>(kept.size()) / channels;
              const Result alone = call(encoder, plain, kept, 1, count, {})();
              int64_t differ = 0, not_zero = 0, next = 0;
              for (int64_t t = 0; t < tokens; ++t) {
                const int64_t at = (s * tokens + t) * channels;
                if (keeps(kind, s, tokens, t)) {
                  const int64_t from = next++ * channels;
                  differ += !same_bits(padded.y.data() + at, alone.y.data() + from, channels);
                  differ += !same_bits(unpadded.y.data() + at, alone.y.data() + from, channels);
                  differ += !same_bits(unpadded.states[0].data() + at, alone.states[0].data() + from, channels);
                } else {
                  for (int64_t i = at; i < at + channels; ++i) {
                    not_zero += unpadded.y[static_cast<std::size_t>(i)] != 0;
                    not_zero += unpadded.states[0][static_cast<std::size_t>(i)] != 0;
                  }
                }
              }
              CHECK(differ == 0);
              CHECK(not_zero == 0);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("a batch of more tokens than one part holds has the bits of its sequences") {
  const PlainEncoder plain({24, 2, 40, {2, 2, 2, 1, 2, 2}});
  const int64_t batch = 130, tokens = 17, sequence = tokens * 24;
  const std::vector<float> x = random_floats(batch * sequence, 7);
  for (const KernelTable* kernels : tested_builds()) {
    for (Precision precision : precisions_of(*kernels)) {
      CAPTURE(name_of(*kernels));
      CAPTURE(name_of(precision));
      const Encoder encoder = plain.packed(*kernels, precision);
      const Result whole = call(encoder, plain, x, batch, tokens, {})(2);
      for (int64_t s : {0, 60, 119, 120, 121, 129}) {
        const auto first = x.begin() + s * sequence;
        const std::vector<float> one(first, first + sequence);
        const Result alone = call(encoder, plain, one, 1, tokens, {})();
        CHECK(same_bits(whole.y.data() + s * sequence, alone.y.data(), sequence));
      }
    }
  }
}

TEST_CASE("rows and sequences of x may stand apart, and nothing around x and y is touched") {
  const PlainEncoder plain(kMisaligned);
  const int64_t channels = kMisaligned.channels, batch = 2, tokens = 17, row_stride = channels + 7;
  const int64_t sequence_stride = tokens * row_stride + 11;
  const std::vector<float> x = random_floats(batch * tokens * channels, 8);
  for (Edge edge : {Edge::begin, Edge::end}) {
    const GuardedFloats apart((batch - 1) * sequence_stride + (tokens - 1) * row_stride + channels, edge);
    for (int64_t s = 0; s < batch; ++s) {
      for (int64_t t = 0; t < tokens; ++t) {
        std::copy_n(x.data() + (s * tokens + t) * channels, channels,
                    apart.data() + s * sequence_stride + t * row_stride);
      }
    }
    for (const KernelTable* kernels : tested_builds()) {
      for (Precision precision : precisions_of(*kernels)) {
        CAPTURE(name_of(*kernels));
        CAPTURE(name_of(precision));
        const Encoder encoder = plain.packed(*kernels, precision);
        const GuardedFloats y(batch * tokens * channels, edge);
        EncoderInput input{};
        input.x = apart.data();
        input.batch = batch;
        input.tokens = tokens;
        input.sequence_stride = sequence_stride;
        input.row_stride = row_stride;
        input.y = y.data();
        encoder.run(input, 2);
        CHECK(same_bits(y.data(), call(encoder, plain, x, batch, tokens, {})().y.data(), y.size()));
        input.sequence_stride = 0;  // one sequence, several times
        encoder.run(input, 2);
        CHECK(same_bits(y.data(), y.data() + tokens * channels, tokens * channels));
      }
    }
  }
}

TEST_CASE("of a sequence that is masked everywhere, lowest gives even attention and -inf gives NaN") {
  const PlainEncoder plain(kAligned);
  const int64_t batch = 3, tokens = 17, sequence = tokens * kAligned.channels;
  const std::vector<float> x = random_floats(batch * sequence, 9);
  for (const KernelTable* kernels : tested_builds()) {
    for (Precision precision : precisions_of(*kernels)) {
      for (float lowered : {kLowest, kInfinite}) {
        CAPTURE(name_of(*kernels));
        CAPTURE(name_of(precision));
        CAPTURE(lowered);
        const Encoder encoder = plain.packed(*kernels, precision);
        EncoderMask mask{std::vector<float>(static_cast<std::size_t>(batch * tokens)), tokens};
        std::fill_n(mask.values.begin() + tokens, tokens, lowered);
        const Result ours = call(encoder, plain, x, batch, tokens, mask)(2);
        const Result without = call(encoder, plain, x, batch, tokens, {})(2);
        for (int64_t s : {0, 2}) {
          CHECK(same_bits(ours.y.data() + s * sequence, without.y.data() + s * sequence, sequence));
        }
        int64_t nans = 0;
        for (int64_t i = 0; i < sequence; ++i) nans += std::isnan(ours.y[static_cast<std::size_t>(sequence + i)]);
        CHECK(nans == (lowered == kInfinite ? sequence : 0));
        const Result unpadded = call(encoder, plain, x, batch, tokens, mask, true)(2);
        for (int64_t i = 0; i < sequence; ++i) CHECK(unpadded.y[static_cast<std::size_t>(sequence + i)] == 0);
      }
    }
  }
}

TEST_CASE("a NaN in one sequence reaches no other") {
  const PlainEncoder plain(kOdd);
  const int64_t batch = 3, tokens = 9, sequence = tokens * kOdd.channels;
  const std::vector<float> clean = random_floats(batch * sequence, 10);
  for (float special : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> x = clean;
    x[static_cast<std::size_t>(sequence)] = special;  // where an operand of the row before would read on
    for (const KernelTable* kernels : tested_builds()) {
      for (Precision precision : precisions_of(*kernels)) {
        CAPTURE(name_of(*kernels));
        CAPTURE(name_of(precision));
        const Encoder encoder = plain.packed(*kernels, precision);
        const Result ours = call(encoder, plain, x, batch, tokens, {})(2);
        const Result expected = call(encoder, plain, clean, batch, tokens, {})(2);
        for (int64_t s : {0, 2}) {
          CHECK(same_bits(ours.y.data() + s * sequence, expected.y.data() + s * sequence, sequence));
        }
        for (int64_t i = sequence; i < 2 * sequence; ++i) CHECK(std::isnan(ours.y[static_cast<std::size_t>(i)]));
      }
    }
  }
}

TEST_CASE("an empty batch, and one without tokens, is fine") {
  const PlainEncoder plain(kAligned);
  for (Precision precision : kAllPrecisions) {
    const Encoder encoder = plain.packed(*tested_builds().front(), precision);
    CHECK(call(encoder, plain, {}, 0, 7, {})(2).y.empty());
    CHECK(call(encoder, plain, {}, 3, 0, {})(2).y.empty());
  }
}

TEST_CASE("an encoder says what it is, and where its time goes") {
  const PlainEncoder plain(kWide);
  for (const KernelTable* kernels : tested_builds()) {
    int64_t bytes = 0;
    for (Precision precision : {Precision::int8, Precision::bfloat16, Precision::float32}) {
      CAPTURE(name_of(*kernels));
      CAPTURE(name_of(precision));
      const Encoder encoder = plain.packed(*kernels, precision);
      CHECK(&encoder.kernels() == kernels);
      CHECK(encoder.precision() == precision);
      CHECK(encoder.bytes() > bytes);
      bytes = encoder.bytes();
      const std::vector<float> x = random_floats(49 * kWide.channels, 1);
      std::vector<float> y(x.size());
      EncoderInput input{};
      input.x = x.data();
      input.batch = 1;
      input.tokens = 49;
      input.sequence_stride = 49 * kWide.channels;
      input.row_stride = kWide.channels;
      input.y = y.data();
      Encoder::Times times;
      encoder.run(input, 2, &times);
      CHECK(times.attention > 0);
      CHECK(times.post_attention > 0);
      CHECK(times.feed_forward > 0);
    }
  }
}

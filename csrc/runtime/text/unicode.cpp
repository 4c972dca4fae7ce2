#include "unicode.h"

#include <algorithm>
#include <array>
#include <iterator>

namespace squeezebert {
namespace {

struct CaseRun {  // capitals up to `last`, from the run before: each is so far from its lower case
  char32_t last;
  int32_t distance;
};

#include "unicode_tables.inc"

// Hangul syllables are numbered: a leading consonant, a vowel, perhaps a trailing consonant (Unicode 3.12).
constexpr char32_t kSyllables = 0xAC00, kLeading = 0x1100, kVowels = 0x1161, kBeforeTrailing = 0x11A7;
constexpr char32_t kSyllableCount = 11172, kTrailingCount = 28, kPerLeading = 21 * kTrailingCount;

constexpr char32_t kDottedI = 0x130, kDotAbove = 0x307;

template <size_t count>
uint8_t value_in_runs(const uint32_t (&runs)[count], char32_t code) {
  return static_cast<uint8_t>(*std::prev(std::upper_bound(runs, runs + count, code << 8 | 0xFF)));
}

constexpr std::array<uint8_t, 128> classes_of_ascii() {
  std::array<uint8_t, 128> classes{};
  size_t run = 0;
  for (uint32_t code = 0; code < classes.size(); ++code) {
    while (kClassRuns[run + 1] >> 8 <= code) ++run;
    classes[code] = static_cast<uint8_t>(kClassRuns[run]);
  }
  return classes;
}

constexpr std::array<uint8_t, 128> kAsciiClasses = classes_of_ascii();

}  // namespace

uint8_t character_classes(char32_t code) {
  return code < kAsciiClasses.size() ? kAsciiClasses[code] : value_in_runs(kClassRuns, code);
}

uint8_t combining_class(char32_t code) { return value_in_runs(kCombiningRuns, code); }

CodePoints decomposition(char32_t code) {
  if (code - kSyllables < kSyllableCount) {
    const char32_t syllable = code - kSyllables, trailing = syllable % kTrailingCount;
    return {kLeading + syllable / kPerLeading, kVowels + syllable % kPerLeading / kTrailingCount,
            kBeforeTrailing + trailing, trailing == 0 ? 2 : 3};
  }
  const char32_t* found = std::lower_bound(std::begin(kDecomposable), std::end(kDecomposable), code);
  const auto index = found - kDecomposable;
  const uint16_t begin = kPartsBegin[index];
  return CodePoints({kParts + begin, static_cast<size_t>(kPartsBegin[index + 1] - begin)});
}

CodePoints lower_case(char32_t code) {
  if (code == kDottedI) return {U'i', kDotAbove, 0, 2};
  const CaseRun* run = std::lower_bound(std::begin(kCaseRuns), std::end(kCaseRuns), code,
                                        [](const CaseRun& each, char32_t value) { return each.last < value; });
  return {static_cast<char32_t>(static_cast<int32_t>(code) + run->distance), 0, 0, 1};
}

}  // namespace squeezebert

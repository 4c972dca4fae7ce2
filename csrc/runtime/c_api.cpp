// The C API over Model: arguments are checked, exceptions become statuses.
#include <algorithm>
#include <cstring>
#include <new>
#include <optional>
#include <string>

#include "model.h"
#include "squeezebert.h"
#include "status.h"

using squeezebert::Candidate;
using squeezebert::Encoding;
using squeezebert::Error;
using squeezebert::Text;

struct squeezebert_model {
  squeezebert::Model model;
};

namespace {

thread_local std::string last_error;

squeezebert_status failed(squeezebert_status status, const char* message) {
  try {
    last_error = message;
  } catch (...) {  // no memory for the message either
    last_error.clear();
  }
  return status;
}

// Runs the body of a function of the API.
template <class Body>
squeezebert_status guarded(Body body) noexcept {
  try {
    body();
    return SQUEEZEBERT_OK;
  } catch (const Error& error) {
    return failed(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return failed(SQUEEZEBERT_NO_MEMORY, "there is not enough memory");
  } catch (const std::exception& error) {
    return failed(SQUEEZEBERT_INTERNAL, error.what());
  } catch (...) {
    return failed(SQUEEZEBERT_INTERNAL, "an unknown fault");
  }
}

void require(bool holds, const char* message) {
  if (!holds) throw Error(SQUEEZEBERT_INVALID_ARGUMENT, message);
}

std::string_view checked_text(const char* name, const char* text, size_t bytes) {
  if (!text) throw Error(SQUEEZEBERT_INVALID_ARGUMENT, std::string(name) + " is null");
  if (bytes > SQUEEZEBERT_MOST_TEXT_BYTES) {
    throw Error(SQUEEZEBERT_BAD_TEXT, std::string(name) + " has " + std::to_string(bytes) +
                                          " bytes, expected at most " + std::to_string(SQUEEZEBERT_MOST_TEXT_BYTES));
  }
  if (bytes > 0 && std::memchr(text, 0, bytes)) {
    throw Error(SQUEEZEBERT_BAD_TEXT, std::string(name) + " holds a NUL");
  }
  return {text, bytes};
}

// A text, and the second one where there is one.
class Texts {
 public:
  Texts(const char* text, size_t bytes, const char* second, size_t second_bytes)
      : first_(checked_text("text", text, bytes)) {
    if (second) second_ = checked_text("second", second, second_bytes);
  }
  Text get() const { return {first_, second_ ? &*second_ : nullptr}; }

 private:
  std::string_view first_;
  std::optional<std::string_view> second_;
};

}  // namespace

const char* squeezebert_version(void) { return SQUEEZEBERT_VERSION; }

const char* squeezebert_last_error(void) { return last_error.c_str(); }

squeezebert_status squeezebert_open(const char* folder, const char* precision, squeezebert_model** model) {
  return guarded([&] {
    require(folder && model, "folder or model is null");
    *model = new squeezebert_model{{folder, precision ? precision : ""}};
  });
}

void squeezebert_close(squeezebert_model* model) { delete model; }

squeezebert_status squeezebert_set_threads(squeezebert_model* model, int threads) {
  return guarded([&] {
    require(model, "model is null");
    require(threads >= 1, "threads is below 1");
    model->model.set_threads(threads);
  });
}

size_t squeezebert_label_count(const squeezebert_model* model) {
  return model ? model->model.config().labels.size() : 0;
}

const char* squeezebert_label(const squeezebert_model* model, size_t index) {
  return index < squeezebert_label_count(model) ? model->model.config().labels[index].c_str() : nullptr;
}

squeezebert_kind squeezebert_label_kind(const squeezebert_model* model) {
  return model ? model->model.config().kind : SQUEEZEBERT_NO_LABELS;
}

squeezebert_status squeezebert_classify(const squeezebert_model* model, const char* text, size_t bytes,
                                        const char* second, size_t second_bytes, float* logits, float* scores) {
  return guarded([&] {
    require(model, "model is null");
    const Texts texts(text, bytes, second, second_bytes);
    const std::vector<float> made = model->model.logits(texts.get());
    if (scores) {
      const std::vector<float> of_labels = model->model.scores(made);
      std::copy(of_labels.begin(), of_labels.end(), scores);
    }
    if (logits) std::copy(made.begin(), made.end(), logits);
  });
}

squeezebert_status squeezebert_fill_mask(const squeezebert_model* model, const char* text, size_t bytes, size_t top_k,
                                         squeezebert_candidate* candidates, size_t capacity, size_t* masks) {
  return guarded([&] {
    require(model && masks, "model or masks is null");
    const Encoding encoding = model->model.encode_whole(checked_text("text", text, bytes));
    const size_t count = model->model.masks(encoding).size();
    model->model.check_words(top_k);
    if (candidates) {
      require(top_k >= 1, "top_k is below 1");
      require(top_k <= capacity / count, "capacity is less than masks times top_k");
      for (const auto& of_mask : model->model.fill(encoding, top_k)) {
        for (const Candidate& c : of_mask) {
          const auto token = model->model.tokenizer().token(c.id).value_or(std::string_view());
          *candidates++ = {c.id, c.logit, c.score, token.data(), token.size()};
        }
      }
    }
    *masks = count;
  });
}

size_t squeezebert_embedding_size(const squeezebert_model* model) {
  return model ? static_cast<size_t>(model->model.config().channels) : 0;
}

squeezebert_status squeezebert_embed(const squeezebert_model* model, const char* text, size_t bytes, int normalize,
                                     float* vector) {
  return guarded([&] {
    require(model && vector, "model or vector is null");
    const std::vector<float> made = model->model.embedding(checked_text("text", text, bytes), normalize != 0);
    std::copy(made.begin(), made.end(), vector);
  });
}

squeezebert_status squeezebert_tokenize(const squeezebert_model* model, const char* text, size_t bytes,
                                        const char* second, size_t second_bytes, int64_t* ids, int64_t* token_types,
                                        size_t capacity, size_t* count) {
  return guarded([&] {
    require(model && count, "model or count is null");
    const Texts texts(text, bytes, second, second_bytes);
    const Encoding encoding = model->model.encode(texts.get());
    require(encoding.ids.size() <= capacity || (!ids && !token_types), "capacity is less than the number of ids");
    if (ids) std::copy(encoding.ids.begin(), encoding.ids.end(), ids);
    if (token_types) std::copy(encoding.token_types.begin(), encoding.token_types.end(), token_types);
    *count = encoding.ids.size();
  });
}

const char* squeezebert_token(const squeezebert_model* model, int64_t id, size_t* bytes) {
  const auto token = model ? model->model.tokenizer().token(id) : std::nullopt;
  if (bytes) *bytes = token ? token->size() : 0;
  return token ? token->data() : nullptr;
}

squeezebert_status squeezebert_hidden_states(const squeezebert_model* model, const int64_t* ids,
                                             const int64_t* token_types, size_t count, float* states) {
  return guarded([&] {
    require(model && ids && states, "model, ids or states is null");
    require(count <= static_cast<size_t>(model->model.config().positions), "there are more ids than the model takes");
    const std::vector<float> made = model->model.hidden_states(ids, token_types, static_cast<int64_t>(count));
    std::copy(made.begin(), made.end(), states);
  });
}

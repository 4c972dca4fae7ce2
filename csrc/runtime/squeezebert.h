/* SqueezeBERT and BERT models on the CPU, for C and C++: no Python, no PyTorch.
 *
 *   squeezebert_model* model;
 *   if (squeezebert_open("my-model", NULL, &model) != SQUEEZEBERT_OK) puts(squeezebert_last_error());
 *   float scores[2];
 *   squeezebert_classify(model, "A lovely film.", 14, NULL, 0, NULL, scores);
 *   squeezebert_close(model);
 *
 * A model is a folder with config.json, the tokenizer's files and model_int8.safetensors (Python's
 * squeezebert_fast.save_quantized) or model.safetensors (save_pretrained, of this package or of transformers).
 *
 * Threads: a model may be used by any number of threads at once, by every function but squeezebert_close.
 *
 * Texts are UTF-8 by their length in bytes, and needn't end in a NUL; they must not hold one. Texts longer than the
 * model takes are cut, except where a function says otherwise. `second` is the other text of a pair, or NULL.
 *
 * Every function that returns a status writes its results only when that is SQUEEZEBERT_OK, and otherwise leaves a
 * message for squeezebert_last_error. None lets a C++ exception out. */
#ifndef SQUEEZEBERT_H
#define SQUEEZEBERT_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define SQUEEZEBERT_API __attribute__((visibility("default")))
#else
#define SQUEEZEBERT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What a call returns. Numbers are part of the interface: they don't change, and new ones come at the end. */
typedef enum squeezebert_status {
  SQUEEZEBERT_OK = 0,
  SQUEEZEBERT_INVALID_ARGUMENT = 1, /* a null pointer, a buffer too small: the caller's mistake */
  SQUEEZEBERT_NOT_FOUND = 2,        /* a file or folder is missing or can't be read */
  SQUEEZEBERT_BAD_FILE = 3,         /* a file isn't what it should be: cut short, inconsistent, not JSON */
  SQUEEZEBERT_UNSUPPORTED = 4,      /* a sound model or request that this library doesn't serve */
  SQUEEZEBERT_BAD_TEXT = 5,         /* text that isn't UTF-8, holds a NUL, is too long, or lacks its mask */
  SQUEEZEBERT_NO_MEMORY = 6,
  SQUEEZEBERT_INTERNAL = 7 /* a fault of this library */
} squeezebert_status;

/* What a model's scores are, which its configuration says. The folder of a CrossEncoder (sentence-transformers) may
 * name another function than softmax or sigmoid, or one for a value: its scores are what that makes of them. */
typedef enum squeezebert_kind {
  SQUEEZEBERT_NO_LABELS = 0,    /* the model classifies nothing */
  SQUEEZEBERT_SINGLE_LABEL = 1, /* softmax: they sum to 1 */
  SQUEEZEBERT_MULTI_LABEL = 2,  /* a sigmoid for each label */
  SQUEEZEBERT_REGRESSION = 3    /* values, as they come out of the model */
} squeezebert_kind;

typedef struct squeezebert_model squeezebert_model;

/* One word that may stand where a mask is. */
typedef struct squeezebert_candidate {
  int64_t id;
  float logit;
  float score;        /* softmax over all words */
  const char* token;  /* as the vocabulary has it, "##" before the rest of a word; lives as long as the model */
  size_t token_bytes; /* of the token, behind which no NUL stands */
} squeezebert_candidate;

/* Most bytes of a text. */
#define SQUEEZEBERT_MOST_TEXT_BYTES (16 << 20)

/* The library's version, such as "0.9.0". */
SQUEEZEBERT_API const char* squeezebert_version(void);

/* One line about the last call of this thread that failed, "" if none has. It lives until the thread's next call. */
SQUEEZEBERT_API const char* squeezebert_last_error(void);

/* Opens the model of a folder. precision: "float32", "bfloat16" or "int8", of the products; NULL for the folder's own,
 * and an int8 folder has no other. The caller owns *model, and gives it to squeezebert_close. The folder's files must
 * not be written to until then: weights are read in place. NOT_FOUND, BAD_FILE, UNSUPPORTED, NO_MEMORY,
 * INVALID_ARGUMENT. */
SQUEEZEBERT_API squeezebert_status squeezebert_open(const char* folder, const char* precision,
                                                    squeezebert_model** model);

/* Frees a model, of which no call may be running. NULL is fine. */
SQUEEZEBERT_API void squeezebert_close(squeezebert_model* model);

/* Threads that later calls use, the caller's among them: 1 or more, of which 256 at most are started. By default as
 * many as the machine has cores, at most four. They are the library's own, and shared: a call that finds them busy runs
 * on its own thread alone. No result depends on their number. */
SQUEEZEBERT_API squeezebert_status squeezebert_set_threads(squeezebert_model* model, int threads);

/* How many labels, or values of a regression, a model has: 0 if it classifies nothing. */
SQUEEZEBERT_API size_t squeezebert_label_count(const squeezebert_model* model);

/* The name of a label; NULL where there is none. It lives as long as the model. */
SQUEEZEBERT_API const char* squeezebert_label(const squeezebert_model* model, size_t index);

/* What the scores of squeezebert_classify are. */
SQUEEZEBERT_API squeezebert_kind squeezebert_label_kind(const squeezebert_model* model);

/* Classifies a text or a pair. logits, scores: squeezebert_label_count floats each, or NULL for what isn't wanted.
 * BAD_TEXT, UNSUPPORTED for a model without a classifier, NO_MEMORY, INVALID_ARGUMENT. */
SQUEEZEBERT_API squeezebert_status squeezebert_classify(const squeezebert_model* model, const char* text, size_t bytes,
                                                        const char* second, size_t second_bytes, float* logits,
                                                        float* scores);

/* The likeliest words for every mask ([MASK]) of a text, which is not cut. candidates: room for `capacity` of them; the
 * first top_k are those of the first mask, the best first. *masks: how many masks there are; with candidates NULL that
 * is all that is done. BAD_TEXT for a text without a mask or longer than the model takes, UNSUPPORTED for a model that
 * isn't a masked language model, NO_MEMORY, INVALID_ARGUMENT where masks times top_k is more than capacity, or top_k
 * more than there are words, with candidates or without. */
SQUEEZEBERT_API squeezebert_status squeezebert_fill_mask(const squeezebert_model* model, const char* text, size_t bytes,
                                                         size_t top_k, squeezebert_candidate* candidates,
                                                         size_t capacity, size_t* masks);

/* Floats of an embedding, and of a token's hidden state. */
SQUEEZEBERT_API size_t squeezebert_embedding_size(const squeezebert_model* model);

/* A text's vector: the mean of its tokens' hidden states, or what a sentence-transformers folder says (first token,
 * scaled to length 1, a prompt before the text). vector: squeezebert_embedding_size floats. normalize: not 0 to scale
 * it to length 1 in any case. BAD_TEXT, UNSUPPORTED for a pooling of another kind, NO_MEMORY, INVALID_ARGUMENT. */
SQUEEZEBERT_API squeezebert_status squeezebert_embed(const squeezebert_model* model, const char* text, size_t bytes,
                                                     int normalize, float* vector);

/* A text's or pair's ids with its special tokens, and for each 0, or 1 for the second text. ids, token_types: room for
 * `capacity`, or NULL for what isn't wanted. *count: how many there are. BAD_TEXT, NO_MEMORY, INVALID_ARGUMENT where
 * that is more than capacity and there is something to write. */
SQUEEZEBERT_API squeezebert_status squeezebert_tokenize(const squeezebert_model* model, const char* text, size_t bytes,
                                                        const char* second, size_t second_bytes, int64_t* ids,
                                                        int64_t* token_types, size_t capacity, size_t* count);

/* The token of an id and its length, behind which no NUL stands; NULL and 0 where there is none. It lives as long as
 * the model. */
SQUEEZEBERT_API const char* squeezebert_token(const squeezebert_model* model, int64_t id, size_t* bytes);

/* The last hidden state of every token: count times squeezebert_embedding_size floats, for whatever head a caller has.
 * token_types: NULL for 0; a DistilBERT has no table of them, and reads none. INVALID_ARGUMENT for ids that the model
 * doesn't have, or more than it takes; NO_MEMORY. */
SQUEEZEBERT_API squeezebert_status squeezebert_hidden_states(const squeezebert_model* model, const int64_t* ids,
                                                             const int64_t* token_types, size_t count, float* states);

#ifdef __cplusplus
}
#endif

#endif

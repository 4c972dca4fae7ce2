/* Classifies its arguments: ./classify MODEL TEXT...
 *
 *   make runtime && cc -Icsrc/runtime examples/c/classify.c -o classify build/runtime/libsqueezebert.so
 * -Wl,-rpath,build/runtime
 *   ./classify squeezebert_fast/models/sentiment "A lovely film." */
#include <squeezebert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed(const char* what, const char* why) {
  fprintf(stderr, "%s: %s\n", what, why);
  return 1;
}

int main(int count, char** words) {
  squeezebert_model* model;
  if (count < 3) return failed(words[0], "expected MODEL TEXT...");
  if (squeezebert_open(words[1], NULL, &model)) return failed(words[1], squeezebert_last_error());
  const size_t labels = squeezebert_label_count(model);
  float* scores = malloc(labels * sizeof *scores);
  int status = 0;
  for (int i = 2; i < count && status == 0; ++i) {
    if (squeezebert_classify(model, words[i], strlen(words[i]), NULL, 0, NULL, scores)) {
      status = failed(words[i], squeezebert_last_error());
    } else {
      for (size_t label = 0; label < labels; ++label)
        printf("%s %.3f ", squeezebert_label(model, label), scores[label]);
      printf("%s\n", words[i]);
    }
  }
  free(scores);
  squeezebert_close(model);
  return status;
}

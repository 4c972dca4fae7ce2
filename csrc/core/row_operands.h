// Rows of a tensor as a product reads them.
#pragma once
#include "../kernels/kernel_table.h"
#include "elements.h"

namespace squeezebert {

// What a kernel takes as operands: the rows themselves, or what `make` makes of them.
class RowOperands {
 public:
  // x: [rows, channels]. scales: of a row, where the precision has any.
  RowOperands(const KernelTable& kernels, Precision precision, Element element, const void* x, int64_t x_row_stride,
              int64_t rows, int64_t channels, int64_t scales);

  int64_t bytes() const { return bytes_; }  // of the memory that `place` takes
  void place(char* memory);
  // For all rows, before the product; tasks may share them. Nothing is left to do where `bytes` is 0.
  void make(Rows rows) const;
  const Operands& operands() const { return operands_; }

 private:
  const KernelTable* kernels_;
  const PrecisionKernels* of_precision_;
  Element element_;
  const void* x_;
  int64_t x_row_stride_, operand_bytes_ = 0, scale_bytes_ = 0, bytes_ = 0;
  float* widened_ = nullptr;  // [rows, channels]; of bfloat16 that the kernel takes in another form
  Operands operands_;
};

}  // namespace squeezebert

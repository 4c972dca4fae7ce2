#include "row_operands.h"

#include "sizes.h"

namespace squeezebert {

RowOperands::RowOperands(const KernelTable& kernels, Precision precision, Element element, const void* x,
                         int64_t x_row_stride, int64_t rows, int64_t channels, int64_t scales)
    : kernels_(&kernels),
      of_precision_(&kernels.precision[static_cast<int>(precision)]),
      element_(element),
      x_(x),
      x_row_stride_(x_row_stride),
      operands_{const_cast<void*>(x), x_row_stride, nullptr, scales, channels} {
  const bool rounded = element == Element::bfloat16, in_place = of_precision_->operand_bytes == 0;
  if (rounded ? of_precision_->takes_bfloat16 : in_place) return;
  if (!in_place) {
    operand_bytes_ = aligned(rows * channels * of_precision_->operand_bytes + kSlack);
    const bool scaled = precision == Precision::int8 || of_precision_->products > 0;
    scale_bytes_ = scaled ? aligned(rows * scales * 4) : 0;
  }
  bytes_ = operand_bytes_ + scale_bytes_ + (rounded ? aligned(rows * channels * 4 + kSlack) : 0);
}

void RowOperands::place(char* memory) {
  if (bytes_ == 0) return;
  if (element_ == Element::bfloat16) widened_ = reinterpret_cast<float*>(memory + operand_bytes_ + scale_bytes_);
  operands_.row_stride = operands_.channels;
  operands_.data = operand_bytes_ > 0 ? memory : static_cast<void*>(widened_);
  if (scale_bytes_ > 0) operands_.scale = reinterpret_cast<float*>(memory + operand_bytes_);
}

void RowOperands::make(Rows rows) const {
  if (bytes_ == 0) return;
  const int64_t channels = operands_.channels;
  if (widened_) {
    kernels_->training.widen(static_cast<const uint16_t*>(x_), x_row_stride_, channels, rows, widened_, channels);
  }
  if (operand_bytes_ == 0) return;
  const auto* floats = widened_ ? widened_ : static_cast<const float*>(x_);
  of_precision_->prepare(floats, widened_ ? channels : x_row_stride_, rows, operands_);
}

}  // namespace squeezebert

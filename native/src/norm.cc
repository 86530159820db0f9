// Batch normalisation of NHWC images, then perhaps a residual added and a rectifier, as XLA custom calls.
//
// Forward and backward each read their images twice: once for sums over all of them, once to write the result. Images
// are float32 or bfloat16, everything else float32. An image whose mask is 0 enters neither mean nor variance; what is
// asked of its result counts in the gradients of scale and bias all the same.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <vector>

#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

// The compiler makes each of these functions for several processors, and the loader takes the one that fits. What they
// call has to be inlined, or it would stay at the oldest.
#if defined(__x86_64__)
#define SADDLE_FOR_ALL_PROCESSORS __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define SADDLE_FOR_ALL_PROCESSORS
#endif
#define SADDLE_INLINE __attribute__((always_inline)) inline

namespace saddle {
namespace {

struct bf16 {
  uint16_t bits;
};

SADDLE_INLINE float Load(float value) { return value; }
SADDLE_INLINE float Load(bf16 value) {
  const uint32_t bits = uint32_t{value.bits} << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}
SADDLE_INLINE void Store(float* to, float value) { *to = value; }
SADDLE_INLINE void Store(bf16* to, float value) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to->bits = static_cast<uint16_t>(value != value ? 0x7fc0 : rounded);  // rounding could carry a NaN over to 0
}

constexpr int64_t kLanes = 16;               // channels that are summed at once, in registers
constexpr int64_t kBytesPerPart = 1 << 17;   // of images: fits into a core's own cache, takes some 0.03 ms

// (x - mean) * factor + bias of one value: the difference first, so that a mean far from 0 costs no digits.
struct Channels {
  const float *mean, *factor, *bias;

  template <class T>
  SADDLE_INLINE float Normalised(T x, int64_t k) const {
    return (Load(x) - mean[k]) * factor[k] + bias[k];
  }
  Channels From(int64_t k) const { return {mean + k, factor + k, bias + k}; }
};

template <class T, bool kResidual, bool kRectify>
SADDLE_INLINE void Affine(const T* x, const T* residual, Channels of, T* y, int64_t pixels, int64_t channels) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
    for (int64_t k = 0; k < channels; ++k) {
      const int64_t i = pixel * channels + k;
      float value = of.Normalised(x[i], k);
      if constexpr (kResidual) value += Load(residual[i]);
      if constexpr (kRectify) value = value <= 0 ? 0 : value;
      Store(y + i, value);
    }
}

// Adds, over the pixels of one image, (x - shift) and its square.
template <class T, int64_t kWidth>
SADDLE_INLINE void AddMomentsOf(const T* x, const float* shift, double* sum, double* square, int64_t pixels,
                                int64_t channels, int64_t width) {
  float s[kLanes] = {}, q[kLanes] = {};
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
    for (int64_t j = 0; j < (kWidth ? kWidth : width); ++j) {
      const float d = Load(x[pixel * channels + j]) - shift[j];
      s[j] += d;
      q[j] += d * d;
    }
  for (int64_t j = 0; j < width; ++j) sum[j] += s[j], square[j] += q[j];
}

template <class T>
SADDLE_INLINE void AddMoments(const T* x, const float* shift, double* sum, double* square, int64_t pixels,
                              int64_t channels) {
  for (int64_t k = 0; k < channels; k += kLanes) {
    const int64_t width = std::min(kLanes, channels - k);
    if (width == kLanes)
      AddMomentsOf<T, kLanes>(x + k, shift + k, sum + k, square + k, pixels, channels, width);
    else
      AddMomentsOf<T, 0>(x + k, shift + k, sum + k, square + k, pixels, channels, width);
  }
}

// How the sign of the output is known again in the backward pass.
enum class Sign { kAll, kFromOutput, kFromInput };

// The cotangent before the rectifier. Without a residual the output is computed again: that is cheaper than to read it.
template <class T, Sign kSign>
SADDLE_INLINE float Cotangent(const T* g, const T* x, const T* y, Channels of, int64_t i, int64_t k) {
  const float value = Load(g[i]);
  if constexpr (kSign == Sign::kFromOutput) return Load(y[i]) <= 0 ? 0 : value;
  if constexpr (kSign == Sign::kFromInput) return of.Normalised(x[i], k) <= 0 ? 0 : value;
  return value;
}

// Adds, over the pixels of one image, the cotangent and the cotangent times (x - mean).
template <class T, Sign kSign, int64_t kWidth>
SADDLE_INLINE void AddCotangentsOf(const T* g, const T* x, const T* y, Channels of, double* sum, double* product,
                                   int64_t pixels, int64_t channels, int64_t width) {
  float s[kLanes] = {}, p[kLanes] = {};
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
    for (int64_t j = 0; j < (kWidth ? kWidth : width); ++j) {
      const int64_t i = pixel * channels + j;
      const float value = Cotangent<T, kSign>(g, x, y, of, i, j);
      s[j] += value;
      p[j] += value * (Load(x[i]) - of.mean[j]);
    }
  for (int64_t j = 0; j < width; ++j) sum[j] += s[j], product[j] += p[j];
}

template <class T, Sign kSign>
SADDLE_INLINE void AddCotangents(const T* g, const T* x, const T* y, Channels of, double* sum, double* product,
                                 int64_t pixels, int64_t channels) {
  for (int64_t k = 0; k < channels; k += kLanes) {
    const int64_t width = std::min(kLanes, channels - k);
    if (width == kLanes)
      AddCotangentsOf<T, kSign, kLanes>(g + k, x + k, y + k, of.From(k), sum + k, product + k, pixels, channels, width);
    else
      AddCotangentsOf<T, kSign, 0>(g + k, x + k, y + k, of.From(k), sum + k, product + k, pixels, channels, width);
  }
}

// dx = factor * cotangent + slope * (x - mean) + shift per channel, and the residual's cotangent.
template <class T, Sign kSign, bool kResidual>
SADDLE_INLINE void InputGradient(const T* g, const T* x, const T* y, Channels of, const float* slope,
                                 const float* shift, T* dx, T* dresidual, int64_t pixels, int64_t channels) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel)
    for (int64_t k = 0; k < channels; ++k) {
      const int64_t i = pixel * channels + k;
      const float value = Cotangent<T, kSign>(g, x, y, of, i, k);
      if constexpr (kResidual) Store(dresidual + i, value);
      Store(dx + i, of.factor[k] * value + (slope[k] * (Load(x[i]) - of.mean[k]) + shift[k]));
    }
}

// From here on: one function for each type, made for every processor.
#define SADDLE_FOR_TYPE(T)                                                                                            \
  SADDLE_FOR_ALL_PROCESSORS void Moments(const T* x, const float* shift, double* sum, double* square, int64_t pixels, \
                                         int64_t channels) {                                                          \
    AddMoments(x, shift, sum, square, pixels, channels);                                                              \
  }                                                                                                                   \
  SADDLE_FOR_ALL_PROCESSORS void Normalise(const T* x, const T* residual, bool rectify, Channels of, T* y,            \
                                           int64_t pixels, int64_t channels) {                                        \
    if (residual && rectify) Affine<T, true, true>(x, residual, of, y, pixels, channels);                             \
    if (residual && !rectify) Affine<T, true, false>(x, residual, of, y, pixels, channels);                           \
    if (!residual && rectify) Affine<T, false, true>(x, residual, of, y, pixels, channels);                           \
    if (!residual && !rectify) Affine<T, false, false>(x, residual, of, y, pixels, channels);                         \
  }                                                                                                                   \
  SADDLE_FOR_ALL_PROCESSORS void Cotangents(const T* g, const T* x, const T* y, Sign sign, Channels of, double* sum,  \
                                            double* product, int64_t pixels, int64_t channels) {                      \
    if (sign == Sign::kAll) AddCotangents<T, Sign::kAll>(g, x, y, of, sum, product, pixels, channels);                \
    if (sign == Sign::kFromOutput) AddCotangents<T, Sign::kFromOutput>(g, x, y, of, sum, product, pixels, channels);  \
    if (sign == Sign::kFromInput) AddCotangents<T, Sign::kFromInput>(g, x, y, of, sum, product, pixels, channels);    \
  }                                                                                                                   \
  SADDLE_FOR_ALL_PROCESSORS void Gradients(const T* g, const T* x, const T* y, Sign sign, Channels of,                \
                                           const float* slope, const float* shift, T* dx, T* dresidual,               \
                                           int64_t pixels, int64_t channels) {                                        \
    if (sign == Sign::kAll && !dresidual)                                                                             \
      InputGradient<T, Sign::kAll, false>(g, x, y, of, slope, shift, dx, dresidual, pixels, channels);                \
    if (sign == Sign::kAll && dresidual)                                                                              \
      InputGradient<T, Sign::kAll, true>(g, x, y, of, slope, shift, dx, dresidual, pixels, channels);                 \
    if (sign == Sign::kFromOutput)                                                                                    \
      InputGradient<T, Sign::kFromOutput, true>(g, x, y, of, slope, shift, dx, dresidual, pixels, channels);          \
    if (sign == Sign::kFromInput)                                                                                     \
      InputGradient<T, Sign::kFromInput, false>(g, x, y, of, slope, shift, dx, dresidual, pixels, channels);          \
  }
SADDLE_FOR_TYPE(float)
SADDLE_FOR_TYPE(bf16)
#undef SADDLE_FOR_TYPE

struct Shape {
  int64_t images, pixels, channels;

  int64_t ImageSize() const { return pixels * channels; }
  template <class T>
  int64_t Parts() const {
    const int64_t bytes = images * ImageSize() * static_cast<int64_t>(sizeof(T));
    return std::clamp<int64_t>(bytes / kBytesPerPart, 1, std::max<int64_t>(1, images));
  }
};

// Two sums a channel, of every part; added up in the order of the parts.
class Sums {
 public:
  Sums(int64_t parts, int64_t channels) : channels_(channels), values_(parts * 2 * channels, 0.0) {}
  double* First(int64_t part) { return &values_[part * 2 * channels_]; }
  double* Second(int64_t part) { return First(part) + channels_; }
  void AddUp() {
    for (size_t i = 2 * channels_; i < values_.size(); ++i) values_[i % (2 * channels_)] += values_[i];
  }

 private:
  int64_t channels_;
  std::vector<double> values_;
};

double CountOf(const float* mask, const Shape& shape) {
  return static_cast<double>(std::count_if(mask, mask + shape.images, [](float m) { return m != 0; })) * shape.pixels;
}

template <class T>
void Forward(ffi::ThreadPool& pool, const Shape& shape, const T* x, const float* mask, const float* scale,
             const float* bias, const T* residual, T* y, float* mean, float* variance, float epsilon, bool rectify) {
  const int64_t size = shape.ImageSize(), channels = shape.channels, parts = shape.Parts<T>();
  const double count = CountOf(mask, shape);
  std::vector<float> shift(channels, 0), factor(channels);
  Sums sums(parts, channels);
  // Squares are summed about the mean of the first image: nothing cancels, however far the channel is from 0.
  const int64_t first = std::find_if(mask, mask + shape.images, [](float m) { return m != 0; }) - mask;
  if (first < shape.images) {
    Sums of_first(1, channels);
    Moments(x + first * size, shift.data(), of_first.First(0), of_first.Second(0), shape.pixels, channels);
    for (int64_t k = 0; k < channels; ++k) shift[k] = static_cast<float>(of_first.First(0)[k] / shape.pixels);
  }
  ForEachPart(pool, parts, [&](int64_t part) {
    const Range range = RangeOf(part, parts, shape.images);
    for (int64_t i = range.first; i < range.last; ++i)
      if (mask[i] != 0) Moments(x + i * size, shift.data(), sums.First(part), sums.Second(part), shape.pixels, channels);
  });
  sums.AddUp();
  for (int64_t k = 0; k < channels; ++k) {
    const double n = std::max(count, 1.0), moved = sums.First(0)[k] / n;
    const double v = std::max(0.0, sums.Second(0)[k] / n - moved * moved);
    mean[k] = count > 0 ? static_cast<float>(shift[k] + moved) : 0;
    // A comparison with NaN is false: a variance that is not finite has to stay so.
    variance[k] = static_cast<float>(std::isfinite(sums.Second(0)[k]) ? v : sums.Second(0)[k]);
    factor[k] = count > 0 ? scale[k] / std::sqrt(variance[k] + epsilon) : 0;
  }
  const Channels of{mean, factor.data(), bias};
  ForEachPart(pool, parts, [&](int64_t part) {
    const Range range = RangeOf(part, parts, shape.images);
    const int64_t begin = range.first * size;
    Normalise(x + begin, residual ? residual + begin : nullptr, rectify, of, y + begin,
              (range.last - range.first) * shape.pixels, channels);
  });
}

template <class T>
void Backward(ffi::ThreadPool& pool, const Shape& shape, const T* g, const T* x, const T* y, const float* mask,
              const float* scale, const float* bias, const float* mean, const float* variance, T* dx, T* dresidual,
              float* dscale, float* dbias, float epsilon, bool rectify) {
  const int64_t size = shape.ImageSize(), channels = shape.channels, parts = shape.Parts<T>();
  const double count = CountOf(mask, shape);
  const Sign sign = !rectify ? Sign::kAll : dresidual ? Sign::kFromOutput : Sign::kFromInput;
  std::vector<float> factor(channels), slope(channels), shift(channels), zeros(channels, 0);
  for (int64_t k = 0; k < channels; ++k)  // as in the forward pass
    factor[k] = count > 0 ? scale[k] / std::sqrt(variance[k] + epsilon) : 0;
  const Channels of{mean, factor.data(), bias};
  Sums sums(parts, channels);
  ForEachPart(pool, parts, [&](int64_t part) {
    const Range range = RangeOf(part, parts, shape.images);
    for (int64_t i = range.first; i < range.last; ++i)
      Cotangents(g + i * size, x + i * size, y + i * size, sign, of, sums.First(part), sums.Second(part), shape.pixels,
                 channels);
  });
  sums.AddUp();
  const double n = std::max(count, 1.0);
  for (int64_t k = 0; k < channels; ++k) {
    const double inverse = count > 0 ? 1 / std::sqrt(static_cast<double>(variance[k]) + epsilon) : 0;
    const double sum = sums.First(0)[k], product = sums.Second(0)[k];
    dbias[k] = static_cast<float>(sum);
    dscale[k] = static_cast<float>(product * inverse);
    slope[k] = static_cast<float>(-factor[k] * inverse * inverse * product / n);
    shift[k] = static_cast<float>(-factor[k] * sum / n);
  }
  ForEachPart(pool, parts, [&](int64_t part) {
    const Range range = RangeOf(part, parts, shape.images);
    for (int64_t i = range.first; i < range.last; ++i) {
      const int64_t at = i * size;
      const bool counts = mask[i] != 0;  // a masked image is normalised, but moves no statistics
      Gradients(g + at, x + at, y + at, sign, of, (counts ? slope : zeros).data(), (counts ? shift : zeros).data(),
                dx + at, dresidual ? dresidual + at : nullptr, shape.pixels, channels);
    }
  });
}

using Buffer = ffi::AnyBuffer;
using Vector = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<ffi::AnyBuffer>;
using VectorResult = ffi::Result<ffi::Buffer<ffi::F32>>;

Shape ShapeOf(const Buffer& x) {
  const auto d = x.dimensions();
  return {d[0], d[1] * d[2], d[3]};
}

template <class T>
T* Pointer(const Buffer& buffer) {
  return static_cast<T*>(buffer.untyped_data());
}

// Returns what is wrong with the shapes and types, or "".
std::string ProblemOf(std::initializer_list<Buffer> images, const Vector& mask, std::initializer_list<Vector> channels) {
  const Buffer& x = *images.begin();
  if (x.dimensions().size() != 4) return "expected images of 4 axes";
  for (const Buffer& other : images)
    if (other.element_type() != x.element_type() || !(other.dimensions() == x.dimensions()))
      return "expected images of one shape and dtype";
  if (mask.element_count() != static_cast<size_t>(x.dimensions()[0])) return "expected a mask of one number an image";
  for (const Vector& each : channels)
    if (each.element_count() != static_cast<size_t>(x.dimensions()[3])) return "expected one number a channel";
  return "";
}

// Calls run with a null pointer of the images' type.
template <class F>
ffi::Error ForType(const Buffer& x, F run) {
  try {
    if (x.element_type() == ffi::F32) run(static_cast<float*>(nullptr));
    else if (x.element_type() == ffi::BF16) run(static_cast<bf16*>(nullptr));
    else return ffi::Error::InvalidArgument("saddle_norm: expected float32 or bfloat16 images");
    return ffi::Error::Success();
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("saddle_norm: ") + error.what());
  }
}

// (x, mask, scale, bias, residual?) -> y, mean, variance
ffi::Error NormForward(ffi::ThreadPool pool, Buffer x, Vector mask, Vector scale, Vector bias, ffi::RemainingArgs more,
                       Result y, VectorResult mean, VectorResult variance, float epsilon, bool rectify) {
  const Buffer added = more.size() ? *more.get<Buffer>(0) : x;
  if (const std::string problem = ProblemOf({x, added, *y}, mask, {scale, bias, *mean, *variance}); !problem.empty())
    return ffi::Error::InvalidArgument("saddle_norm: " + problem);
  return ForType(x, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* residual = more.size() ? Pointer<T>(added) : nullptr;
    Forward<T>(pool, ShapeOf(x), Pointer<T>(x), mask.typed_data(), scale.typed_data(), bias.typed_data(), residual,
               Pointer<T>(*y), mean->typed_data(), variance->typed_data(), epsilon, rectify);
  });
}

// (cotangent, x, y, mask, scale, bias, mean, variance) -> dx, dscale, dbias, dresidual?
ffi::Error NormBackward(ffi::ThreadPool pool, Buffer g, Buffer x, Buffer y, Vector mask, Vector scale, Vector bias,
                        Vector mean, Vector variance, Result dx, VectorResult dscale, VectorResult dbias,
                        ffi::RemainingRets more, float epsilon, bool rectify) {
  const Buffer taken = more.size() ? **more.get<Buffer>(0) : *dx;
  const std::string problem = ProblemOf({x, g, y, *dx, taken}, mask, {scale, bias, mean, variance, *dscale, *dbias});
  if (!problem.empty()) return ffi::Error::InvalidArgument("saddle_norm: " + problem);
  return ForType(x, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    T* dresidual = more.size() ? Pointer<T>(taken) : nullptr;
    Backward<T>(pool, ShapeOf(x), Pointer<T>(g), Pointer<T>(x), Pointer<T>(y), mask.typed_data(), scale.typed_data(),
                bias.typed_data(), mean.typed_data(), variance.typed_data(), Pointer<T>(*dx), dresidual,
                dscale->typed_data(), dbias->typed_data(), epsilon, rectify);
  });
}

}  // namespace
}  // namespace saddle

XLA_FFI_DEFINE_HANDLER_SYMBOL(SaddleNormForward, saddle::NormForward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<saddle::Buffer>()
                                  .Arg<saddle::Vector>()
                                  .Arg<saddle::Vector>()
                                  .Arg<saddle::Vector>()
                                  .RemainingArgs()
                                  .Ret<saddle::Buffer>()
                                  .Ret<saddle::Vector>()
                                  .Ret<saddle::Vector>()
                                  .Attr<float>("epsilon")
                                  .Attr<bool>("rectify"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(SaddleNormBackward, saddle::NormBackward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<saddle::Buffer>()
                                  .Arg<saddle::Buffer>()
                                  .Arg<saddle::Buffer>()
                                  .Arg<saddle::Vector>()
                                  .Arg<saddle::Vector>()
                                  .Arg<saddle::Vector>()
                                  .Arg<saddle::Vector>()
                                  .Arg<saddle::Vector>()
                                  .Ret<saddle::Buffer>()
                                  .Ret<saddle::Vector>()
                                  .Ret<saddle::Vector>()
                                  .RemainingRets()
                                  .Attr<float>("epsilon")
                                  .Attr<bool>("rectify"));

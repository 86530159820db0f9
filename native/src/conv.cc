// Convolutions of NHWC images with HWIO kernels by oneDNN, as XLA custom calls: forward and both gradients.
//
// Images are float32 or bfloat16; kernels and their gradients are always float32. A batch is cut into parts of whole
// images. oneDNN computes each part on one thread, and XLA's thread pool takes the parts: there is no second pool.
#include <omp.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using dnnl::memory;
using Dims = memory::dims;

namespace saddle {
namespace {

enum Kind : int64_t { kForward = 0, kInputGradient = 1, kKernelGradient = 2 };

// A part should take long enough to be worth handing to another thread: about 0.05 ms of multiply-adds.
constexpr int64_t kMultiplyAddsPerPart = 1 << 22;
// Every part of a kernel gradient has a sum of its own, as large as the kernel.
constexpr int64_t kMaxKernelGradientParts = 16, kMaxKernelGradientBytes = 64 << 20;
// What a thread keeps between calls; more is given back.
constexpr size_t kKeptBytes = 4 << 20;
constexpr int64_t kAdditionsPerPart = 1 << 18;

const dnnl::engine& Engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// OpenMP is oneDNN's own way to threads. While this lives, oneDNN computes on the calling thread alone.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

// Memory that a thread keeps between calls: to take 10 MB anew for every call costs as much as to fill them.
class Buffer {
 public:
  float* Floats(size_t count) { return static_cast<float*>(Bytes(count * sizeof(float))); }
  void* Bytes(size_t bytes) {
    if (bytes > size_) {
      std::free(data_);
      size_ = (bytes + 63) / 64 * 64;
      data_ = std::aligned_alloc(64, size_);
      if (!data_) {
        size_ = 0;
        throw std::bad_alloc();
      }
    }
    return data_;
  }
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

struct Shape {
  Kind kind;
  memory::data_type type;                     // of the images
  int64_t images;                             // of one part
  int64_t height, width, channels;            // of the input
  int64_t kernel_height, kernel_width;        //
  int64_t out_height, out_width, filters;     // of the output
  int64_t stride, padding, groups;

  Dims Key() const {
    return {kind,  static_cast<int64_t>(type), images,   height,  width,  channels, kernel_height, kernel_width,
            out_height, out_width, filters, stride, padding, groups};
  }
  int64_t KernelSize() const { return kernel_height * kernel_width * (channels / groups) * filters; }
  int64_t MultiplyAddsPerImage() const { return KernelSize() * out_height * out_width; }
};

// What oneDNN prepares for one shape. Immutable, so all threads share it.
struct Plan {
  dnnl::primitive conv, reorder;
  memory::desc input, output;        // as JAX has them: NHWC
  memory::desc kernel, plain_kernel; // as oneDNN wants it, and HWIO
  size_t scratch_bytes;
  bool reorders;
};

std::unique_ptr<Plan> MakePlan(const Shape& s) {
  const OneThread one_thread;
  using tag = memory::format_tag;
  const auto f32 = memory::data_type::f32;
  // A kernel gradient is summed in float32; elsewhere kernels have the images' type.
  const auto kernel_type = s.kind == kKernelGradient ? f32 : s.type;
  const int64_t in = s.channels / s.groups, out = s.filters / s.groups;
  const Dims kernel{s.groups, out, in, s.kernel_height, s.kernel_width};
  const Dims hwio{out, 1, s.filters, s.kernel_width * in * s.filters, in * s.filters};  // strides of HWIO
  auto plan = std::make_unique<Plan>();
  plan->input = memory::desc({s.images, s.channels, s.height, s.width}, s.type, tag::nhwc);
  plan->output = memory::desc({s.images, s.filters, s.out_height, s.out_width}, s.type, tag::nhwc);
  plan->plain_kernel = memory::desc(kernel, f32, hwio);
  const memory::desc any_kernel(kernel, kernel_type, tag::any);
  const Dims strides{s.stride, s.stride}, low{s.padding, s.padding};
  const Dims high{(s.out_height - 1) * s.stride + s.kernel_height - s.height - s.padding,
                  (s.out_width - 1) * s.stride + s.kernel_width - s.width - s.padding};
  const auto algorithm = dnnl::algorithm::convolution_direct;
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);  // oneDNN's own is not safe across threads

  const memory::desc forward_kernel(kernel, s.type, tag::any);
  const dnnl::convolution_forward::primitive_desc forward(Engine(), dnnl::prop_kind::forward_training, algorithm,
                                                          plan->input, forward_kernel, plan->output, strides, low,
                                                          high, attr);
  if (s.kind == kForward) {
    plan->kernel = forward.weights_desc();
    plan->scratch_bytes = forward.scratchpad_desc().get_size();
    plan->conv = dnnl::convolution_forward(forward);
  } else if (s.kind == kInputGradient) {
    const dnnl::convolution_backward_data::primitive_desc d(Engine(), algorithm, plan->input, any_kernel,
                                                            plan->output, strides, low, high, forward, attr);
    plan->kernel = d.weights_desc();
    plan->scratch_bytes = d.scratchpad_desc().get_size();
    plan->conv = dnnl::convolution_backward_data(d);
  } else {
    const dnnl::convolution_backward_weights::primitive_desc d(Engine(), algorithm, plan->input, any_kernel,
                                                               plan->output, strides, low, high, forward, attr);
    plan->kernel = d.diff_weights_desc();
    plan->scratch_bytes = d.scratchpad_desc().get_size();
    plan->conv = dnnl::convolution_backward_weights(d);
  }
  plan->reorders = plan->kernel != plan->plain_kernel;
  if (plan->reorders) {
    const auto& from = s.kind == kKernelGradient ? plan->kernel : plan->plain_kernel;
    const auto& to = s.kind == kKernelGradient ? plan->plain_kernel : plan->kernel;
    plan->reorder = dnnl::reorder(dnnl::reorder::primitive_desc(Engine(), from, Engine(), to));
  }
  return plan;
}

const Plan& PlanOf(const Shape& shape) {
  static std::mutex mutex;
  static std::map<Dims, std::unique_ptr<Plan>> plans;
  std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<Plan>& plan = plans[shape.Key()];
  if (!plan) plan = MakePlan(shape);
  return *plan;
}

// The stream of the calling thread; on a CPU it runs what it is given at once.
dnnl::stream& Stream() {
  static thread_local dnnl::stream stream(Engine());
  return stream;
}

void Execute(const Plan& plan, std::unordered_map<int, memory> arguments) {
  static thread_local Buffer scratch;
  const memory::desc desc({static_cast<int64_t>(plan.scratch_bytes)}, memory::data_type::u8, memory::format_tag::a);
  arguments.emplace(DNNL_ARG_SCRATCHPAD, memory(desc, Engine(), scratch.Bytes(plan.scratch_bytes)));
  plan.conv.execute(Stream(), arguments);
}

memory Wrap(const memory::desc& desc, void* data) { return memory(desc, Engine(), data); }

void Reorder(const Plan& plan, const memory& from, const memory& to) {
  plan.reorder.execute(Stream(), {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
}

class Convolution {
 public:
  Convolution(ffi::ThreadPool& pool, Shape shape) : pool_(pool), kind_(shape.kind), images_(shape.images) {
    parts_ = std::clamp<int64_t>(images_ * shape.MultiplyAddsPerImage() / kMultiplyAddsPerPart, 1, images_);
    kernel_size_ = shape.KernelSize();
    if (kind_ == kKernelGradient) {
      const int64_t fit = std::max<int64_t>(1, kMaxKernelGradientBytes / (4 * kernel_size_));
      parts_ = std::min({parts_, kMaxKernelGradientParts, fit});
    }
    const int64_t bytes = shape.type == memory::data_type::f32 ? 4 : 2;
    input_bytes_ = shape.height * shape.width * shape.channels * bytes;
    output_bytes_ = shape.out_height * shape.out_width * shape.filters * bytes;
    for (int extra = 0; extra < 2; ++extra) {  // parts differ by one image at most
      shape.images = images_ / parts_ + (images_ % parts_ ? extra : 0);
      plans_[extra] = &PlanOf(shape);
    }
  }

  // (input, kernel) -> output, or (output's gradient, kernel) -> input's gradient
  void WithKernel(void* input, float* kernel, void* output) {
    static thread_local std::array<Buffer, 2> buffers;
    const OneThread one_thread;
    std::array<void*, 2> kernels;  // in the layout of each plan
    for (int i = 0; i < 2; ++i) {
      const Plan& plan = *plans_[i];
      if (i == 1 && plan.kernel == plans_[0]->kernel) {
        kernels[1] = kernels[0];
      } else if (plan.reorders) {
        kernels[i] = buffers[i].Bytes(plan.kernel.get_size());
        Reorder(plan, Wrap(plan.plain_kernel, kernel), Wrap(plan.kernel, kernels[i]));
      } else {
        kernels[i] = kernel;
      }
    }
    const bool forward = kind_ == kForward;
    ForEachPart(pool_, parts_, [&](int64_t part) {
      const OneThread one_thread;
      const Part p = PartOf(part, input, output);
      Execute(*p.plan, {{forward ? DNNL_ARG_SRC : DNNL_ARG_DIFF_SRC, Wrap(p.plan->input, p.input)},
                        {DNNL_ARG_WEIGHTS, Wrap(p.plan->kernel, kernels[p.plan != plans_[0]])},
                        {forward ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, Wrap(p.plan->output, p.output)}});
    });
  }

  // (input, output's gradient) -> kernel's gradient: that of every part, then their sum in the order of the parts
  void ToKernel(void* input, void* output, float* kernel) {
    static thread_local Buffer kept;
    Buffer large;
    const int64_t stride = (kernel_size_ + 15) / 16 * 16;
    Buffer& sums = parts_ * stride * sizeof(float) > kKeptBytes ? large : kept;
    float* const first = parts_ == 1 ? kernel : sums.Floats(parts_ * stride);
    ForEachPart(pool_, parts_, [&](int64_t part) {
      static thread_local Buffer own_layout;
      const OneThread one_thread;
      const Part p = PartOf(part, input, output);
      float* const sum = first + part * stride;
      void* const result = p.plan->reorders ? own_layout.Bytes(p.plan->kernel.get_size()) : sum;
      Execute(*p.plan, {{DNNL_ARG_SRC, Wrap(p.plan->input, p.input)},
                        {DNNL_ARG_DIFF_DST, Wrap(p.plan->output, p.output)},
                        {DNNL_ARG_DIFF_WEIGHTS, Wrap(p.plan->kernel, result)}});
      if (p.plan->reorders) Reorder(*p.plan, Wrap(p.plan->kernel, result), Wrap(p.plan->plain_kernel, sum));
    });
    if (parts_ == 1) return;
    const int64_t blocks = std::max<int64_t>(1, kernel_size_ * parts_ / kAdditionsPerPart);
    ForEachPart(pool_, blocks, [&](int64_t block) {
      const Range range = RangeOf(block, blocks, kernel_size_);
      std::copy(first + range.first, first + range.last, kernel + range.first);
      for (int64_t part = 1; part < parts_; ++part)
        for (int64_t i = range.first; i < range.last; ++i) kernel[i] += first[part * stride + i];
    });
  }

 private:
  struct Part {
    const Plan* plan;
    void *input, *output;
  };
  Part PartOf(int64_t part, void* input, void* output) const {
    const Range range = RangeOf(part, parts_, images_);
    return {plans_[range.last - range.first - images_ / parts_], static_cast<char*>(input) + range.first * input_bytes_,
            static_cast<char*>(output) + range.first * output_bytes_};
  }

  ffi::ThreadPool& pool_;
  Kind kind_;
  int64_t images_, parts_, kernel_size_, input_bytes_, output_bytes_;
  std::array<const Plan*, 2> plans_;
};

ffi::Error Convolve(ffi::ThreadPool pool, ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::Result<ffi::AnyBuffer> out,
                    int64_t kind, int64_t stride, int64_t padding, int64_t groups) try {
  const auto image_type = a.element_type();
  if (image_type != ffi::F32 && image_type != ffi::BF16)
    return ffi::Error::InvalidArgument("saddle_conv: expected float32 or bfloat16 images");
  const int kernel_at = kind == kKernelGradient ? 2 : 1;
  const std::array<ffi::AnyBuffer, 3> all{a, b, *out};
  for (int i = 0; i < 3; ++i)
    if (all[i].dimensions().size() != 4 || all[i].element_type() != (i == kernel_at ? ffi::F32 : image_type))
      return ffi::Error::InvalidArgument("saddle_conv: expected 4 axes, images of one dtype and a float32 kernel");
  const auto x = kind == kInputGradient ? out->dimensions() : a.dimensions();
  const auto k = kind == kKernelGradient ? out->dimensions() : b.dimensions();
  const auto y = kind == kForward ? out->dimensions() : kind == kInputGradient ? a.dimensions() : b.dimensions();
  const Shape shape{static_cast<Kind>(kind),
                    image_type == ffi::F32 ? memory::data_type::f32 : memory::data_type::bf16,
                    x[0], x[1], x[2], x[3], k[0], k[1], y[1], y[2], y[3], stride, padding, groups};
  if (out->element_count() == 0) return ffi::Error::Success();
  if (a.element_count() == 0) {  // no image: the sum over none
    std::fill_n(static_cast<char*>(out->untyped_data()), out->size_bytes(), 0);
    return ffi::Error::Success();
  }
  Convolution convolution(pool, shape);
  switch (shape.kind) {
    case kForward:
      convolution.WithKernel(a.untyped_data(), b.typed_data<float>(), out->untyped_data());
      break;
    case kInputGradient:
      convolution.WithKernel(out->untyped_data(), b.typed_data<float>(), a.untyped_data());
      break;
    case kKernelGradient:
      convolution.ToKernel(a.untyped_data(), b.untyped_data(), out->typed_data<float>());
      break;
  }
  return ffi::Error::Success();
} catch (const std::exception& error) {
  return ffi::Error::Internal(std::string("saddle_conv: ") + error.what());
}

}  // namespace
}  // namespace saddle

// oneDNN has no bfloat16 convolutions for older processors.
extern "C" int SaddleHasBfloat16() {
  const dnnl::cpu_isa isa = dnnl::get_effective_cpu_isa();
  const int avx512 = static_cast<int>(dnnl::cpu_isa::avx512_core);
  return (static_cast<int>(isa) & avx512) == avx512;
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(SaddleConv, saddle::Convolve,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("kind")
                                  .Attr<int64_t>("stride")
                                  .Attr<int64_t>("padding")
                                  .Attr<int64_t>("groups"));

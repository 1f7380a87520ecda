// Direct convolutions of float32 on CPUs, as handlers of XLA's foreign function interface.
#include "xla/ffi/api/ffi.h"

#include "instruction_sets.h"
#include "parallel.h"

#define STRING(x) #x
#define TEXT(x) STRING(x)

namespace ffi = xla::ffi;

namespace fedjax_kd {
namespace {

using Floats = ffi::Buffer<ffi::F32>;
using Made = ffi::ResultBuffer<ffi::F32>;
using Numbers = ffi::Span<const int64_t>;
using Pair = ffi::Span<const int64_t>;

constexpr double kSmall = 1e5;              // operations that are done before a thread has woken up
constexpr Index kMostParts = 8;             // sums of the kernel's gradient that are kept apart
constexpr Index kBytesOfParts = 4 << 20;    // of one client
constexpr Index kBytesAtOnce = 64 << 20;    // of the clients whose parts are made at once

ffi::Error failure(ffi::ErrorCode code, const std::string& what) {
  return ffi::Error(code, "fedjax_kd convolution: " + what);
}

// The shapes, which come from Python's side of this folder; an empty text if they belong together.
std::string read_shapes(Numbers x, Numbers kernel, Numbers y, Pair stride, Pair low, Pair dilation,
                        int64_t groups, Convolution* c) {
  if (x.size() != 5 || kernel.size() != 5 || y.size() != 5) return "operands must have 5 axes";
  if (stride.size() != 2 || low.size() != 2 || dilation.size() != 2) {
    return "strides, padding and dilation must be pairs";
  }
  *c = {std::max({x[0], kernel[0], y[0]}), x[1], x[2], x[3], x[4], y[2], y[3], y[4],
        kernel[1], kernel[2], groups, {stride[0], stride[1]}, {low[0], low[1]},
        {dilation[0], dilation[1]}};
  for (Numbers operand : {x, kernel, y}) {
    if (operand[0] != 1 && operand[0] != c->clients) return "numbers of clients differ";
  }
  if (groups < 1 || c->inputs % groups || c->outputs % groups) return "groups must divide features";
  if (kernel[3] != c->group_inputs() || kernel[4] != c->outputs || y[1] != c->batch) {
    return "the kernel does not fit the features, or the batches differ";
  }
  for (int axis : {0, 1}) {
    if (stride[axis] < 1 || dilation[axis] < 1) return "strides and dilations must be positive";
  }
  return "";
}

// Reads the shapes and does the work; what goes wrong becomes an error of the program that called.
template <typename Body>
ffi::Error handled(Numbers x, Numbers kernel, Numbers y, Pair stride, Pair low, Pair dilation,
                   int64_t groups, Body body) {
  try {
    Convolution c;
    const std::string fault = read_shapes(x, kernel, y, stride, low, dilation, groups, &c);
    if (!fault.empty()) return failure(ffi::ErrorCode::kInvalidArgument, fault);
    body(c);
    return ffi::Error::Success();
  } catch (const std::bad_alloc&) {
    return failure(ffi::ErrorCode::kResourceExhausted, "out of memory");
  } catch (const std::exception& error) {
    return failure(ffi::ErrorCode::kInternal, error.what());
  }
}

Index client_at(Numbers shape, Index client) { return shape[0] == 1 ? 0 : client; }

// Correlations of all images of all clients; `source` and `result` are one image's numbers.
void correlate_all(ffi::ThreadPool& pool, const Convolution& c, const Correlation& plan,
                   Floats source, Floats kernel, Made result) {
  const Kernels& with = kernels();
  const Numbers from = source.dimensions(), of_kernel = kernel.dimensions();
  const Index packed = plan.packed(with.lanes), kernels_packed = of_kernel[0];
  const Index image = plan.source.height * plan.source.width * plan.source.features;
  const Index made = plan.height * plan.width * plan.features;
  const bool is_small = c.operations() < kSmall;
  // Not zeroed: `pack` writes all of it.
  std::unique_ptr<float[]> weights(new float[packed * kernels_packed]);
  parallel(pool, kernels_packed, is_small, [&](Index client) {
    with.pack(plan, kernel.typed_data() + client * c.kernel(), weights.get() + client * packed);
  });
  const Index images = c.clients * c.batch;
  // Few images are cut into rows; where the cuts are changes no sum.
  const Index parts = std::max<Index>(1, 4 * pool.num_threads() / std::max<Index>(images, 1));
  parallel(pool, images * parts, is_small, [&](Index item) {
    const Index part = item % parts, number = item / parts;
    const Index client = number / c.batch, row = number % c.batch;
    const float* x = source.typed_data() + (client_at(from, client) * c.batch + row) * image;
    if (!plan.source.is_whole()) {
      float* framed = scratch(plan.source.size());
      put_in_frame(plan.source, x, framed);
      x = framed;
    }
    with.correlate(plan, x, weights.get() + client_at(of_kernel, client) * packed,
                   result->typed_data() + number * made, part, parts);
  });
}

ffi::Error forward(ffi::ThreadPool pool, Pair stride, Pair low, Pair dilation, int64_t groups,
                   Floats x, Floats kernel, Made y) {
  return handled(x.dimensions(), kernel.dimensions(), y->dimensions(), stride, low, dilation,
                 groups, [&](const Convolution& c) {
                   correlate_all(pool, c, forward_plan(c), x, kernel, y);
                 });
}

ffi::Error gradient_by_input(ffi::ThreadPool pool, Pair stride, Pair low, Pair dilation,
                             int64_t groups, Floats dy, Floats kernel, Made dx) {
  return handled(dx->dimensions(), kernel.dimensions(), dy.dimensions(), stride, low, dilation,
                 groups, [&](const Convolution& c) {
                   correlate_all(pool, c, input_gradient_plan(c), dy, kernel, dx);
                 });
}

// What the gradient by the kernel is made of: parts of the batch, summed apart and then in order,
// so that the sums do not depend on the number of threads. A unit is a block of one group's outputs;
// its sums are [taps x inputs, block].
struct KernelGradient {
  const Convolution& c;
  const Kernels& with;
  bool by_channels = c.is_depthwise();
  Frame frame = input_frame(c);
  std::vector<Index> bounds =
      by_channels ? std::vector<Index>{0, c.groups} : with.bounds(c.group_outputs());
  Index blocks = bounds.size() - 1;
  Index units = by_channels ? 1 : blocks * c.groups;
  Index rows = c.kernel_rows * c.kernel_columns * c.group_inputs();
  Index size = (by_channels ? 1 : c.groups) * rows * bounds.back();  // of one part
  Index parts = std::max<Index>(
      1, std::min({c.batch, kMostParts, kBytesOfParts / std::max<Index>(1, size * 4)}));
  std::vector<Tap> taps = forward_plan(c).lattices[0].taps;

  Index group_of(Index unit) const { return unit / blocks; }
  Index first_of(Index unit) const { return bounds[unit % blocks]; }
  Index width_of(Index unit) const { return bounds[unit % blocks + 1] - first_of(unit); }
  Index place_of(Index unit) const {
    return (group_of(unit) * bounds.back() + first_of(unit)) * rows;
  }

  // Sums the images of a part for one unit.
  void sum(const float* x, const float* dy, Index part, Index unit, float* sums) const {
    const Index group = group_of(unit), width = width_of(unit);
    const bool has_tail = !by_channels && c.group_outputs() % with.lanes;
    const Index framed_size = frame.is_whole() ? 0 : frame.size();
    float* framed = scratch(framed_size + (has_tail ? c.rows * c.columns * width : 0));
    sums += place_of(unit);
    std::fill(sums, sums + rows * width, 0.f);
    const std::vector<Run> runs =
        runs_of(frame, taps, 0, taps.size(), group, by_channels ? 0 : c.group_inputs());
    for (Index row = c.batch * part / parts; row < c.batch * (part + 1) / parts; ++row) {
      const float* image = x + row * c.image();
      if (!frame.is_whole()) {
        put_in_frame(frame, image, framed);
        image = framed;
      }
      const float* d = dy + row * c.result() + group * c.group_outputs() + first_of(unit);
      if (by_channels) {
        with.sum_channels(c, frame, runs, image, d, sums);
      } else if (has_tail) {
        fill_up(d, unit, framed + framed_size);
        with.sum_outer(c, frame, runs, image, framed + framed_size, width, width, sums);
      } else {
        with.sum_outer(c, frame, runs, image, d, c.outputs, width, sums);
      }
    }
  }

  // A unit's outputs in whole vectors.
  void fill_up(const float* d, Index unit, float* filled) const {
    const Index width = width_of(unit), valid = std::min(width, c.group_outputs() - first_of(unit));
    for (Index place = 0; place < c.rows * c.columns; ++place, d += c.outputs, filled += width) {
      std::memcpy(filled, d, sizeof(float) * valid);
      std::memset(filled + valid, 0, sizeof(float) * (width - valid));
    }
  }

  // One row of the kernel, (tap, input feature), from all parts.
  void sum_up(const float* sums, Index row, float* dk) const {
    for (Index unit = 0; unit < units; ++unit) {
      const Index first = first_of(unit), width = width_of(unit);
      const Index valid = by_channels ? width : std::min(width, c.group_outputs() - first);
      const float* from = sums + place_of(unit) + row * width;
      float* to = dk + row * c.outputs + group_of(unit) * c.group_outputs() + first;
      std::memcpy(to, from, sizeof(float) * valid);
      for (Index part = 1; part < parts; ++part) {
        for (Index o = 0; o < valid; ++o) to[o] += from[part * size + o];
      }
    }
  }
};

void sum_all(ffi::ThreadPool& pool, const Convolution& c, Floats x, Floats dy, Made dk) {
  const KernelGradient gradient{c, kernels()};
  const bool is_small = c.operations() < kSmall;
  const Index sums_of_client = gradient.parts * gradient.size;
  const Index at_once = std::clamp<Index>(kBytesAtOnce / (4 * std::max<Index>(1, sums_of_client)),
                                          1, std::max<Index>(1, c.clients));
  std::unique_ptr<float[]> sums(new float[at_once * sums_of_client]);
  for (Index first = 0; first < c.clients; first += at_once) {
    const Index clients = std::min(at_once, c.clients - first);
    const Index units = gradient.units, parts = gradient.parts;
    // Slices of the outputs where there are too few parts; where they are cut changes no sum.
    const Index slices = std::clamp<Index>(4 * pool.num_threads() / (clients * parts), 1, units);
    parallel(pool, clients * parts * slices, is_small, [&](Index item) {
      const Index slice = item % slices, part = item / slices % parts;
      const Index n = item / slices / parts, client = first + n;
      for (Index unit = units * slice / slices; unit < units * (slice + 1) / slices; ++unit) {
        gradient.sum(x.typed_data() + client_at(x.dimensions(), client) * c.batch * c.image(),
                     dy.typed_data() + client_at(dy.dimensions(), client) * c.batch * c.result(),
                     part, unit, sums.get() + n * sums_of_client + part * gradient.size);
      }
    });
    parallel(pool, clients * gradient.rows, clients * sums_of_client < kSmall, [&](Index item) {
      const Index n = item / gradient.rows;
      gradient.sum_up(sums.get() + n * sums_of_client, item % gradient.rows,
                      dk->typed_data() + (first + n) * c.kernel());
    });
  }
}

ffi::Error gradient_by_kernel(ffi::ThreadPool pool, Pair stride, Pair low, Pair dilation,
                              int64_t groups, Floats x, Floats dy, Made dk) {
  return handled(x.dimensions(), dk->dimensions(), dy.dimensions(), stride, low, dilation, groups,
                 [&](const Convolution& c) { sum_all(pool, c, x, dy, dk); });
}

}  // namespace
}  // namespace fedjax_kd

#define BINDING                          \
  ffi::Ffi::Bind()                       \
      .Ctx<ffi::ThreadPool>()            \
      .Attr<fedjax_kd::Pair>("stride")   \
      .Attr<fedjax_kd::Pair>("low")      \
      .Attr<fedjax_kd::Pair>("dilation") \
      .Attr<int64_t>("groups")           \
      .Arg<fedjax_kd::Floats>()          \
      .Arg<fedjax_kd::Floats>()          \
      .Ret<fedjax_kd::Floats>()

extern "C" {

XLA_FFI_DEFINE_HANDLER_SYMBOL(fedjax_kd_conv_forward, fedjax_kd::forward, BINDING);
XLA_FFI_DEFINE_HANDLER_SYMBOL(fedjax_kd_conv_input, fedjax_kd::gradient_by_input, BINDING);
XLA_FFI_DEFINE_HANDLER_SYMBOL(fedjax_kd_conv_kernel, fedjax_kd::gradient_by_kernel, BINDING);

const char* fedjax_kd_conv_build() {
  return "abi=1;ffi=" TEXT(XLA_FFI_API_MAJOR) "." TEXT(XLA_FFI_API_MINOR);
}

int fedjax_kd_conv_sets() { return fedjax_kd::available_sets(); }

int fedjax_kd_conv_use(int set) {
  const int chosen = fedjax_kd::chosen_set(set);
  if (chosen) fedjax_kd::set_in_use() = chosen;
  return chosen;
}
}

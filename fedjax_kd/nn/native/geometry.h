// The shapes of a convolution, and the plan by which its products are taken.
//
// NHWC x HWIO with a leading axis of clients. Forward and gradient by the input are both
// correlations of a padded image with taps; they differ in the taps, in the direction in which the
// kernel is read, and in that a strided gradient has places of several kinds (`Lattice`).
#ifndef FEDJAX_KD_GEOMETRY_H_
#define FEDJAX_KD_GEOMETRY_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace fedjax_kd {

using Index = int64_t;

struct Convolution {
  Index clients, batch;
  Index height, width, inputs;      // of the input
  Index rows, columns, outputs;     // of the output
  Index kernel_rows, kernel_columns, groups;
  Index stride[2], low[2], dilation[2];  // low: zeros before the first row and column

  Index group_inputs() const { return inputs / groups; }
  Index group_outputs() const { return outputs / groups; }
  bool is_depthwise() const { return group_inputs() == 1 && group_outputs() == 1; }
  Index image() const { return height * width * inputs; }
  Index result() const { return rows * columns * outputs; }
  Index kernel() const { return kernel_rows * kernel_columns * group_inputs() * outputs; }
  double operations() const {
    return 2.0 * clients * batch * rows * columns * static_cast<double>(kernel());
  }
};

// An image and the frame of zeros that it is read through; a negative edge crops it.
struct Frame {
  Index height, width, features;
  Index top, left, rows, columns;  // of the frame

  bool is_whole() const { return top == 0 && left == 0 && rows <= height && columns == width; }
  Index size() const { return rows * columns * features; }
};

// Numbers side by side in the framed image that meet consecutive rows of the packed kernel.
struct Run {
  Index offset, length;
};

struct Tap {
  Index row, column, number;  // place in the frame, seen from the first place; number in the kernel
};

// Places of the result that see the same taps: all of them, or every stride-th one.
struct Lattice {
  Index row, row_step, rows;
  Index column, column_step, columns;
  std::vector<Tap> taps;
};

// How the kernel is read: for one group, entry (tap, contracted feature, made feature).
struct KernelOrder {
  Index tap, contracted, made, group;  // distances between neighbours
};

// Taps of one row of the kernel: the numbers [first, last) of those of a lattice.
struct TapRow {
  Index row, first, last;
};

struct Correlation {
  Frame source;
  Index step[2];                   // in the frame, from one place of a lattice to the next
  Index height, width, features;   // of the result
  Index groups, contracted, made;  // features of one group, read and made
  KernelOrder order;
  std::vector<Lattice> lattices;

  bool is_depthwise() const { return contracted == 1 && made == 1; }

  // Numbers of the kernel as `pack` puts them.
  Index packed(Index lanes) const {
    Index taps = 0;
    for (const Lattice& lattice : lattices) taps += lattice.taps.size();
    if (is_depthwise()) return taps * groups;
    return taps * groups * contracted * ((made + lanes - 1) / lanes * lanes);
  }
};

inline Frame input_frame(const Convolution& c) {
  Frame frame{c.height, c.width, c.inputs, c.low[0], c.low[1],
              (c.rows - 1) * c.stride[0] + (c.kernel_rows - 1) * c.dilation[0] + 1,
              (c.columns - 1) * c.stride[1] + (c.kernel_columns - 1) * c.dilation[1] + 1};
  // An image that has all that is read needs no copy, whatever it has beyond that.
  if (frame.top == 0 && frame.left == 0 && frame.rows <= c.height && frame.columns <= c.width) {
    frame.columns = c.width;
  }
  return frame;
}

inline Correlation forward_plan(const Convolution& c) {
  Correlation plan{input_frame(c), {c.stride[0], c.stride[1]}, c.rows, c.columns, c.outputs,
                   c.groups, c.group_inputs(), c.group_outputs(),
                   {c.group_inputs() * c.outputs, c.outputs, 1, c.group_outputs()}, {}};
  Lattice all{0, 1, c.rows, 0, 1, c.columns, {}};
  for (Index i = 0; i < c.kernel_rows; ++i) {
    for (Index j = 0; j < c.kernel_columns; ++j) {
      all.taps.push_back({i * c.dilation[0], j * c.dilation[1], i * c.kernel_columns + j});
    }
  }
  plan.lattices.push_back(std::move(all));
  return plan;
}

// One axis of the gradient by the input: the taps that reach the places first, first + stride, ...
struct Reach {
  Index first, places;
  std::vector<std::pair<Index, Index>> taps;  // (place in the output that the first one sees, tap)
};

inline std::vector<Reach> reaches(Index size, Index taps, Index stride, Index low, Index dilation) {
  std::vector<Reach> found;
  for (Index first = 0; first < std::min(stride, size); ++first) {
    Reach reach{first, (size - first + stride - 1) / stride, {}};
    for (Index tap = taps - 1; tap >= 0; --tap) {
      Index place = first + low - tap * dilation;
      if (place % stride == 0) reach.taps.emplace_back(place / stride, tap);
    }
    found.push_back(std::move(reach));
  }
  return found;
}

// The first output that is read, and how many from there on.
inline std::pair<Index, Index> span_of(const std::vector<Reach>& axis) {
  Index low = INT64_MAX, high = INT64_MIN;
  for (const Reach& reach : axis) {
    for (const auto& tap : reach.taps) {
      low = std::min(low, tap.first);
      high = std::max(high, tap.first + reach.places);
    }
  }
  return low < high ? std::make_pair(low, high - low) : std::make_pair(Index{0}, Index{1});
}

inline Correlation input_gradient_plan(const Convolution& c) {
  auto down = reaches(c.height, c.kernel_rows, c.stride[0], c.low[0], c.dilation[0]);
  auto across = reaches(c.width, c.kernel_columns, c.stride[1], c.low[1], c.dilation[1]);
  auto [top, rows] = span_of(down);
  auto [left, columns] = span_of(across);
  Correlation plan{{c.rows, c.columns, c.outputs, -top, -left, rows, columns}, {1, 1},
                   c.height, c.width, c.inputs,
                   c.groups, c.group_outputs(), c.group_inputs(),
                   {c.group_inputs() * c.outputs, 1, c.outputs, c.group_outputs()}, {}};
  for (const Reach& row : down) {
    for (const Reach& column : across) {
      Lattice lattice{row.first,    c.stride[0], row.places, column.first,
                      c.stride[1],  column.places, {}};
      for (const auto& [r, i] : row.taps) {
        for (const auto& [s, j] : column.taps) {
          lattice.taps.push_back({r - top, s - left, i * c.kernel_columns + j});
        }
      }
      plan.lattices.push_back(std::move(lattice));
    }
  }
  return plan;
}

inline std::vector<TapRow> tap_rows(const std::vector<Tap>& taps) {
  std::vector<TapRow> rows;
  for (Index n = 0; n < static_cast<Index>(taps.size()); ++n) {
    if (rows.empty() || rows.back().row != taps[n].row) rows.push_back({taps[n].row, n, n});
    rows.back().last = n + 1;
  }
  return rows;
}

// The taps that see more than zeros from a row of the frame, as the numbers [first, last).
inline std::pair<Index, Index> seeing(const Frame& frame, const std::vector<TapRow>& rows,
                                      Index from) {
  std::pair<Index, Index> found{0, 0};
  for (const TapRow& row : rows) {
    const Index seen = from + row.row - frame.top;
    if (seen < 0 || seen >= frame.height) continue;
    if (found.first == found.second) found.first = row.first;
    found.second = row.last;
  }
  return found;
}

// Taps [first, last) of one group as runs of numbers that lie side by side in the frame.
inline std::vector<Run> runs_of(const Frame& frame, const std::vector<Tap>& taps, Index first,
                                Index last, Index group, Index features) {
  std::vector<Run> runs;
  for (Index n = first; n < last; ++n) {
    const Tap& tap = taps[n];
    const Index offset =
        (tap.row * frame.columns + tap.column) * frame.features + group * features;
    if (!runs.empty() && runs.back().offset + runs.back().length == offset) {
      runs.back().length += features;
    } else {
      runs.push_back({offset, features});
    }
  }
  return runs;
}

// Copies an image into its frame.
inline void put_in_frame(const Frame& f, const float* image, float* framed) {
  const Index first = std::max<Index>(0, -f.left);
  const Index last = std::min(f.width, f.columns - f.left);
  for (Index r = 0; r < f.rows; ++r) {
    float* row = framed + r * f.columns * f.features;
    const Index from = r - f.top;
    if (from < 0 || from >= f.height || first >= last) {
      std::memset(row, 0, sizeof(float) * f.columns * f.features);
      continue;
    }
    const Index before = first + f.left, copied = last - first;
    std::memset(row, 0, sizeof(float) * before * f.features);
    std::memcpy(row + before * f.features, image + (from * f.width + first) * f.features,
                sizeof(float) * copied * f.features);
    std::memset(row + (before + copied) * f.features, 0,
                sizeof(float) * (f.columns - before - copied) * f.features);
  }
}

}  // namespace fedjax_kd

#endif  // FEDJAX_KD_GEOMETRY_H_

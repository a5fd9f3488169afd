#include "int8.h"

#include "parallel.h"

namespace pruneonce {

namespace {

// Panels of one part follow each other: the part's weights are then still in some cache.
template <class Weight, class Task>
void for_each_part(const Weight& weight, std::size_t panels, Task task) {
  if (weight.rows() == 0) return;
  const std::size_t parts = weight.parts(panels);
  parallel_for(panels * parts,
               [&](std::size_t index) { task(index % panels, weight.rows_of_part(index / panels, parts)); });
}

}  // namespace

template <class Weight>
void multiply(const Weight& weight, const Codes& x, const float* bias, const Activations* residual, Nonlinearity f,
              const Activations& y) {
  for_each_part(weight, x.panels(), [&](std::size_t index, const RowRange& rows) {
    const Panel to = y.panel(index);
    float* const here = to.data + rows.first * to.stride;
    weight.multiply(rows, x.panel(index), to.vectors, bias, residual ? residual->panel(index).data : nullptr, here);
    apply(f, weight.isa(), here, rows.count() * to.stride);
  });
}

template <class Weight>
void multiply_to_codes(const Weight& weight, const Codes& x, const float* bias, Nonlinearity f, const CodeOf& code,
                       Codes& y) {
  y.resize(weight.rows(), x.tokens(), code);
  for_each_part(weight, x.panels(), [&](std::size_t index, const RowRange& rows) {
    const Panel panel = panel_of(index, x.tokens(), weight.isa());
    thread_local Buffer buffer;
    float* const floats = buffer.at_least(rows.count() * panel.stride);
    weight.multiply(rows, x.panel(index), panel.vectors, bias, nullptr, floats);
    apply(f, weight.isa(), floats, rows.count() * panel.stride);
    y.set(panel, rows.first, rows.count(), floats);
  });
}

template void multiply(const Int8Weight&, const Codes&, const float*, const Activations*, Nonlinearity,
                       const Activations&);
template void multiply(const Int8DenseWeight&, const Codes&, const float*, const Activations*, Nonlinearity,
                       const Activations&);
template void multiply_to_codes(const Int8Weight&, const Codes&, const float*, Nonlinearity, const CodeOf&, Codes&);
template void multiply_to_codes(const Int8DenseWeight&, const Codes&, const float*, Nonlinearity, const CodeOf&,
                                Codes&);

}  // namespace pruneonce

// Functions of vectors, for the kernels; included after the vector header. No header of the standard library: see
// spmm_kernel.cc.
#pragma once

namespace pruneonce::PRUNEONCE_ISA_NAMESPACE {

// e^x with a relative error below 2e-7; 0 below -87.3, where fp32 has no normal numbers left.
inline Vec exp(Vec x) {
  const Vec lowest = Vec::broadcast(-87.33654f);
  const Vec clamped = Vec::min(Vec::max(x, lowest), Vec::broadcast(88.02f));
  const Vec magic = Vec::broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const Vec shifted = Vec::multiply_add(clamped, Vec::broadcast(1.44269504f), magic);
  const Vec n = shifted - magic;
  // ln 2 in two parts, the first exact in a few bits: n * ln 2 without rounding
  Vec r = Vec::multiply_add(n, Vec::broadcast(-0.693359375f), clamped);
  r = Vec::multiply_add(n, Vec::broadcast(2.12194440e-4f), r);
  // Taylor series: its rest is r^8 / 8! <= 5e-9 for |r| <= ln 2 / 2
  Vec sum = Vec::broadcast(1.0f / 5040);
  sum = Vec::multiply_add(sum, r, Vec::broadcast(1.0f / 720));
  sum = Vec::multiply_add(sum, r, Vec::broadcast(1.0f / 120));
  sum = Vec::multiply_add(sum, r, Vec::broadcast(1.0f / 24));
  sum = Vec::multiply_add(sum, r, Vec::broadcast(1.0f / 6));
  sum = Vec::multiply_add(sum, r, Vec::broadcast(0.5f));
  sum = Vec::multiply_add(sum, r, Vec::broadcast(1.0f));
  sum = Vec::multiply_add(sum, r, Vec::broadcast(1.0f));
  return sum * Vec::power_of_two(shifted);
}

// 2^x for x < 127, with a relative error below 3e-7; 0 or nearly so below -126. The polynomial was fitted by us to 2^r
// on |r| <= 1/2 (7.5e-8).
inline Vec exp2(Vec x) {
  const Vec magic = Vec::broadcast(12582912.0f);  // see exp
  const Vec clamped = Vec::max(x, Vec::broadcast(-126.0f));
  const Vec shifted = clamped + magic;
  const Vec r = clamped - (shifted - magic);
  Vec sum = Vec::broadcast(1.3276472454890609e-3f);
  sum = Vec::multiply_add(sum, r, Vec::broadcast(9.675541892647743e-3f));
  sum = Vec::multiply_add(sum, r, Vec::broadcast(5.550713092088699e-2f));
  sum = Vec::multiply_add(sum, r, Vec::broadcast(2.4022120237350464e-1f));
  sum = Vec::multiply_add(sum, r, Vec::broadcast(6.931469440460205e-1f));
  sum = Vec::multiply_add(sum, r, Vec::broadcast(1.0000001192092896f));
  return sum * Vec::power_of_two(shifted);
}

// The error function, with an absolute error below 7e-7, exactly -1 and 1 at the ends: a rational function of degree
// 11 / 10, fitted to it by weighted least squares on |x| <= 3.92, where 1 - erf(x) reaches half a unit of fp32's last
// place.
inline Vec erf(Vec x) {
  const Vec z = Vec::min(Vec::max(x, Vec::broadcast(-3.9192059f)), Vec::broadcast(3.9192059f));
  const Vec u = z * z;
  Vec p = Vec::broadcast(2.0507204681052826e-06f);
  p = Vec::multiply_add(p, u, Vec::broadcast(2.8488985844887793e-04f));
  p = Vec::multiply_add(p, u, Vec::broadcast(3.7645669654011726e-03f));
  p = Vec::multiply_add(p, u, Vec::broadcast(5.2745617926120758e-02f));
  p = Vec::multiply_add(p, u, Vec::broadcast(1.9037793576717377e-01f));
  p = Vec::multiply_add(p, u, Vec::broadcast(1.1283791065216064f));
  Vec q = Vec::broadcast(3.8098620279924944e-05f);
  q = Vec::multiply_add(q, u, Vec::broadcast(1.1623373720794916e-03f));
  q = Vec::multiply_add(q, u, Vec::broadcast(1.4967100694775581e-02f));
  q = Vec::multiply_add(q, u, Vec::broadcast(1.1409792304039001e-01f));
  q = Vec::multiply_add(q, u, Vec::broadcast(5.0205081701278687e-01f));
  q = Vec::multiply_add(q, u, Vec::broadcast(1.0f));
  // Slightly too much, then cut: otherwise a large negative x times 1 + erf(x) would not be zero.
  const Vec one = Vec::broadcast(1.0f);
  return Vec::max(Vec::min(z * Vec::broadcast(1.00000024f) * p / q, one), Vec::broadcast(0.0f) - one);
}

}  // namespace pruneonce::PRUNEONCE_ISA_NAMESPACE

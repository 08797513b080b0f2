"""Functions of 16 floats: exp, tanh, erf, and the activations made of them. A NaN stays NaN."""

from memfirst.kernels.cpu.lang import inline
from memfirst.kernels.cpu.simd import add, fma, mul, shl, sub
from memfirst.kernels.cpu.simd16 import (
    absolute,
    as_float16,
    div,
    larger,
    rint,
    smaller,
    splat16,
    splat16_i,
    to_int16,
)


@inline
def exp16(x):
    """e^x, relative error below 3e-7: 2^n by shifting n into the exponent, 2^f (|f| <= 1/2) by its Taylor series."""
    x = smaller(splat16(87.33654), larger(splat16(-87.33654), x))  # ± 126 · ln 2; NaN stays
    n = rint(mul(x, splat16(1.4426950408889634)))
    f = fma(x, splat16(1.4426950216293335), sub(splat16(0.0), n))  # log2 e in two parts: x · log2 e − n to 2^-24
    f = fma(x, splat16(1.92596299e-8), f)
    p = splat16(1.5403530393381609e-4)
    p = fma(p, f, splat16(1.3333558146428443e-3))
    p = fma(p, f, splat16(9.618129107628477e-3))
    p = fma(p, f, splat16(5.5504108664821576e-2))
    p = fma(p, f, splat16(2.4022650695910072e-1))
    p = fma(p, f, splat16(6.931471805599453e-1))
    p = fma(p, f, splat16(1.0))
    return mul(p, as_float16(shl(add(to_int16(n), splat16_i(127)), 23)))


@inline
def _bounded(x, most):
    """x, at least −most and at most `most`."""
    return smaller(splat16(most), larger(splat16(-most), x))


@inline
def tanh16(x):
    """Hyperbolic tangent, relative error below 5e-7: Eigen's rational function, 1 from 7.9 on."""
    x = _bounded(x, 7.90531110763549805)
    x2 = mul(x, x)
    p = fma(x2, splat16(-2.76076847742355e-16), splat16(2.00018790482477e-13))
    p = fma(p, x2, splat16(-8.60467152213735e-11))
    p = fma(p, x2, splat16(5.12229709037114e-08))
    p = fma(p, x2, splat16(1.48572235717979e-05))
    p = fma(p, x2, splat16(6.37261928875436e-04))
    p = mul(fma(p, x2, splat16(4.89352455891786e-03)), x)
    q = fma(x2, splat16(1.19825839466702e-06), splat16(1.18534705686654e-04))
    q = fma(q, x2, splat16(2.26843463243900e-03))
    return div(p, fma(q, x2, splat16(4.89352518554385e-03)))


@inline
def erf16(x):
    """The error function, relative error below 5e-7: Eigen's rational function, 1 from 4 on."""
    x = _bounded(x, 4.0)
    x2 = mul(x, x)
    p = fma(x2, splat16(-2.72614225801306e-10), splat16(2.77068142495902e-08))
    p = fma(p, x2, splat16(-2.10102402082508e-06))
    p = fma(p, x2, splat16(-5.69250639462346e-05))
    p = fma(p, x2, splat16(-7.34990630326855e-04))
    p = fma(p, x2, splat16(-2.95459980854025e-03))
    p = mul(fma(p, x2, splat16(-1.60960333262415e-02)), x)
    q = fma(x2, splat16(-1.45660718464996e-05), splat16(-2.13374055278905e-04))
    q = fma(q, x2, splat16(-1.68282697438203e-03))
    q = fma(q, x2, splat16(-7.37332916720468e-03))
    return div(p, fma(q, x2, splat16(-1.42647390514189e-02)))


@inline
def softcap16(x, cap):
    """cap · tanh(x / cap)."""
    return mul(splat16(cap), tanh16(div(x, splat16(cap))))


@inline
def scaled_silu16(x, slope):
    """x · sigmoid(slope · x)."""
    return div(x, add(splat16(1.0), exp16(mul(x, splat16(-slope)))))


@inline
def sigmoid16(x):
    """1 / (1 + e^−x)."""
    return div(splat16(1.0), add(splat16(1.0), exp16(sub(splat16(0.0), x))))


@inline
def silu16(x):
    """x · sigmoid(x)."""
    return div(x, add(splat16(1.0), exp16(sub(splat16(0.0), x))))


@inline
def softplus16(x):
    """ln(1 + e^x), relative error below 5e-7: max(x, 0) + ln(1 + e^−|x|), as 2 · artanh(y / (2 + y)) by its series."""
    y = exp16(sub(splat16(0.0), absolute(x)))
    s = div(y, add(splat16(2.0), y))
    s2 = mul(s, s)
    p = fma(s2, splat16(0.15384615384615385), splat16(0.18181818181818182))
    p = fma(p, s2, splat16(0.2222222222222222))
    p = fma(p, s2, splat16(0.2857142857142857))
    p = fma(p, s2, splat16(0.4))
    p = fma(p, s2, splat16(0.6666666666666666))
    return fma(s, fma(p, s2, splat16(2.0)), larger(splat16(0.0), x))


@inline
def gelu16(x):
    """The tanh form: x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))."""
    inner = mul(splat16(0.7978845608028654), fma(mul(mul(x, x), x), splat16(0.044715), x))
    half = mul(splat16(0.5), x)
    return mul(half, add(splat16(1.0), tanh16(inner)))


@inline
def gelu_erf16(x):
    """The exact form: x/2 · (1 + erf(x / √2))."""
    half = mul(splat16(0.5), x)
    return mul(half, add(splat16(1.0), erf16(mul(x, splat16(0.7071067811865476)))))


@inline
def relu16(x):
    """max(x, 0)."""
    return larger(splat16(0.0), x)


@inline
def relu2_16(x):
    """max(x, 0)²."""
    y = larger(splat16(0.0), x)
    return mul(y, y)


@inline
def swiglu_clamped16(gate, up):
    """gate · sigmoid(1.702 · gate) · (up + 1), gate at most 7 and up within ±7."""
    gate = smaller(splat16(7.0), gate)
    return mul(scaled_silu16(gate, 1.702), add(_bounded(up, 7.0), splat16(1.0)))

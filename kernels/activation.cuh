// The smooth nonlinearities: sigma<A>(x) and sigma_derivative<A>(x) for x float or double. Bounds (in both types those
// of f64), limits, NaN and -0 are as in src/activation.rs, whose formulas these are, with fused multiply-adds and, for
// float, tables of its own.
//
// Everything is sums, products, fused multiply-adds, comparisons and bits, each correctly rounded (no flush
// to zero, no contraction). So whatever compiles this file gets the same bits, and the accuracy that a CPU
// measures, over all 2^32 floats, is a GPU's too. Nothing is called, and only the derivatives of double may
// branch.
//
// CUDA's own expf, erfcf and division would not do: their results differ from a CPU's, they offer no e^x
// apart from its exponent, which the subnormal tails need, and division brings a slow path that no argument
// here takes.
#pragma once

#include <stdint.h>

// All of them: the name in entry points, and the type that stands for it. A new one has a row here, and a value() and a
// derivative() below.
#define DA_SMOOTH_ACTIVATIONS(ROW) \
    ROW(sigmoid, Sigmoid)          \
    ROW(tanh, Tanh)                \
    ROW(gelu, Gelu)                \
    ROW(silu, Silu)

#define DA_DECLARE(name, Act) \
    struct Act {};
DA_SMOOTH_ACTIVATIONS(DA_DECLARE)
#undef DA_DECLARE

namespace activation {

#define DA_FN __device__ __forceinline__

// ---- What differs between the types: words, cut-offs and approximations (scripts/activation-constants).

DA_FN float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
DA_FN double multiply_add(double a, double b, double c) { return fma(a, b, c); }
DA_FN float absolute(float x) { return fabsf(x); }
DA_FN double absolute(double x) { return fabs(x); }
DA_FN float with_sign(float a, float x) { return copysignf(a, x); }
DA_FN double with_sign(double a, double x) { return copysign(a, x); }

// Horner's rule, lowest coefficient first.
template <class T>
DA_FN T polynomial(T, T c) { return c; }
template <class T, class... Ts>
DA_FN T polynomial(T x, T c, Ts... higher) { return multiply_add(polynomial(x, higher...), x, c); }

// 1 / d to about an ulp, for positive d far from overflow and underflow. Subtracting its bits from a constant
// negates the exponent and gives a guess good to 5 %; each Newton step squares the error.
DA_FN float reciprocal(float d) {
    float y = __uint_as_float(0x7EF311C7u - __float_as_uint(d));
    for (int i = 0; i < 3; ++i) y = fmaf(y, fmaf(-d, y, 1.0f), y);
    return y;
}
DA_FN double reciprocal(double d) {
    double y = __longlong_as_double(0x7FDE623822FC16E6 - __double_as_longlong(d));
    for (int i = 0; i < 4; ++i) y = fma(y, fma(-d, y, 1.0), y);
    return y;
}

// n / d for such d; infinite n stays infinite.
template <class T>
DA_FN T quotient(T n, T d) { return n * reciprocal(d); }

template <class T> struct Constants;

template <> struct Constants<float> {
    // |x| is cut off where all results have reached their limits.
    static constexpr float kExpLimit = 110.0f, kGeluLimit = 14.75f;
    // 1.5 * 2^23 rounds to an integer k; 127 + 64 more make the exponent field of 2^(k + 64) of it.
    static constexpr float kRound = 12583103.0f, kUndo = 0x1p-64f;
    static constexpr float kLog2E = 1.44269502f, kLn2High = 0.693145752f, kLn2Low = 1.42860677e-06f;
    static constexpr float kInvSqrt2Pi = 0.398942292f;
    static constexpr float kTailCentre = 3.0f;
    static constexpr float kSiluRoot = -1.27846456f, kSiluRootLow = 1.29792825e-08f, kSiluHalfWidth = 0.3f;
    static constexpr float kGeluRoot = -0.751791537f, kGeluRootLow = 1.21144499e-08f, kGeluHalfWidth = 0.25f;
    static DA_FN float power(float shifted) { return __uint_as_float(__float_as_uint(shifted) << 23); }
    static DA_FN float exp_rest(float r) {
        return polynomial(r, 0.5f, 0.166665778f, 0.0416668542f, 0.00836315285f, 0.00139011035f);
    }
    static DA_FN float tail(float t) {
        return polynomial(t, 0.729083717f, -0.509332001f, 0.230017707f, -0.047262691f, -0.0104625141f,
                          0.00696932292f, 0.00102476391f, -0.00103259541f, -0.000244752882f, 0.000131338049f,
                          5.4498898e-05f);
    }
    static DA_FN float silu(float z) {
        return polynomial(z, 0.217811704f, 0.146648809f, 0.0188747775f, -0.0152239278f, -0.00660531642f,
                          0.000155236499f, 0.000784761622f);
    }
    static DA_FN float gelu(float z) {
        return polynomial(z, 0.431493998f, 0.388284922f, -0.0181996096f, -0.114000663f, -0.0147727141f,
                          0.0191785395f, 0.00449799467f);
    }
};

template <> struct Constants<double> {
    static constexpr double kExpLimit = 760.0, kGeluLimit = 39.0;
    // 1.5 * 2^52, and 1023 + 128 for the exponent field of 2^(k + 128).
    static constexpr double kRound = 6755399441055744.0 + 1151.0, kUndo = 0x1p-128;
    static constexpr double kLog2E = 1.4426950408889634,
                            kLn2High = 0.6931471803691238, kLn2Low = 1.9082149292705877e-10;
    static constexpr double kInvSqrt2Pi = 0.3989422804014327;
    static constexpr double kTailCentre = 5.5;
    static constexpr double kSiluRoot = -1.2784645427610737,
                            kSiluRootLow = -1.0946994183093437e-16, kSiluHalfWidth = 0.5;
    static constexpr double kGeluRoot = -0.7517915246935645,
                            kGeluRootLow = 1.4956759177009883e-17, kGeluHalfWidth = 0.45;
    static DA_FN double power(double shifted) { return __longlong_as_double(__double_as_longlong(shifted) << 52); }
    static DA_FN double exp_rest(double r) {
        return polynomial(r, 0.5000000000000001, 0.16666666666666644, 0.04166666666662431, 0.008333333333356343,
                          0.0013888888917137825, 0.00019841269784250554, 2.4801521397004407e-05,
                          2.755735596961403e-06, 2.762004638034399e-07, 2.5067997508667864e-08);
    }
    static DA_FN double tail(double t) {
        return polynomial(t, 0.7737696342764068, -0.6851834205743381, 0.5355964890624947, -0.36704906529362047,
                          0.21787243285795935, -0.10970308995869771, 0.04509758081490327,
                          -0.013923510565968428, 0.0024429826743150983, 0.0002696040030696941,
                          -0.00032452264984845016, 7.141484134473497e-05, 1.631997251331257e-05,
                          -1.211887418916899e-05, 4.4637707576908287e-07, 1.4838289073245833e-06,
                          -2.6782252163523555e-07, -1.775712435069941e-07, 5.029851472565815e-08,
                          2.2941187157979754e-08, -5.672362553094558e-09, -2.5870012202449703e-09);
    }
    static DA_FN double silu(double z) {
        return polynomial(z, 0.2178117057198001, 0.14664879699694688, 0.01887481422378236, -0.015222655223186053,
                          -0.006606589138360602, 0.00012662740996943625, 0.0007985218819618565,
                          0.0001857072464411269, -4.090534422628172e-05, -2.9733580224209833e-05,
                          -2.942616957009368e-06, 2.346319673138944e-06, 8.599060617137708e-07,
                          -3.177606437500532e-08, -9.254745423025358e-08, -1.5932739406072357e-08,
                          4.621667522318291e-09);
    }
    static DA_FN double gelu(double z) {
        return polynomial(z, 0.43149399231404695, 0.388284982990552, -0.018199676398672884, -0.11400823329721477,
                          -0.01477152214805658, 0.019421679837823495, 0.0045392283716576545,
                          -0.0022395380596121573, -0.0007448266928965526, 0.00018633964639711267,
                          8.615793315634058e-05, -1.1213758797615122e-05, -7.739374579426963e-06,
                          4.309554312164834e-07, 5.42348817840034e-07, 2.6328721609762874e-10);
    }
};

// ---- The formulas.

// |x|, at most `limit`; NaN stays NaN.
template <class T>
DA_FN T magnitude(T x, T limit) {
    const T a = absolute(x);
    return a > limit ? limit : a;
}

// e^x = (1 + rest) 2^k. Factors are applied to 1 + rest and 2^k comes last, so that a subnormal result is
// rounded once and what multiplies e^x does not multiply its rounding error.
template <class T>
struct Exponential {
    using C = Constants<T>;
    T rest, scale;

    // e^(high + low) for high <= 0. Adding -0, unlike 0, is nothing, and the compiler knows.
    DA_FN explicit Exponential(T high, T low = T(-0.0)) {
        const T shifted = multiply_add(high, C::kLog2E, C::kRound);
        const T k = shifted - C::kRound;
        const T r = multiply_add(-k, C::kLn2Low, multiply_add(-k, C::kLn2High, high) + low);
        rest = multiply_add(r * r, C::exp_rest(r), r);
        scale = C::power(shifted);
    }

    // v 2^k
    DA_FN T scaled(T v) const { return v * scale * C::kUndo; }
    // e^x
    DA_FN T value() const { return scaled(1 + rest); }
    // v e^x
    DA_FN T times(T v) const { return scaled(multiply_add(v, rest, v)); }
};

// v e^-a / (1 + e^-a)^2
template <class T>
DA_FN T bell(T a, T v) {
    const Exponential<T> exp(-a);
    const T e = exp.value();
    return exp.scaled(quotient(v * (1 + exp.rest), multiply_add(e, 2 + e, T(1))));
}

template <class T>
DA_FN T value(Sigmoid, T x) {
    const T e = Exponential<T>(-magnitude(x, Constants<T>::kExpLimit)).value();
    return quotient(x < 0 ? e : T(1), 1 + e);
}

template <class T>
DA_FN T derivative(Sigmoid, T x) {
    return bell(magnitude(x, Constants<T>::kExpLimit), T(1));
}

template <class T>
DA_FN T value(Tanh, T x) {
    const Exponential<T> exp(-2 * magnitude(x, Constants<T>::kExpLimit / 2));
    // e^-2a - 1, with k = 0 where a is small.
    const T power = exp.scaled(T(1));
    const T difference = multiply_add(power, exp.rest, power - 1);
    return with_sign(quotient(difference, 2 + difference), x);
}

template <class T>
DA_FN T derivative(Tanh, T x) {
    return bell(2 * magnitude(x, Constants<T>::kExpLimit / 2), T(4));
}

template <class T>
DA_FN T value(Silu, T x) {
    const T a = magnitude(x, Constants<T>::kExpLimit);
    const Exponential<T> exp(-a);
    const bool negative = x < 0;
    const T ratio = quotient(negative ? -multiply_add(a, exp.rest, a) : x, 1 + exp.value());
    return negative ? exp.scaled(ratio) : ratio;
}

template <class T>
DA_FN T derivative(Silu, T x) {
    using C = Constants<T>;
    const T a = magnitude(x, C::kExpLimit);
    const Exponential<T> exp(-a);
    const T e = exp.value();
    // SiLU'(-a) = e (1 - a + e) / (1 + e)^2; the sum is exact in two words where it matters.
    const T one_less = 1 - a;
    const T sum = one_less + e;
    const T sum_low = e - (sum - one_less);
    const T numerator = sum + multiply_add(sum, exp.rest, sum_low);
    const T negative = exp.scaled(quotient(numerator, multiply_add(e, 2 + e, T(1))));
    const T far = x < 0 ? negative : 1 - negative;
    // The formula cancels near its zero: there a polynomial times x - zero.
    const T z = (x - C::kSiluRoot) - C::kSiluRootLow;
    return absolute(z) < C::kSiluHalfWidth ? z * C::silu(z) : far;
}

// e^(-a^2/2), and what the normal distribution's tail beyond a is of it.
template <class T>
struct NormalTail {
    Exponential<T> exp;
    T ratio;

    // The rounding error of a^2 is put back; alone it would cost a^2/4 ulp.
    DA_FN explicit NormalTail(T a) : exp(T(-0.5) * (a * a), T(-0.5) * multiply_add(a, a, -(a * a))) {
        const T inverse = reciprocal(a + Constants<T>::kTailCentre);
        ratio = Constants<T>::tail(multiply_add(2 * a, inverse, T(-1))) * inverse;
    }
};

template <class T>
DA_FN T value(Gelu, T x) {
    const T a = magnitude(x, Constants<T>::kGeluLimit);
    const NormalTail<T> tail(a);
    const T negative = -tail.exp.times(a * tail.ratio);
    const T positive = x * (1 - tail.exp.times(tail.ratio));
    return x < 0 ? negative : positive;
}

template <class T>
DA_FN T derivative(Gelu, T x) {
    using C = Constants<T>;
    const T a = magnitude(x, C::kGeluLimit);
    const NormalTail<T> tail(a);
    const T negative = tail.exp.times(multiply_add(-a, C::kInvSqrt2Pi, tail.ratio));
    const T far = x < 0 ? negative : 1 - negative;
    const T z = (x - C::kGeluRoot) - C::kGeluRootLow;
    return absolute(z) < C::kGeluHalfWidth ? z * C::gelu(z) : far;
}

#undef DA_FN

}  // namespace activation

// σ(x)
template <class A, class T>
__device__ __forceinline__ T sigma(T x) {
    return activation::value(A{}, x);
}

// σ'(x)
template <class A, class T>
__device__ __forceinline__ T sigma_derivative(T x) {
    return activation::derivative(A{}, x);
}

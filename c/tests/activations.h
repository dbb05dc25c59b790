/* The activations as plain C computes them. Made of tests/data/activations.json by
   BLESS=1 cargo test -p drop-activation-c --test header. */
// clang-format off
#ifndef ACTIVATIONS_H
#define ACTIVATIONS_H

#include <drop_activation.h>

#include <math.h>

static const double pi = 3.14159265358979323846;

static double relu_value(double x) { return x > 0 ? x : 0; }
static double relu_derivative(double x) { return x > 0; }

static double sigmoid_value(double x) { return 1 / (1 + exp(-x)); }
static double sigmoid_derivative(double x) { return exp(-x) / ((1 + exp(-x)) * (1 + exp(-x))); }

static double tanh_value(double x) { return tanh(x); }
static double tanh_derivative(double x) { return 4 * exp(-2 * x) / ((1 + exp(-2 * x)) * (1 + exp(-2 * x))); }

static double gelu_value(double x) { return x * erfc(-x / sqrt(2)) / 2; }
static double gelu_derivative(double x) { return erfc(-x / sqrt(2)) / 2 + x * exp(-x * x / 2) / sqrt(2 * pi); }

static double silu_value(double x) { return x / (1 + exp(-x)); }
static double silu_derivative(double x) { return (1 + x / (1 + exp(x))) / (1 + exp(-x)); }

/* In the order of their codes, which are 0 and up. */
static const struct {
  uint32_t code;
  const char *name;
  double (*value)(double);
  double (*derivative)(double);
} ACTIVATIONS[] = {
    {DACT_ACTIVATION_RELU, "relu", relu_value, relu_derivative},
    {DACT_ACTIVATION_SIGMOID, "sigmoid", sigmoid_value, sigmoid_derivative},
    {DACT_ACTIVATION_TANH, "tanh", tanh_value, tanh_derivative},
    {DACT_ACTIVATION_GELU, "gelu", gelu_value, gelu_derivative},
    {DACT_ACTIVATION_SILU, "silu", silu_value, silu_derivative},
};

enum { ACTIVATION_COUNT = sizeof ACTIVATIONS / sizeof *ACTIVATIONS };

#endif

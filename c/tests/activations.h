/* The activations as plain C computes them: the one table of the C programs to which a new one is added. */
#ifndef ACTIVATIONS_H
#define ACTIVATIONS_H

#include <drop_activation.h>

#include <math.h>

static double relu(double x) { return x > 0 ? x : 0; }
static double relu_derivative(double x) { return x > 0; }

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double sigmoid_derivative(double x) { return sigmoid(x) * (1 - sigmoid(x)); }

static double tanh_derivative(double x) { return 1 - tanh(x) * tanh(x); }

static double gelu(double x) { return x * erfc(-x / sqrt(2)) / 2; }
static double gelu_derivative(double x) { return erfc(-x / sqrt(2)) / 2 + x * exp(-x * x / 2) / sqrt(2 * acos(-1.0)); }

static double silu(double x) { return x / (1 + exp(-x)); }
static double silu_derivative(double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }

/* In the order of their codes, which are 0 and up. */
static const struct {
  uint32_t code;
  const char *name;
  double (*value)(double);
  double (*derivative)(double);
} ACTIVATIONS[] = {
    {DACT_ACTIVATION_RELU, "relu", relu, relu_derivative},
    {DACT_ACTIVATION_SIGMOID, "sigmoid", sigmoid, sigmoid_derivative},
    {DACT_ACTIVATION_TANH, "tanh", tanh, tanh_derivative},
    {DACT_ACTIVATION_GELU, "gelu", gelu, gelu_derivative},
    {DACT_ACTIVATION_SILU, "silu", silu, silu_derivative},
};

enum { ACTIVATION_COUNT = sizeof ACTIVATIONS / sizeof *ACTIVATIONS };

#endif

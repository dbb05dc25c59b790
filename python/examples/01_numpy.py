"""One layer's activation in a training step, on numpy arrays.

pip install ./python && python python/examples/01_numpy.py
"""

import numpy as np

import drop_activation as da

x = np.linspace(-5, 5, 100, dtype=np.float32)
dy = np.ones_like(x)

# The paper's setting is p = 0.95: keep ReLU with this probability, else let the element through unchanged. A fresh
# mask takes another offset.
y, mask = da.forward(x, 0.95, seed=42, offset=0)
print(f"{(y < 0).sum()} of 50 negative elements passed through a dropped ReLU")
print(f"kept for the backward pass: {mask.nbytes} bytes for {x.size} elements")

# ReLU's backward pass needs the mask alone; the others take x again.
dx = da.backward(dy, mask)
y, mask = da.forward(x, 0.95, seed=42, offset=1, activation="silu")
dx = da.backward(dy, mask, x, activation="silu")

# In place: y over x.
y, mask = da.forward(x.copy(), seed=42, offset=2, out=x)
assert y is x

# At inference nothing is random.
print(f"inference: relu_p(-5) = {da.infer(np.float32([-5]))[0]}")

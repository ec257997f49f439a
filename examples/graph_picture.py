"""Pictures of a computation graph and of a network, written into the working directory.

The first is the lecture's: f = (x + y) max(y, z) at (1, 2, 0), with the value above each edge and the gradient below it. y is
used twice, so its gradient is the sum of what comes back along both edges: 2 + 3 = 5.
"""

from pathlib import Path

import backprop as bp

x, y, z = bp.tensor(1.0, name="x"), bp.tensor(2.0, name="y"), bp.tensor(0.0, name="z")
f = (x + y) * bp.maximum(y, z)
graph = bp.view.graph(f)

# Two inputs go through one shared encoder; two outputs.
left, right = bp.Input(32), bp.Input(32)
encoder = bp.Dense(16, "relu", name="encoder")
both = bp.concatenate([encoder(left), encoder(right)], axis=1)
hidden = bp.Dense(8, "tanh", name="hidden")(both)
net = bp.Network([left, right], [bp.Dense(3, name="classes")(hidden), bp.Dense(1, name="score")(hidden)])
boxes = bp.view.graph(net)

# A network of sigmoids whose first layers hardly learn, and its learning curve.
X, labels = bp.data.digits()
deep = bp.Sequential([bp.Input(X.shape[1]), *(bp.Dense(32, "sigmoid") for _ in range(6)), bp.Dense(10)])
recorder = bp.view.Gradients(every=5)
history = bp.Trainer(deep, optimizer=bp.Adam(1e-2), seed=0).fit(X, labels, epochs=12, batch_size=64, validation_fraction=0.2,
                                                               callbacks=[recorder])

for name, picture in [("graph", graph), ("network", boxes), ("curves", bp.view.curves(history)),
                      ("gradients", bp.view.gradients(recorder))]:
    path = Path(f"backprop-{name}.svg").absolute()
    picture.save(path)
    print(f"{picture.title}: {path}")
print(f"f = {f.item():g}, gradients {', '.join(f'{g.item():g}' for g in bp.grad(f, [x, y, z]))}")
print(net.summary())

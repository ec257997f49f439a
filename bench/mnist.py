"""MNIST side by side with PyTorch: ``python bench/mnist.py FOLDER [--seeds 3] [--epochs 5] [--no-torch]``.

784-256-128-10, ReLU, Adam 1e-3, batch 128, one thread; FOLDER holds the four IDX files. Prints the accuracy on the 10,000 test
digits for each seed and the means, and how long an epoch took in both (the two take turns, epoch by epoch).
"""

import argparse
import os
import statistics
import time
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--no-torch", action="store_true")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["BACKPROP_NUM_THREADS"] = "1"

    import backprop as bp

    def read(name):
        found = [p for p in (args.folder / name, args.folder / f"{name}.gz") if p.exists()]
        if not found:
            parser.error(f"{args.folder}: there is no {name} or {name}.gz in it")
        return bp.data.load_idx(found[0])

    X, y = read("train-images-idx3-ubyte").reshape(-1, 784) / 255.0, read("train-labels-idx1-ubyte")
    Xt, yt = read("t10k-images-idx3-ubyte").reshape(-1, 784) / 255.0, read("t10k-labels-idx1-ubyte")
    X, Xt, y, yt = X.astype("float32"), Xt.astype("float32"), y.astype("int64"), yt.astype("int64")

    if not args.no_torch:
        import torch
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        tX, ty, tXt = torch.from_numpy(X), torch.from_numpy(y), torch.from_numpy(Xt)
    results = {"backprop": [], "torch": []}
    seconds = {"backprop": [], "torch": []}
    for seed in range(args.seeds):
        net = bp.Sequential([bp.Input(784), bp.Dense(256, "relu"), bp.Dense(128, "relu"), bp.Dense(10)], seed=seed)
        trainer = bp.Trainer(net, loss="cross_entropy", optimizer=bp.Adam(1e-3), seed=seed)
        if not args.no_torch:
            torch.manual_seed(seed)
            model = torch.nn.Sequential(torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 128), torch.nn.ReLU(),
                                        torch.nn.Linear(128, 10))
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        for _ in range(args.epochs):
            start = time.perf_counter()
            trainer.fit(X, y, epochs=1, batch_size=128, progress=False)
            seconds["backprop"].append(time.perf_counter() - start)
            if args.no_torch:
                continue
            start = time.perf_counter()
            for batch in torch.randperm(len(tX)).split(128):
                optimizer.zero_grad(set_to_none=True)
                torch.nn.functional.cross_entropy(model(tX[batch]), ty[batch]).backward()
                optimizer.step()
            seconds["torch"].append(time.perf_counter() - start)
        results["backprop"].append(trainer.evaluate(Xt, yt)["accuracy"])
        if not args.no_torch:
            with torch.no_grad():
                results["torch"].append(float((model(tXt).argmax(1).numpy() == yt).mean()))
    for name, values in results.items():
        if values:
            print(f"{name:9} test accuracy {', '.join(f'{v:.4f}' for v in values)}; mean {statistics.mean(values):.4f}; "
                  f"epoch {statistics.median(seconds[name]):.3f} s (median)")
    if results["torch"]:
        print(f"difference of the means {abs(statistics.mean(results['backprop']) - statistics.mean(results['torch'])):.4f}; "
              f"epoch ratio {statistics.median(seconds['torch']) / statistics.median(seconds['backprop']):.2f}x")


if __name__ == "__main__":
    main()
